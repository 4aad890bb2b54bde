"""What `show` says about a checkpoint's weights, read from the headers of its files."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config, is_adapter
from gtrturbo.show.text import Row
from gtrturbo.store.names import OPTIMIZER_FILE, VALUE_HEAD
from gtrturbo.store.pruned import pruned_files

WEIGHTS = "*model*.safetensors"


@dataclass(frozen=True)
class Tensor:
    """A tensor's header."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def weights_rows(folder: Path) -> list[Row]:
    """Say whether a checkpoint is full or LoRA, how large it is, and what training state lies beside it."""
    if pruned := [name for name in pruned_files(folder) if name != OPTIMIZER_FILE]:
        return [("weights", f"{_sort(folder)}, pruned ({' '.join(pruned)})")]
    tensors = list(_tensors(folder))
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    rows: list[Row] = [("weights", f"{_sort(folder)}, {len(tensors)} tensors, {parameters} parameters")]
    if (folder / VALUE_HEAD).is_file():
        rows.append(("value head", "yes"))
    if (folder / OPTIMIZER_FILE).is_file():
        rows.append(("updates", str(_updates(folder / OPTIMIZER_FILE))))
    return rows


def tensor_rows(folder: Path) -> list[Row]:
    """List tensors with the layers taken together: name with * for each number in it, how many, shape, type."""
    alike = Counter((re.sub(r"\.\d+(?=\.|$)", ".*", tensor.name), tensor.shape, tensor.dtype) for tensor in _tensors(folder))
    return [(name, f"{count} × {list(shape)} {dtype}") for (name, shape, dtype), count in alike.items()]


def _sort(folder: Path) -> str:
    if not is_adapter(folder):
        return "full"
    config = adapter_config(folder)
    rank, alpha, base = (config.get(name, "?") for name in ("r", "lora_alpha", "base_model_name_or_path"))
    return f"LoRA (rank {rank}, alpha {alpha}, base {base})"


def _tensors(folder: Path) -> Iterator[Tensor]:
    for path in sorted(folder.glob(WEIGHTS)):
        try:
            with safe_open(path, framework="numpy") as file:
                headers = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 - it is no mapping
                yield from (Tensor(name, tuple(header.get_shape()), header.get_dtype()) for name, header in headers)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from None


def _updates(path: Path) -> int:
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_tensor("updates"))
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> GtrTurboError:
    return GtrTurboError(f"{path} cannot be read: {error}.", f"see: gtrturbo show {path.parent} --check")
