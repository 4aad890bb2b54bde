"""A merge of tensors in memory: the same loops, rules and bytes as for folders, without files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.engine import Merge
from gtrturbo.merging.global_trim import bounds_of, with_global_thresholds
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.rearranged import Held
from gtrturbo.merging.sources import SPOT, TILE, Sources, Target, in_whole_rows
from gtrturbo.merging.stream import combiners, kernel_of, measured, seeds_of
from gtrturbo.merging.workers import default_threads
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import BITS, Layout, TensorEntry

Tensors = Mapping[str, Tensor]
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
MEMORY = Path("memory")


def merge_tensors(
    base: Tensors | None,
    checkpoints: Sequence[Tensors],
    rule: str | MergeRule | Callable[..., Tensor] = "ties",
    *,
    weights: str | Sequence[float] = "sma",
    density: float | Sequence[float] = 0.8,
    gamma: float = 0.01,
    parameters: Mapping[str, Any] | None = None,
    trim: str = "tensor",
    scale: float = 1.0,
    normalize: bool | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts around their base; names and defaults are those of `gtrturbo merge`.

    Args:
        base: θ₀; None where the rule merges whole weights, such as slerp or linear.
        checkpoints: θᵢ, oldest first, of the base's names, shapes and kinds of types.
        rule: a name of `gtrturbo merge --method`, or a rule of your own.
        parameters: of the rule's own, such as {"epsilon": 0.1}.

    Returns: a tensor for each of the base's, of its type, on the CPU. What is no floating-point number is the base's.

    Raises:
        GtrTurboError: names, shapes or types that differ, a NaN, or settings that do not fit the rule.
    """
    if not checkpoints:
        raise GtrTurboError("there is nothing to merge: no checkpoints.", "give one at least.")
    lead = checkpoints[0] if base is None else base
    settings = MergeSettings(
        method=rule,
        weights=_text(weights),
        density=_text(density),
        scale=scale,
        normalize=normalize,
        gamma=gamma,
        own=dict(parameters or {}),
        trim=trim,  # type: ignore[arg-type]
    )
    plan = make_plan(settings, len(checkpoints), borrowed=base is None)
    if base is None and plan.method.needs_base:
        raise GtrTurboError(f"{plan.name} needs a base.", "give the tensors that the checkpoints were trained from.")
    for number, checkpoint in enumerate(checkpoints, 1):
        _require_alike(lead, checkpoint, number)
    merged = {name: value.detach().to("cpu", copy=True) for name, value in lead.items()}
    targets = [
        _target(name, value, checkpoints, whole=plan.whole, vectors=plan.method.needs_vectors) for name, value in lead.items()
    ]
    layout = Layout(MEMORY, {}, {})
    sources = in_whole_rows(Sources(layout, tuple(each for each in targets if each), (), (), ()), plan)
    kernel, files, seeds = kernel_of("cpu"), Files(), seeds_of(plan, seed)
    count = threads or default_threads()
    known = {}
    if plan.trim == "global" and plan.measures == "ranks":
        plan = with_global_thresholds(plan, sources, kernel, files, threads=count)
        known = bounds_of(plan, sources)
    flat = {target.name: _flat(merged[target.name]) for target in sources.targets}
    merge = Merge(plan, sources, kernel, combiners(kernel, "cpu"), files, MEMORY, seeds, known)
    merge.measurer = lambda target, each: measured(target, each, kernel=kernel, files=files, seeds=seeds, device="cpu")
    merge.sink = lambda entry, offset, data: _put(flat[entry.name], offset // entry.width, data)
    merge.run(count)
    return merged


def _put(values: np.ndarray, first: int, data: np.ndarray) -> None:
    values[first : first + len(data)] = data


def _text(value: str | float | Sequence[float]) -> str:
    return value if isinstance(value, str) else ",".join(map(repr, value)) if isinstance(value, Sequence) else repr(value)


def _require_alike(lead: Tensors, other: Tensors, number: int) -> None:
    if odd := sorted(lead.keys() ^ other.keys()):
        raise GtrTurboError(f"checkpoint {number} has other tensors than the base (first: {odd[0]}).", "give those of one base.")
    for name, value in lead.items():
        if other[name].shape != value.shape:
            what = f"{name} of checkpoint {number} has shape {list(other[name].shape)}, in the base {list(value.shape)}."
            raise GtrTurboError(what, "give those of one base.")
        if value.dtype in TYPES and other[name].dtype not in TYPES:
            raise GtrTurboError(f"{name} of checkpoint {number} is of type {other[name].dtype}.", "give floating-point numbers.")
        if value.dtype not in TYPES and not torch.equal(value.cpu(), other[name].cpu()):
            raise GtrTurboError(f"{name} of checkpoint {number} differs, and {value.dtype} cannot be merged.", "leave it out.")


def _target(name: str, value: Tensor, checkpoints: Sequence[Tensors], *, whole: bool, vectors: bool) -> Target | None:
    if value.dtype not in TYPES or not value.numel():
        return None
    kind = TYPES[value.dtype]
    entry = TensorEntry(name, MEMORY, kind, tuple(value.shape), 0, value.numel() * BITS[kind] // 8)
    parts = tuple(Held(_flat(checkpoint[name].detach().cpu()), whole) for checkpoint in checkpoints)
    return Target(entry, Held(_flat(value.detach().cpu())), parts, min(TILE, SPOT) if vectors else TILE)


def _flat(tensor: Tensor) -> np.ndarray:
    """The entries as a tile holds them: uint16 stands for bfloat16. It shares the memory of a contiguous tensor."""
    flat = tensor.contiguous().view(-1)
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()
