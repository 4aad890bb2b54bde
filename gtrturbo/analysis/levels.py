"""What playing by chance achieves, as an evaluation measured it, and what a run counts with once it collapsed."""

from collections.abc import Mapping

# Who plays by chance: random actions, and always the best single one (`gtrturbo.tasks.chance`).
PLAYERS = ("random", "constant")


def chance_level(metrics: Mapping[str, float]) -> float | None:
    """Return success by chance, the higher of random actions and the best single one; None where neither was measured.

    Args:
        metrics: of an evaluation, with `chance_random` and `chance_constant` in [0, 1].
    """
    return max((metrics[f"chance_{name}"] for name in PLAYERS if f"chance_{name}" in metrics), default=None)


def as_chance(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a run counts with from its collapse on: success by chance, and the mean return of who achieves it.

    Of two that win as often the higher return counts. Thoughts and illegal replies have no such level: nothing is said of them.

    Args:
        metrics: of an evaluation of the run.

    Returns: `success_rate` and `return_mean`, where they were measured.
    """
    level = chance_level(metrics)
    if level is None:
        return {}
    best = [name for name in PLAYERS if metrics.get(f"chance_{name}") == level]
    returns = [metrics[f"chance_{name}_return"] for name in best if f"chance_{name}_return" in metrics]
    return {"success_rate": level} | ({"return_mean": max(returns)} if returns else {})


def level_said(chance: float | None) -> str:
    """Write a chance level of success."""
    return "chance not measured" if chance is None else f"chance {chance:.3f}"
