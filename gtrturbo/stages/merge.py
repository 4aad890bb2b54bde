"""merge: checkpoints around their base into one teacher, tensor by tensor.

Task vectors are dense: θ − θ_base for full weights, scale·B·A for LoRA. Merging A and B apart would merge something else.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gtrturbo.algorithms.ties import (
    Agreement,
    apply_task_vector,
    compare,
    linear,
    merge_weights,
    task_vector,
    ties,
)
from gtrturbo.artifacts import SAFETENSORS_METADATA, Draft, Result, writing
from gtrturbo.config import MergeConfig
from gtrturbo.console import progress_bar
from gtrturbo.errors import GtrTurboError
from gtrturbo.lineage import with_base
from gtrturbo.models.checkpoint import (
    base_of,
    copy_checkpoint,
    copy_renderer,
    is_adapter,
    load_model,
    point_to_base,
    rebased,
    save_model,
)
from gtrturbo.models.processor import renderer_hash
from gtrturbo.models.weights import INDEX, Adapter, Weights, require_finite
from gtrturbo.stages import done, provenance


def run(config: MergeConfig) -> Result:
    """Write the merged checkpoint; full weights also where adapters are merged, since their TIES is not of low rank."""
    config = with_base(config)
    assert config.base is not None
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        if not config.checkpoints:
            copy_checkpoint(config.base, draft.folder)
            if is_adapter(config.base):
                point_to_base(draft.folder, rebased(config.base, config.out))
            agreement = Agreement()
        elif adapters := [path for path in config.checkpoints if is_adapter(path)]:
            if len(adapters) < len(config.checkpoints):
                full = next(path for path in config.checkpoints if path not in adapters)
                raise GtrTurboError(f"{adapters[0]} is a LoRA adapter and {full} has full weights.", "merge one kind at a time.")
            agreement = _merge_adapters(config, config.base, draft)
        else:
            if is_adapter(config.base):
                raise GtrTurboError(f"the base {config.base} is a LoRA adapter, the checkpoints have full weights.")
            agreement = _merge_full(config, config.base, draft)
        draft.renderer = renderer_hash(draft.folder)
        draft.metrics = _metrics(agreement, len(config.checkpoints))
    return done(draft)


def _metrics(agreement: Agreement, checkpoints: int) -> dict[str, float]:
    """norm_ratio: ‖ΔW_merged‖ / ‖mean ΔW‖; cosine: between the two. Both 1 where there was nothing to merge."""
    moved = agreement.mean_square > 0 and agreement.merged_square > 0
    return {
        "checkpoints": checkpoints,
        "delta_norm": agreement.merged_square**0.5,
        "mean_delta_norm": agreement.mean_square**0.5,
        "norm_ratio": agreement.ratio if moved else 1.0,
        "cosine": agreement.cosine if moved else 1.0,
    }


def merge_task_vectors(vectors: Sequence[Tensor], *, method: str, weights: Sequence[float], density: float) -> Tensor:
    """Merge one tensor's task vectors by the method's name."""
    if method == "linear":
        return linear(vectors, weights=weights)
    return ties(vectors, weights=weights, density=density)


def _merge_full(config: MergeConfig, base: Path, draft: Draft) -> Agreement:
    copy_checkpoint(base, draft.folder)
    source, others = Weights.find(base), [Weights.find(path) for path in config.checkpoints]
    for other in others:
        _require_same_names(source, other)
    weights = merge_weights(config.weights, len(others))
    agreement = Agreement()
    with progress_bar("merge", len(source.files)) as bar:
        for file, names in source.shards().items():
            merged: dict[str, Tensor] = {}
            for name in names:
                merged[name], part = _merge_tensor(config, name, source, others, weights)
                agreement = agreement.add(part)
                bar.advance()
            save_file(merged, draft.folder / file, SAFETENSORS_METADATA)
    if (base / INDEX).is_file():
        shutil.copyfile(base / INDEX, draft.folder / INDEX)
    return agreement


def _require_same_names(base: Weights, other: Weights) -> None:
    extra, missing = sorted(other.files.keys() - base.files.keys()), sorted(base.files.keys() - other.files.keys())
    for names, relation in ((extra, "that the base lacks"), (missing, "fewer than the base")):
        if names:
            raise GtrTurboError(
                f"checkpoint {other.folder} has {len(names)} tensors {relation} (first: {names[0]}).",
                "merge needs checkpoints of one base.",
            )


def _merge_tensor(
    config: MergeConfig, name: str, base: Weights, others: list[Weights], weights: list[float]
) -> tuple[Tensor, Agreement]:
    original = base.read(name)
    if not original.is_floating_point():
        return original, Agreement()
    require_finite(original, name, base.folder)
    vectors = []
    for other in others:
        tensor = other.read(name)
        if tensor.shape != original.shape:
            shapes = f"{list(tensor.shape)}, in the base {list(original.shape)}"
            raise GtrTurboError(f"{name} in {other.folder} has shape {shapes}.", "merge needs checkpoints of one base.")
        vectors.append(task_vector(require_finite(tensor, name, other.folder), original))
    return _apply(config, original, vectors, weights)


def _apply(config: MergeConfig, original: Tensor, vectors: list[Tensor], weights: list[float]) -> tuple[Tensor, Agreement]:
    merged = merge_task_vectors(vectors, method=config.method, weights=weights, density=config.density)
    agreement = compare(merged * config.scale, linear(vectors, weights=weights))
    return apply_task_vector(original, merged, scale=config.scale).contiguous(), agreement


@torch.no_grad()
def _merge_adapters(config: MergeConfig, base: Path, draft: Draft) -> Agreement:
    """Merge dense ΔW into the model under the adapters; a base that is an adapter itself counts with its own ΔW."""
    adapters = [Adapter.load(path) for path in config.checkpoints]
    start = Adapter.load(base) if is_adapter(base) else None
    _require_one_base(config.checkpoints, base)
    for adapter in adapters[1:] + ([start] if start else []):
        if adapter.factors.keys() != adapters[0].factors.keys():
            odd = sorted(adapter.factors.keys() ^ adapters[0].factors.keys())[0]
            raise GtrTurboError(f"{adapter.folder} adapts other modules than {adapters[0].folder} (first: {odd}).")
    model = load_model(Path(base_of(base)) if start else base)
    weights = merge_weights(config.weights, len(adapters))
    agreement = Agreement()
    with progress_bar("merge", len(adapters[0].factors)) as bar:
        for module in adapters[0].factors:
            weight = require_finite(model.get_submodule(module).weight, module, Path(base_of(base) if start else base))
            origin = start.delta(module) if start else torch.zeros_like(weight, dtype=torch.float32)
            deltas = [require_finite(adapter.delta(module), module, adapter.folder) for adapter in adapters]
            at_start = (weight.float() + origin).to(weight.dtype)
            merged, part = _apply(config, at_start, [task_vector(delta, origin) for delta in deltas], weights)
            weight.copy_(merged)
            agreement = agreement.add(part)
            bar.advance()
    save_model(model, draft.folder)
    copy_renderer(base, draft.folder)
    return agreement


def _require_one_base(checkpoints: Iterable[Path], base: Path) -> None:
    expected = _resolved(base_of(base)) if is_adapter(base) else _resolved(str(base))
    for path in checkpoints:
        if _resolved(base_of(path)) != expected:
            raise GtrTurboError(f"{path} adapts {base_of(path)}, not {expected}.", "merge needs checkpoints of one base.")


def _resolved(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model
