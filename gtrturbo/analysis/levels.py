"""What playing by chance achieves, as an evaluation measured it, and what a run counts with once it collapsed."""

from collections.abc import Mapping

# Who plays by chance: random actions, and always the best single one (`gtrturbo.tasks.chance`).
PLAYERS = ("random", "constant")
# What is said of the picture by who says nothing that is legal.
MUTE = {"illegal_rate": 1.0, "thought_accuracy": 0.0}


def chance_level(metrics: Mapping[str, float]) -> float | None:
    """Return success by chance, the higher of random actions and the best single one; None where neither was measured.

    Args:
        metrics: of an evaluation, with `chance_random` and `chance_constant` in [0, 1].
    """
    return max((metrics[f"chance_{name}"] for name in PLAYERS if f"chance_{name}" in metrics), default=None)


def as_chance(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a run counts with from its collapse on: success by chance, the mean return of who achieves it, and no word.

    Of two that win as often the higher return counts. No reply is legal, and none reads the picture truly.

    Args:
        metrics: of an evaluation of the run.

    Returns: `success_rate`, `return_mean`, `illegal_rate` and `thought_accuracy`, those of them that were measured; nothing where
        chance was not.
    """
    level = chance_level(metrics)
    if level is None:
        return {}
    best = [name for name in PLAYERS if metrics.get(f"chance_{name}") == level]
    returns = [metrics[f"chance_{name}_return"] for name in best if f"chance_{name}_return" in metrics]
    counted = {"success_rate": level} | ({"return_mean": max(returns)} if returns else {})
    return counted | {name: value for name, value in MUTE.items() if name in metrics}


def level_said(chance: float | None) -> str:
    """Write a chance level of success."""
    return "chance not measured" if chance is None else f"chance {chance:.3f}"
