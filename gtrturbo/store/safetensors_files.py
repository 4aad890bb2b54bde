"""Safetensors on disk as layouts: which tensor lies where. `open_files` reads and writes them.

Source of the format: safetensors' specification: 8 bytes length (little-endian), a JSON header, then the tensors' bytes.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.config.regular_files import open_regular
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import MODEL_CONFIG
from gtrturbo.store.weight_files import FETCH, require_as_indexed, weights_of

# Exactly one key: safetensors writes metadata in hash order, so two keys would give other bytes in another process.
SAFETENSORS_METADATA = {"format": "pt"}
# What a tile of each type is in numpy, which has no bfloat16: uint16 stands for its bits.
FLOATS = {"F64": np.float64, "F32": np.float32, "BF16": np.uint16, "F16": np.float16}
BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16,
        "U8": 8, "BOOL": 8}  # fmt: skip
CODES = ("F8_", "F6_", "F4")  # So the types of floats begin that only stand for weights together with scales.
HEADER_LIMIT = 100_000_000  # bytes, as in the format's own reader


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file: its bytes are [start, start + size).

    `part`: of a stack [experts, rows, columns] that is stored under the name, the rows of one expert: (expert, first row).
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    part: tuple[int, int] | None = None

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def width(self) -> int:
        """Bytes per entry."""
        return BITS[self.dtype] // 8


@dataclass(frozen=True)
class Layout:
    """A checkpoint's tensors by name, and its files' headers byte for byte.

    `index`: the file that lists the shards, where there are several; `unread`: files of weights beside them that nobody reads.
    """

    folder: Path
    entries: dict[str, TensorEntry]
    headers: dict[str, bytes]
    index: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(self.file_size, self.headers))

    def file_size(self, name: str) -> int:
        """Bytes of one file."""
        return len(self.headers[name]) + sum(entry.size for entry in self.entries.values() if entry.file.name == name)


def read_layout(folder: Path) -> Layout:
    """Read where the tensors of a checkpoint folder lie, in those files that transformers loads.

    Raises:
        GtrTurboError: no safetensors there, a shard is missing or truncated, or the index names what no file holds.
    """
    chosen = weights_of(folder)
    read = {file: read_header(folder / file) for file in chosen.files}
    require_as_indexed(folder, chosen, {file: [entry.name for entry in found] for file, (_, found) in read.items()})
    entries = {entry.name: entry for _, found in read.values() for entry in found}
    headers = {file: header for file, (header, _) in read.items()}
    return Layout(folder, entries, headers, index=chosen.index, unread=chosen.unread)


def read_header(path: Path) -> tuple[bytes, list[TensorEntry]]:
    """Read a safetensors file's header: its bytes, length included, and its tensors in the order of their bytes.

    Raises:
        GtrTurboError: missing, truncated or damaged, or no file but a pipe or a device.
    """
    try:
        with open_regular(path) as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > HEADER_LIMIT:
                raise ValueError("it has no header")
            text = file.read(length)
            if len(text) < length:
                raise ValueError("it is cut off within its header")
            size = os.fstat(file.fileno()).st_size
        header = json.loads(text, object_pairs_hook=_once)
        _require_texts(header)
        entries = [_entry(path, name, fields, 8 + length) for name, fields in header.items() if name != "__metadata__"]
        entries.sort(key=lambda entry: (entry.start, entry.size))
        _require_whole(entries, 8 + length, size)
    except FileNotFoundError:
        raise GtrTurboError(f"{path} does not exist.", mend_of(path.parent)) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise GtrTurboError(f"{path} cannot be read: its header is no JSON.", mend_of(path.parent)) from None
    except RecursionError:
        raise GtrTurboError(f"{path} cannot be read: its header is nested too deeply.", FETCH) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise GtrTurboError(f"{path} cannot be read: {error}.", mend_of(path.parent)) from None
    return prefix + text, entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Take a JSON object, in which no name may stand twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


def _require_texts(header: Any) -> None:
    """Refuse what the format's own reader refuses: a header that is no object, notes in it that are more than texts."""
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    notes = header.get("__metadata__")
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values())):
        raise ValueError("its __metadata__ is not made of texts")


def _entry(path: Path, name: str, fields: dict[str, Any], data: int) -> TensorEntry:
    start, end = fields["data_offsets"]
    whole = [start, end, *fields["shape"]]
    if not all(type(number) is int and number >= 0 for number in whole) or any("\ud800" <= mark <= "\udfff" for mark in name):
        raise ValueError(f"{name!a} has no name, shape or place that the format allows")
    entry = TensorEntry(name, path, fields["dtype"], tuple(fields["shape"]), data + start, end - start)
    if entry.dtype.startswith(CODES):
        raise GtrTurboError(
            f"{path} holds {name} as {entry.dtype}: codes of quantised weights, which cannot be merged apart from their scales.",
            "merge the models as they were before they were quantised, or write them dequantised, which gtrturbo init --model "
            f"{shell_word(str(path.parent))} --out OUT does where {MODEL_CONFIG} says how they are scaled.",
        )
    if entry.dtype not in BITS:
        raise ValueError(f"{name} is of type {entry.dtype}, which merge does not know")
    if entry.entries * entry.width != entry.size:
        raise ValueError(f"{name} has {entry.size} bytes for shape {list(entry.shape)} {entry.dtype}")
    return entry


def _require_whole(entries: list[TensorEntry], start: int, size: int) -> None:
    for entry in entries:
        if entry.start != start:
            raise ValueError(f"{entry.name} does not follow the tensor before it")
        start += entry.size
    if start != size:
        raise ValueError(f"it has {size} bytes, its header says {start}")


def header_of(entries: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Make the header of a new file from names, types and shapes, in that order; padded so that the data is aligned."""
    offset = 0
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape) in entries.items():
        size = math.prod(shape) * BITS[dtype] // 8
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
