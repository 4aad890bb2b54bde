"""What a run may throw away, once no later step reads it: weights of old teachers, what they scored, states of old optimisers.

The manifests stay, so ids stay valid and a run that is started again finds its finished stages finished.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gtrturbo.config import DistillConfig, MergeConfig, PpoStepConfig, RunConfig
from gtrturbo.play.teachers import find_mode
from gtrturbo.stages import read_by
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import OPTIMIZER, SCORES

WEIGHTS = ".safetensors"


def keeping(config: RunConfig) -> dict[str, int | None]:
    """Return what a run keeps, as `schedule` takes it."""
    return {name: getattr(config, name) for name in ("keep_teachers", "keep_guidance", "keep_optimizers")}


def schedule(
    configs: Sequence[Any], *, keep_teachers: int | None, keep_optimizers: int | None, keep_guidance: int | None = None
) -> dict[int, list[Any]]:
    """Say after which step of a plan the files of which earlier ones may go.

    Args:
        configs: of all steps of the plan, in order.
        keep_teachers, keep_optimizers, keep_guidance: how many of the newest stay in any case; None keeps all.

    Returns: by position in the plan, the configs of the steps whose `leftovers` go when that position is done.
    """
    last_read = {path: position for position, config in enumerate(configs) for path in read_by(config)}
    # Of all stages only ppo-step goes on from an optimiser's state, and only from that of the checkpoint that it updates.
    continued = {config.checkpoint: at for at, config in enumerate(configs) if isinstance(config, PpoStepConfig)}
    due: dict[int, list[Any]] = {}
    kept = (
        (lambda config: isinstance(config, MergeConfig), keep_teachers, last_read),
        (writes_scores, keep_guidance, last_read),
        (lambda config: isinstance(config, PpoStepConfig), keep_optimizers, continued),
    )
    for counts, keep, readers in kept:
        for position, config in _superseded(configs, counts, keep):
            due.setdefault(max(position, readers.get(config.out, 0)), []).append(config)
    return due


def writes_scores(config: Any) -> bool:
    """Tell whether a step writes what --keep-guidance counts: a teacher's log-probs, and no demos."""
    return isinstance(config, DistillConfig) and find_mode(config.mode).writes == "scores"


def _superseded(configs: Sequence[Any], counts: Callable[[Any], bool], keep: int | None) -> Iterator[tuple[int, Any]]:
    """Yield each step that counts and has `keep` newer ones, with the position of the one that made it superfluous."""
    if keep is None:
        return
    made = [position for position, config in enumerate(configs) if counts(config)]
    yield from ((newer, configs[older]) for older, newer in zip(made, made[keep:], strict=False))


def leftovers(config: Any) -> list[str]:
    """Name the files of a finished step that pruning removes: a teacher's weights, its scores, a checkpoint's optimiser state."""
    files = read_manifest(config.out).files
    if isinstance(config, MergeConfig):
        return [name for name in files if name.endswith(WEIGHTS)]
    if isinstance(config, DistillConfig):
        return [name for name in files if name == SCORES]
    return [name for name in files if name.startswith(OPTIMIZER)]
