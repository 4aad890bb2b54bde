"""A merge of tensors in memory: the same loops, rules and bytes as for folders, without files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Buffer, Parameter

from gtrturbo.config.fields import check, fields, parse
from gtrturbo.config.merging import MergeConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.engine import Merge
from gtrturbo.merging.global_trim import bounds_of, with_global_thresholds
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.parameters import parse_parameters
from gtrturbo.merging.plan import MergeSettings, make_plan
from gtrturbo.merging.rearranged import Held
from gtrturbo.merging.sources import SPOT, TILE, Sources, Target, in_whole_rows
from gtrturbo.merging.stream import combiners, kernel_of, measured, seeds_of
from gtrturbo.merging.workers import default_threads
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import BITS, Layout, TensorEntry

Tensors = Mapping[str, Tensor]
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PLAIN = (Tensor, Parameter, Buffer)
MEMORY = Path("memory")


def merge_tensors(
    base: Mapping[str, Tensor | np.ndarray] | None,
    checkpoints: Iterable[Mapping[str, Tensor | np.ndarray]],
    rule: str | MergeRule | Callable[..., Tensor] = "ties",
    *,
    weights: str | Iterable[float] = "sma",
    density: float | Iterable[float] = 0.8,
    gamma: float = 0.01,
    parameters: Mapping[str, Any] | None = None,
    trim: str = "tensor",
    scale: float = 1.0,
    normalize: bool | None = None,
    saturate: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts around their base; names, ranges and defaults are those of `gtrturbo merge`.

    Args:
        base: θ₀; None where the rule merges whole weights, such as slerp or linear.
        checkpoints: θᵢ, oldest first, of the base's names, shapes and kinds of types; arrays of numpy do as tensors.
        rule: a name of `gtrturbo merge --method`, or a rule of your own.
        parameters: of the rule's own, such as {"epsilon": 0.1}.

    Returns: a tensor for each of the base's, of its type, on the CPU. What is no floating-point number is the base's.

    Raises:
        GtrTurboError: names, shapes or types that differ, a NaN, tensors without plain numbers in memory (meta, sparse,
            quantised, distributed), or settings that do not fit the rule.
    """
    states = _states(checkpoints)
    lead = states[0] if base is None else _state("the base", base)
    chosen = _as_the_command(
        weights=weights, density=density, gamma=gamma, trim=trim, scale=scale, normalize=normalize, saturate=saturate, seed=seed,
        threads=threads, parameters=[f"{key}={_text(value)}" for key, value in _named(parameters).items()],
    )  # fmt: skip
    settings = MergeSettings(
        method=rule,
        weights=chosen.pop("weights"),
        density=chosen.pop("density"),
        scale=chosen.pop("scale"),
        normalize=chosen.pop("normalize"),
        gamma=chosen.pop("gamma"),
        own=parse_parameters(chosen.pop("parameters")),
        trim=chosen.pop("trim"),
    )
    return _merged(settings, lead, states, borrowed=base is None, **chosen)


def _merged(
    settings: MergeSettings,
    lead: Tensors,
    checkpoints: list[Tensors],
    *,
    borrowed: bool,
    saturate: bool,
    seed: int,
    threads: int | None,
) -> dict[str, Tensor]:
    plan = make_plan(settings, len(checkpoints), borrowed=borrowed)
    if borrowed and plan.method.needs_base:
        raise GtrTurboError(f"{plan.name} needs a base.", "give the tensors that the checkpoints were trained from.")
    for number, checkpoint in enumerate(checkpoints, 1):
        _require_alike(lead, checkpoint, number)
    if not any(value.dtype in TYPES and value.numel() for value in lead.values()):
        raise GtrTurboError("there is nothing to merge: the base holds no floating-point numbers.", f"give {_any_of_types()}.")
    merged = {name: value.to("cpu", copy=True) for name, value in lead.items()}
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
    merge.range.saturate = saturate
    merge.sink = lambda entry, offset, data: _put(flat[entry.name], offset // entry.width, data)
    merge.run(count)
    return merged


def _put(values: np.ndarray, first: int, data: np.ndarray) -> None:
    values[first : first + len(data)] = data


def _as_the_command(**settings: Any) -> dict[str, Any]:
    """Read settings as the command reads its options: of the same kinds, in the same ranges."""
    known = {field.name: field for field in fields(MergeConfig)}
    listed = ("weights", "density")
    written = {name: _text(value) if name in listed else value for name, value in settings.items()}
    found = {name: parse(known[name], value) for name, value in written.items()}
    for name, value in found.items():
        check(known[name], value)
    return found


def _text(value: Any) -> str:
    """Write a number, or several, as on the command line."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value
    listed = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    return ",".join(str(each.item() if isinstance(each, np.generic | Tensor) else each) for each in listed)


def _named(parameters: Any) -> Mapping[str, Any]:
    if parameters is not None and not isinstance(parameters, Mapping):
        raise GtrTurboError(
            f"parameters are of type {type(parameters).__name__}, not values by name.", 'for example: {"epsilon": 0.1}'
        )
    return parameters or {}


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
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.require(value, requirements="CW"))
        except (TypeError, ValueError):
            raise GtrTurboError(f"{what} is an array of {value.dtype}, which torch does not have.", _OF_NUMBERS) from None
    if type(value) not in PLAIN:
        raise GtrTurboError(f"{what} is of type {type(value).__name__}, no plain tensor.", _OF_NUMBERS)
    if value.is_nested or value.is_quantized or value.layout != torch.strided or value.is_meta:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else value.layout
        raise GtrTurboError(
            f"{what} holds no plain numbers: it is {'on the meta device' if value.is_meta else kind}.", _OF_NUMBERS
        )
    return value.detach()


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
