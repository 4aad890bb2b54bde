"""Adapters as output: a merged ΔW cut to a rank, or factors merged apart. Both are approximations of the merge."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import PREFIX, A, Adapter, B, Delta
from gtrturbo.merging.parts import Full, LowRank, Zeros
from gtrturbo.merging.sources import BLOCK, Sources, Target
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.store.files import save_json
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from gtrturbo.store.open_files import Files, read_tensor
from gtrturbo.store.safetensors_files import Layout, TensorEntry, header_of

DELTAS = "deltas.safetensors"
OVERSAMPLE, PASSES = 16, 6


def module_sources(adapters: Sequence[Adapter], origin: Adapter | None, folder: Path) -> Sources:
    """Lay out a merge whose output is ΔW itself, module by module in float32, in a file of its own.

    Raises:
        GtrTurboError: the adapters replace whole tensors, which no low-rank product can stand for.
    """
    require_factors_only(adapters)
    first = adapters[0]
    shapes = {module: ("F32", (b.shape[0], a.shape[1])) for module, (a, b) in first.factors.items()}
    layout = _planned(folder / DELTAS, shapes)
    targets = []
    for module, entry in layout.entries.items():
        parts = tuple(LowRank(adapter.folder, adapter, module, origin=origin) for adapter in adapters)
        width = entry.shape[1]
        targets.append(Target(entry, Zeros(np.dtype(np.float32)), parts, max(1, BLOCK // width) * width))
    used = (*adapters, *([origin] if origin else []))
    return Sources(layout, tuple(targets), (), (), used)


def factor_sources(adapters: Sequence[Adapter], folder: Path) -> Sources:
    """Lay out a merge of A with A and B with B.

    Raises:
        GtrTurboError: ranks or scales differ, or the adapters replace whole tensors.
    """
    require_factors_only(adapters)
    first = adapters[0]
    for adapter in adapters[1:]:
        if adapter.scales != first.scales:
            raise GtrTurboError(f"{adapter.folder} has other scales than {first.folder}.", "use --adapter-space delta.")
    tensors = {entry.name: entry for pair in first.factors.values() for entry in pair}
    layout = _planned(folder / ADAPTER_WEIGHTS, {name: (entry.dtype, entry.shape) for name, entry in tensors.items()})
    found = [{entry.name: entry for pair in adapter.factors.values() for entry in pair} for adapter in adapters]
    for adapter, entries in zip(adapters, found, strict=True):
        odd = [name for name, entry in layout.entries.items() if name not in entries or entries[name].shape != entry.shape]
        if odd or entries.keys() != layout.entries.keys():
            name = odd[0] if odd else min(entries.keys() - layout.entries.keys())
            raise GtrTurboError(f"{name} of {adapter.folder} does not fit {first.folder}.", "use --adapter-space delta.")
    targets = [
        Target(entry, Zeros(np.dtype(np.float32)), tuple(Full(e[name].file.parent, e[name], whole=True) for e in found), BLOCK)
        for name, entry in layout.entries.items()
    ]
    return Sources(layout, tuple(targets), (), (), tuple(adapters))


def require_factors_only(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that replace whole tensors."""
    for adapter in adapters:
        if adapter.replaced:
            raise GtrTurboError(
                f"{adapter.folder} replaces {next(iter(adapter.replaced))} as a whole.", "leave out --rank: full weights hold it."
            )


def _planned(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Layout:
    """Lay out a file that is yet to be written."""
    header = header_of(tensors)
    fields: dict[str, Any] = json.loads(header[8:])
    entries = {
        name: TensorEntry(name, path, dtype, shape, len(header) + fields[name]["data_offsets"][0], _size(fields[name]))
        for name, (dtype, shape) in tensors.items()
    }
    return Layout(path.parent, entries, {path.name: header})


def _size(field: dict[str, Any]) -> int:
    start, end = field["data_offsets"]
    return end - start


@dataclass(frozen=True)
class Cut:
    """ΔW cut to a rank: ‖ΔW − BA‖² and ‖ΔW‖², summed over modules."""

    error_square: float
    square: float

    @property
    def relative(self) -> float:
        return (self.error_square / self.square) ** 0.5 if self.square else 0.0


def write_adapter(files: Files, sources: Sources, origin: Adapter | None, model: Path, folder: Path, *, rank: int) -> Cut:
    """Cut each merged ΔW to `rank` and write the adapter; the file of ΔW goes away.

    Args:
        files: open, DELTAS among them.
        sources: as `module_sources` laid them out.
        origin: adapter that ΔW is measured from; its own change is part of what the new adapter stands for.
        model: an adapter whose config the new one takes over.
        folder: where to.
        rank: of the new adapter.
    """
    names = list(sources.base.entries)
    sizes = {name: min(rank, *entry.shape) for name, entry in sources.base.entries.items()}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        rows, columns = sources.base.entries[name].shape
        tensors[PREFIX + name + A] = ("F32", (sizes[name], columns))
        tensors[PREFIX + name + B] = ("F32", (rows, sizes[name]))
    layout = _planned(folder / ADAPTER_WEIGHTS, tensors)
    path = folder / ADAPTER_WEIGHTS
    files.create(path, layout.headers[ADAPTER_WEIGHTS], layout.size)
    error, square = [], []
    for name in names:
        delta = read_tensor(files, sources.base.entries[name])
        if origin:
            delta = delta + Delta.read(files, origin, name).rows(0, delta.shape[0])
        a, b = truncate(delta, sizes[name])
        files.write(path, layout.entries[PREFIX + name + A].start, a)
        files.write(path, layout.entries[PREFIX + name + B].start, b)
        error.append(float(np.square(delta - b @ a, dtype=np.float64).sum()))
        square.append(float(np.square(delta, dtype=np.float64).sum()))
    write_config(model, folder, rank=rank, patterns={name: size for name, size in sizes.items() if size != rank})
    (folder / DELTAS).unlink()
    return Cut(sum(error), sum(square))


def truncate(delta: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A [r, in] and B [out, r], float32, with B A the best approximation of ΔW [out, in] of rank r, to rounding.

    Subspace iteration with oversampling, then a small exact SVD. Source: Halko et al. (arXiv 0909.4061), algorithm 4.4.
    """
    short = min(delta.shape)
    width = min(short, rank + OVERSAMPLE)
    if width * 2 >= short:  # Nearly all directions are wanted: the exact decomposition costs no more.
        u, s, vt = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    else:
        basis = np.linalg.qr(delta @ np.random.default_rng(0).standard_normal((delta.shape[1], width)).astype(np.float32))[0]
        for _ in range(PASSES):
            basis = np.linalg.qr(delta @ np.linalg.qr(delta.T @ basis)[0])[0]
        u, s, vt = np.linalg.svd((basis.T @ delta).astype(np.float64), full_matrices=False)
        u = basis @ u
    root = np.sqrt(s[:rank])
    a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    return np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)


def write_config(model: Path, folder: Path, *, rank: int, patterns: dict[str, int]) -> None:
    """Write the config of an adapter whose product is ΔW itself: scale 1."""
    config = adapter_config(model) | {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
    }
    save_json(folder / ADAPTER_CONFIG, config)


def write_factors(model: Path, folder: Path) -> None:
    """Write the config of merged factors: that of the first adapter."""
    save_json(folder / ADAPTER_CONFIG, adapter_config(model))
