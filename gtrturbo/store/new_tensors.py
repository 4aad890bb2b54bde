"""Safetensors files that are written tensor by tensor, in any order, with the bytes that safetensors writes of all at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import BITS, TensorEntry, header_of

# How safetensors orders types in a file; within one, names are in order.
ORDER = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")


@dataclass
class NewTensors:
    """Files that are being written, and where in them each tensor goes."""

    files: Files = field(default_factory=Files)
    places: dict[str, TensorEntry] = field(default_factory=dict)

    def lay_out(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Make a file for tensors of types and shapes by name, of its final size."""
        ordered = {name: tensors[name] for name in sorted(tensors, key=lambda name: (ORDER.index(tensors[name][0]), name))}
        header = header_of(ordered)
        start = len(header)
        for name, (dtype, shape) in ordered.items():
            entry = TensorEntry(name, path, dtype, shape, start, int(np.prod(shape, dtype=int)) * BITS[dtype] // 8)
            self.places[name], start = entry, start + entry.size
        self.files.create(path, header, start)

    def write(self, name: str, values: np.ndarray) -> None:
        """Write one tensor's bytes.

        Raises:
            ValueError: there are more or fewer of them than its place has.
        """
        place = self.places[name]
        if values.nbytes != place.size:
            raise ValueError(f"{name} has {values.nbytes} bytes, and its place {place.size}.")
        self.files.write(place.file, place.start, values)


@contextmanager
def new_tensors() -> Iterator[NewTensors]:
    """Keep files open as long as tensors are written into them."""
    new = NewTensors()
    try:
        yield new
    finally:
        new.files.close()
