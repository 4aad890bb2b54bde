"""Files of weights that are yet to be written: which tensor goes into which, and where in it."""

import math
from collections.abc import Mapping
from pathlib import Path

from gtrturbo.store.names import MODEL_WEIGHTS
from gtrturbo.store.safetensors_files import BITS, Layout, TensorEntry, header_of

SHARD = 5_000_000_000  # bytes, as transformers cuts


def layout_of_new(folder: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, shard: int = SHARD) -> Layout:
    """Lay out new files of types and shapes by name, in that order, each of at most `shard` bytes unless one tensor is larger."""
    groups: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    filled = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        if groups[-1] and filled + size > shard:
            groups.append({})
            filled = 0
        groups[-1][name] = (dtype, shape)
        filled += size
    stem, suffix = MODEL_WEIGHTS.split(".")
    entries: dict[str, TensorEntry] = {}
    headers: dict[str, bytes] = {}
    for number, group in enumerate(groups, 1):
        file = MODEL_WEIGHTS if len(groups) == 1 else f"{stem}-{number:05d}-of-{len(groups):05d}.{suffix}"
        headers[file] = header_of(group)
        start = len(headers[file])
        for name, (dtype, shape) in group.items():
            size = math.prod(shape) * BITS[dtype] // 8
            entries[name] = TensorEntry(name, folder / file, dtype, shape, start, size)
            start += size
    return Layout(folder, entries, headers)
