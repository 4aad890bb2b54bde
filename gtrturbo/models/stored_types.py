"""Types of a model's weights on disk, beside those that they get in memory."""

from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from safetensors import safe_open

from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.names import MODEL_INDEX, MODEL_WEIGHTS
from gtrturbo.store.weight_files import weights_of

FLOAT_TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
OFFERED = (torch.bfloat16, torch.float32)  # those of --dtype, the narrower one first


def stored_types(folder: Path | None) -> dict[str, torch.dtype]:
    """Tell of each tensor of numbers with a point in which type it is stored; nothing of pickles, and of what is not here."""
    if folder is None or not any((folder / name).is_file() for name in (MODEL_WEIGHTS, MODEL_INDEX)):
        return {}
    found: dict[str, torch.dtype] = {}
    for name in weights_of(folder).files:
        with safe_open(folder / name, framework="numpy") as file:
            types = {tensor: file.get_slice(tensor).get_dtype() for tensor in file.keys()}  # noqa: SIM118 - it is no mapping
        found |= {tensor: FLOAT_TYPES[dtype] for tensor, dtype in types.items() if dtype in FLOAT_TYPES}
    return found


def auto_type(architecture: Any, folder: Path | None) -> torch.dtype:
    """Return the type in which transformers loads a model of which none is asked for: its config's, else its first tensor's.

    Source: transformers 5, `modeling_utils._get_dtype`.
    """
    return architecture.dtype or next(iter(stored_types(folder).values()), torch.float32)


def tell_narrowed(name: str, folder: Path | None, model: Any) -> None:
    """Say which weights of a model have less room in memory than on disk, though nobody asked for that."""
    kept = {value.dtype for value in model.parameters() if value.is_floating_point()}
    parameters = {_tail(parameter) for parameter, _ in model.named_parameters()}  # Old files hold buffers, too.
    stored = {tensor: dtype for tensor, dtype in stored_types(folder).items() if _tail(tensor) in parameters}
    narrowed = [dtype for dtype in stored.values() if not any(torch.promote_types(each, dtype) == each for each in kept)]
    if not narrowed:
        return
    keeps = [each for each in OFFERED if all(torch.promote_types(each, dtype) == each for dtype in narrowed)]
    mend = f"--dtype {_words(keeps[:1])} keeps them" if keeps else "no --dtype keeps them"
    some = f"{len(narrowed)} of {len(stored)} tensors of {name}"
    _tell(f"{some} are stored as {_words(narrowed)} and loaded as {_words(kept)}: {mend}.")


def require_trained_type(dtypes: Collection[torch.dtype]) -> None:
    """Refuse to train weights in float16.

    Raises:
        GtrTurboError: one of the types is.
    """
    if torch.float16 in dtypes:
        raise GtrTurboError(
            "weights in float16 are not trained: small gradients are 0 in that type, and large ones infinite.",
            "add: --dtype bfloat16",
        )


@cache
def _tell(note: str) -> None:
    """Say it once, however often a model is loaded."""
    stderr.print(Text(visible(note), style="yellow"), soft_wrap=True)


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _words(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))
