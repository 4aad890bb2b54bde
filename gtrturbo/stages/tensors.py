"""`gtrturbo.merge_tensors`: a merge of state dicts in memory, with the names, ranges and defaults of `gtrturbo merge`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gtrturbo.config.fields import check, fields, parse
from gtrturbo.config.merging import MergeConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.in_memory import merge_in_memory
from gtrturbo.merging.method import MergeRule
from gtrturbo.merging.methods import require_chance
from gtrturbo.merging.parameters import parse_parameters
from gtrturbo.merging.plan import MergeSettings


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
    chosen = _as_the_command(
        weights=weights, density=density, gamma=gamma, trim=trim, scale=scale, normalize=normalize, saturate=saturate, seed=seed,
        threads=threads, parameters=[f"{key}={_text(value)}" for key, value in _named(parameters).items()],
    )  # fmt: skip
    require_chance(rule, seed)
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
    return merge_in_memory(settings, base, checkpoints, **chosen)


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
