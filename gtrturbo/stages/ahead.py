"""Which checkpoints a teacher may move to: those that were measured ahead of the one it stands at when they played."""

from collections.abc import Sequence
from pathlib import Path

from gtrturbo.config.games import without_folders
from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import Manifest, read_manifest

# As many replies may be illegal where fewer were before: one in twenty.
SAFE = 0.05


def only_ahead(base: Path, checkpoints: Sequence[Path], rollouts: Sequence[Path]) -> tuple[Path, ...]:
    """Choose the checkpoints that were ahead, oldest first: a teacher of them moves on evidence, not by the clock.

    A checkpoint is ahead if its episodes returned more than those of the last one that was, the base to begin with, and its
    replies are as safe: no larger a share of them is illegal, or at most `SAFE`.

    Args:
        base: what the teacher is before any is ahead.
        checkpoints: oldest first.
        rollouts: turns that they and the base played, in any order.

    Raises:
        GtrTurboError: turns of none of them, twice of one, or none of the base; or of several tasks.

    Source: consolidation-gated teacher refresh (arXiv 2606.03532), whose gate is a better reward and a safe tail of lengths.
    """
    played = _played(rollouts)
    listed = [artifact_id(path) for path in (base, *checkpoints)]
    if strange := next((path for player, (path, _) in played.items() if player not in listed), None):
        raise GtrTurboError(f"{strange} was played by none of the checkpoints, nor by their base.", "leave it out.")
    if listed[0] not in played:
        raise GtrTurboError(
            f"none of the turns was played by {base}, and the others are measured by it.",
            "add the rollout of it: --ahead ROLLOUT",
        )
    level = played[listed[0]][1].metrics
    ahead: list[Path] = []
    for path, identity in zip(checkpoints, listed[1:], strict=True):
        if identity not in played:
            stderr.print(f"{path} has not played, so it is not merged.", style="yellow", soft_wrap=True)
            continue
        found = played[identity][1].metrics
        safe = found["illegal_rate"] <= max(level["illegal_rate"], SAFE)
        if found["return_mean"] > level["return_mean"] and safe:
            ahead.append(path)
            level = found
    return tuple(ahead)


def _played(rollouts: Sequence[Path]) -> dict[str, tuple[Path, Manifest]]:
    """Read who played turns, by id."""
    found: dict[str, tuple[Path, Manifest]] = {}
    for path in rollouts:
        manifest = read_manifest(path, "turns")
        player = manifest.inputs.get("checkpoint")
        if not isinstance(player, str):
            raise GtrTurboError(f"{path} was not played by a checkpoint.", "leave it out.")
        if not {"return_mean", "illegal_rate"} <= manifest.metrics.keys():
            raise GtrTurboError(f"{path} does not say what its episodes returned.", "play again: gtrturbo rollout …")
        if player in found:
            raise GtrTurboError(f"{found[player][0]} and {path} were played by the same checkpoint.", "leave one out.")
        first = next(iter(found.values()), None)
        for name in ("task", "env"):
            if first and _played_on(manifest)[name] != _played_on(first[1])[name]:
                raise GtrTurboError(f"{path} was played on another {name} than {first[0]}.", "compare what is of one task.")
        found[player] = (path, manifest)
    return found


def _played_on(manifest: Manifest) -> dict[str, object]:
    task = manifest.config["task"]
    return {"task": task, "env": without_folders(task, manifest.config["env"])}
