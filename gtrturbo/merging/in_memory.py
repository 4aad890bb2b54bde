"""A merge of tensors in memory: the same loops, rules and bytes as for folders, without files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Buffer, Parameter

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.engine import Merge
from gtrturbo.merging.global_trim import bounds_of, with_global_thresholds
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.rearranged import Held
from gtrturbo.merging.sources import SPOT, TILE, Sources, Target, drawn_once, in_whole_rows
from gtrturbo.merging.stream import combiners, kernel_of, measured, seeds_of
from gtrturbo.merging.workers import default_threads
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import BITS, Layout, TensorEntry

Tensors = Mapping[str, Tensor]
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PLAIN_TENSORS = (Tensor, Parameter, Buffer)
MEMORY = Path("memory")


def merge_in_memory(
    settings: MergeSettings,
    base: Any,
    checkpoints: Any,
    *,
    saturate: bool,
    seed: int,
    threads: int | None,
) -> dict[str, Tensor]:
    """Merge state dicts; see `gtrturbo.merge_tensors`.

    Raises:
        GtrTurboError: they are no state dicts of one model, hold no plain numbers, or do not go with the settings.
    """
    checkpoints, borrowed = _states(checkpoints), base is None
    lead = checkpoints[0] if borrowed else _state("the base", base)
    plan = make_plan(settings, len(checkpoints), borrowed=borrowed)
    if borrowed and plan.method.needs_base:
        raise GtrTurboError(f"{plan.name} needs a base.", "give the tensors that the checkpoints were trained from.")
    for number, checkpoint in enumerate(checkpoints, 1):
        _require_alike(lead, checkpoint, number)
    if not any(value.dtype in TYPES and value.numel() for value in lead.values()):
        raise GtrTurboError("there is nothing to merge: the base holds no floating-point numbers.", f"give {_any_of_types()}.")
    merged = {name: value.to("cpu", copy=True, memory_format=torch.contiguous_format) for name, value in lead.items()}
    targets = [
        _target(name, value, checkpoints, whole=plan.whole, vectors=plan.method.needs_vectors) for name, value in lead.items()
    ]
    layout = Layout(MEMORY, {}, {})
    sources = in_whole_rows(Sources(layout, tuple(each for each in targets if each), (), (), ()), plan)
    sources = drawn_once(sources, plan)
    kernel, files, seeds = kernel_of("cpu"), Files(), seeds_of(plan, seed)
    count = threads or default_threads()
    known = {}
    if plan.trim == "global" and plan.measures == "ranks":
        plan = with_global_thresholds(plan, sources, kernel, files, threads=count)
        known = bounds_of(plan, sources)
    flat = {target.name: _flat(merged[target.name]) for target in sources.targets}
    merge = Merge(plan, sources, kernel, combiners(kernel, "cpu"), files, MEMORY, seeds, known)
    merge.measurer = lambda target, each: measured(target, each, kernel=kernel, files=files, seeds=seeds, device="cpu")
    merge.range.saturate = saturate
    merge.sink = lambda entry, offset, data: _put(flat[entry.name], offset // entry.width, data)
    merge.run(count)
    return merged


def _put(values: np.ndarray, first: int, data: np.ndarray) -> None:
    values[first : first + len(data)] = data


def _states(checkpoints: Any) -> list[Tensors]:
    if isinstance(checkpoints, Mapping | str | bytes) or not isinstance(checkpoints, Iterable | None):
        raise GtrTurboError(
            f"checkpoints are of type {type(checkpoints).__name__}, not a list of dictionaries of tensors.",
            "give a list, also of one: [model.state_dict()].",
        )
    states = [_state(f"checkpoint {number}", each) for number, each in enumerate(checkpoints or (), 1)]
    if not states:
        raise GtrTurboError("there is nothing to merge: no checkpoints.", "give one at least.")
    return states


def _state(what: str, state: Any) -> Tensors:
    if not isinstance(state, Mapping):
        raise GtrTurboError(
            f"{what} is of type {type(state).__name__}, not a dictionary of tensors by name.", "give model.state_dict()."
        )
    return {_name(what, name): _tensor(f"{name} of {what}", value) for name, value in state.items()}


def _name(what: str, name: Any) -> str:
    if not isinstance(name, str):
        raise GtrTurboError(f"{what} has a tensor called {name!r}, which is no text.", "give model.state_dict().")
    return name


def _tensor(what: str, value: Any) -> Tensor:
    """Take a tensor whose numbers lie in memory one after another, or an array of numpy."""
    if isinstance(value, np.ma.MaskedArray):
        raise GtrTurboError(f"{what} is a masked array, whose mask a merge would drop.", "give an array: .filled(VALUE).")
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.require(value, requirements=["C", "W"]).reshape(value.shape))
        except (TypeError, ValueError):
            raise GtrTurboError(
                f"{what} is an array of {value.dtype}, which torch does not have.", 'give one that it has: .astype("f4").'
            ) from None
    if type(value) not in PLAIN_TENSORS:
        raise GtrTurboError(f"{what} is of type {type(value).__name__}, no plain tensor.", _OF_NUMBERS)
    if value.is_nested or value.is_quantized or value.layout != torch.strided or value.is_meta:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else value.layout
        raise GtrTurboError(
            f"{what} holds no plain numbers: it is {'on the meta device' if value.is_meta else kind}.", _OF_NUMBERS
        )
    return value.detach().resolve_conj().resolve_neg()


_OF_NUMBERS = "give tensors of numbers: .to_dense() of sparse, .dequantize() of quantised, .full_tensor() of distributed ones."


def _any_of_types() -> str:
    return ", ".join(str(kind).removeprefix("torch.") for kind in TYPES)


def _require_alike(lead: Tensors, other: Tensors, number: int) -> None:
    if odd := sorted(lead.keys() ^ other.keys()):
        raise GtrTurboError(f"checkpoint {number} has other tensors than the base (first: {odd[0]}).", "give those of one base.")
    for name, value in lead.items():
        if other[name].shape != value.shape:
            what = f"{name} of checkpoint {number} has shape {list(other[name].shape)}, in the base {list(value.shape)}."
            raise GtrTurboError(what, "give those of one base.")
        if other[name].dtype != value.dtype and not {other[name].dtype, value.dtype} <= TYPES.keys():
            what = f"{name} of checkpoint {number} is of type {other[name].dtype}, in the base {value.dtype}."
            raise GtrTurboError(what, f"give {_any_of_types()}.")
        if value.dtype not in TYPES and not torch.equal(value.cpu(), other[name].cpu()):
            raise GtrTurboError(f"{name} of checkpoint {number} differs, and {value.dtype} cannot be merged.", "leave it out.")


def _target(name: str, value: Tensor, checkpoints: list[Tensors], *, whole: bool, vectors: bool) -> Target | None:
    if value.dtype not in TYPES or not value.numel():
        return None
    kind = TYPES[value.dtype]
    entry = TensorEntry(name, MEMORY, kind, tuple(value.shape), 0, value.numel() * BITS[kind] // 8)
    parts = tuple(Held(_flat(checkpoint[name].cpu()), whole) for checkpoint in checkpoints)
    return Target(entry, Held(_flat(value.cpu())), parts, min(TILE, SPOT) if vectors else TILE)


def _flat(tensor: Tensor) -> np.ndarray:
    """The entries as a tile holds them: uint16 stands for bfloat16. It shares the memory of a contiguous tensor."""
    flat = tensor.contiguous().view(-1)
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()
