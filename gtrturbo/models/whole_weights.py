"""Weights are all there: transformers and PEFT fill what a file lacks with random numbers, and here that is an error."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.quantised import quantisation_of
from gtrturbo.store.mending import FETCH_AGAIN, mend_of
from gtrturbo.store.names import MODEL_CONFIG, OPTIMIZER
from gtrturbo.store.safetensors_files import CODES
from gtrturbo.store.strict_json import parse_json
from gtrturbo.store.weight_files import INDEXES, require_as_indexed, weights_of

WHOLE_NUMBERS = ("I", "U", "B")  # How their types begin in a safetensors header; a weight is none.
# How torch tells a tensor of another shape, each of which is a line of its own.
MISFIT = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)")
WEIGHT_NAMES = (".weight", ".bias")
# Settings that count layers.
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers")


def require_whole(
    source: str | Path, *, missing: Collection[str], unexpected: Collection[str], misfits: Iterable[str] = ()
) -> None:
    """Refuse weights of which some are missing, have no place in the model, or have another shape.

    Args:
        source: folder or hub id that they were read from.
        missing, unexpected: names of tensors, but for those that the model ties to others or makes itself.
        misfits: each of another shape, in words.

    Raises:
        GtrTurboError: names the first.
    """
    first, *others = [*misfits, ""]
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    faults = [
        *([f"lacks {len(missing)} tensors of the model (first: {min(missing)})"] if missing else []),
        *([f"holds {len(unexpected)} tensors that the model has no place for (first: {min(unexpected)})"] if unexpected else []),
        *([f"has another shape than the model: {first}{more}"] if first else []),
    ]
    if faults:
        raise _unfit(source, "; ".join(faults))


def require_whole_model(source: str, info: Mapping[str, Any]) -> None:
    """Refuse a model of which transformers says that it did not load as it is stored.

    Args:
        source: folder or hub id.
        info: what `from_pretrained` tells with `output_loading_info`.

    Raises:
        GtrTurboError: weights are missing, unexpected or of another shape.
    """
    misfits = [f"{name} is {list(stored)}, not {list(wanted)}" for name, stored, wanted in sorted(info["mismatched_keys"])]
    require_whole(source, missing=info["missing_keys"], unexpected=info["unexpected_keys"], misfits=misfits)
    if info["error_msgs"]:
        raise _unfit(source, f"does not load: {info['error_msgs'][0]}")


def require_tied(source: str | Path, untied: Iterable[str]) -> None:
    """Refuse weights that the config calls tied to others and that are stored with values of their own.

    transformers keeps both, vLLM and whoever reads the config first keep one: two models in one folder.

    Args:
        untied: names of such tensors.

    Raises:
        GtrTurboError: names the first.
    """
    if first := min(untied, default=None):
        raise GtrTurboError(
            f"the config of {source} ties {first} to other weights, and it is stored with values of its own: one program takes "
            "these, and another those.",
            "write tie_word_embeddings: false in config.json, or take the tensor out of the file.",
        )


@contextmanager
def told_by_shape(source: str | Path) -> Iterator[None]:
    """Say of a tensor that PEFT cannot load which it is, and both shapes.

    Raises:
        GtrTurboError: names the first.
    """
    try:
        yield
    except RuntimeError as error:
        if not (found := MISFIT.search(str(error))):
            raise
        name, stored, wanted = found.groups()
        misfits = [f"{name} is [{stored}], not [{wanted}]"]
    else:
        return
    require_whole(source, missing=(), unexpected=(), misfits=misfits)


def require_numbers(source: str | Path, parameters: Iterable[tuple[str, Tensor]], *, stored: Path | None = None) -> None:
    """Refuse weights that are not all finite.

    Args:
        source: folder or hub id that they were read from.
        parameters: the weights in memory.
        stored: where they lie on disk, perhaps in a type of a wider range.

    Raises:
        GtrTurboError: names the first tensor that holds NaN or infinity.
    """
    for name, values in parameters:
        # A sum is read off in one pass without a copy; where it overflows, each entry is looked at.
        if not values.detach().sum(dtype=torch.float32).isfinite() and not values.detach().isfinite().all():
            if stored and _is_finite(stored):
                kind = str(values.dtype).removeprefix("torch.")
                mend = FETCH_AGAIN if values.dtype == torch.float32 else "add: --dtype float32"
                raise GtrTurboError(f"{source} holds weights beyond what {kind} can hold, first in {name}.", mend)
            raise _unfit(source, f"holds weights that are no numbers (NaN or infinity), first in {name}")


def _is_finite(folder: Path) -> bool:
    """Tell whether all weights on disk are numbers."""
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            tensors = (file.get_tensor(name) for name in file.keys())  # noqa: SIM118 - it is no mapping
            if not all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()):
                return False
    return True


def require_float_weights(folder: Path) -> None:
    """Refuse whole numbers and bare codes where weights should be; those of a model that says how it is quantised are left alone.

    Raises:
        GtrTurboError: names the tensor and its type.
    """
    if quantisation_of(folder):
        return
    for path in _weight_files(folder):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                dtype = file.get_slice(name).get_dtype()
                if dtype.startswith(WHOLE_NUMBERS) and dtype != "BF16" and name.endswith(WEIGHT_NAMES):
                    raise _unfit(folder, f"holds {name} as {dtype} in {path.name}, which is no type of weights")
                if dtype.startswith(CODES):
                    raise GtrTurboError(
                        f"{folder} holds {name} as {dtype} in {path.name}, and no quantization_config says how it is scaled.",
                        "choose the model as it was before it was quantised, or as its quantiser wrote it.",
                    )


def require_one_place(folder: Path) -> None:
    """Refuse shards of which the index says otherwise than they are, as `read_layout` does; pickles have none of ours.

    Raises:
        GtrTurboError: names the tensor.
    """
    if not any(folder.glob(f"*{INDEXES}")):
        return
    chosen, held = weights_of(folder), {}
    for name in chosen.files:
        if not (folder / name).is_file():
            raise GtrTurboError(f"{folder / name} does not exist.", mend_of(folder))
        with safe_open(folder / name, framework="numpy") as file:
            held[name] = list(file.keys())
    require_as_indexed(folder, chosen, held)


def require_as_many_layers(folder: Path) -> None:
    """Refuse a config that names more layers than there are tensors: to build them all would take memory, or no end.

    Raises:
        GtrTurboError: names the setting.
    """
    config = folder / MODEL_CONFIG
    tensors = 0
    for path in _weight_files(folder):
        with safe_open(path, framework="numpy") as file:
            tensors += len(file.keys())
    named = _layers(parse_json(config.read_bytes())) if config.is_file() and tensors else ()
    if odd := next(((name, count) for name, count in named if count > tensors), None):
        raise _unfit(folder, f"names {odd[1]:.6g} layers ({odd[0]} in {MODEL_CONFIG}), and its weights have {tensors} tensors")


def _layers(config: Any) -> Iterator[tuple[str, float]]:
    """Find how many layers a config names, also in the configs of parts that it holds."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if name in LAYERS and isinstance(value, int | float):
            yield name, value
        yield from _layers(value)


def _weight_files(folder: Path) -> list[Path]:
    # What only an update goes on from is read, and verified, by it alone.
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith(OPTIMIZER))


def _unfit(source: str | Path, what: str) -> GtrTurboError:
    return GtrTurboError(f"{source} {what}.", mend_of(source))
