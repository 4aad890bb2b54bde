"""Adapters as output: a merged ΔW cut to a rank, which is an approximation of the merge."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.config.choices import Missing
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapted import Names, adapter_sources, stored_by_name
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.changes import Change, rows_of
from gtrturbo.merging.factored import Directed, Experts, Product, Residual
from gtrturbo.merging.matching import Pattern
from gtrturbo.merging.parts import BaseWithAdapter, Full, LowRank, Zeros
from gtrturbo.merging.rearranged import Adapted, Gathered, Held
from gtrturbo.merging.sources import Sources, Target
from gtrturbo.merging.unwrapped import PREFIX
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.store.files import save_json
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from gtrturbo.store.open_files import Files, read_tensor
from gtrturbo.store.safetensors_files import Layout, TensorEntry, header_of

DELTAS = "deltas.safetensors"
OVERSAMPLE, PASSES = 16, 6
LINEAR_PARTS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_PARTS = (".lora_embedding_A", ".lora_embedding_B")
# Of an adapter whose product is ΔW itself, of modules that are named one by one.
LORA_ALONE = {
    "use_rslora": False, "use_dora": False, "lora_bias": False, "bias": "none", "init_lora_weights": True, "kasa_config": None,
    "modules_to_save": None, "trainable_token_indices": None, "target_parameters": None, "velora_config": None,
    "monteclora_config": None, "ensure_weight_tying": False,
}  # fmt: skip


def module_sources(
    base: Layout,
    adapters: Sequence[Adapter],
    origin: Adapter | None,
    names: Names,
    folder: Path,
    *,
    whole: bool,
    missing: Missing,
    tell: Callable[[str], None],
) -> Sources:
    """Lay out a merge whose output is W + ΔW of the tensors that the adapters change, in float64 and in a file of its own.

    Args:
        base: the model under the adapters.
        adapters, origin: the checkpoints, and the adapter that they were trained from, if there is one.
        names: see `adapter_sources`.
        folder: where that file goes.
        whole: weights are merged as they are.
        missing, tell: see `adapter_sources`.

    Raises:
        GtrTurboError: an adapter changes what no product of two factors can stand for.
    """
    full = adapter_sources(base, adapters, origin, names, pattern=Pattern(), whole=whole, missing=missing, tell=tell)
    given = (*adapters, *([origin] if origin else []))
    for adapter, kept in zip(given, full.adapters, strict=True):
        require_factors(kept)
        if tied := sorted(adapter.choices.keys() - kept.choices.keys()):
            raise GtrTurboError(
                f"{adapter.folder} changes {tied[0]} with what it is tied to, which an adapter of another rank would not.",
                "leave out --rank: full weights hold it.",
            )
    in_memory = {stored: name for name, stored in stored_by_name(full.adapters, names).items()}
    layout = planned_layout(folder / DELTAS, {in_memory[each.name]: ("F64", each.entry.shape) for each in full.targets})
    targets = tuple(replace(each, entry=layout.entries[in_memory[each.name]], base=_in_float64(each)) for each in full.targets)
    return replace(full, base=layout, targets=targets, copied=())


def _in_float64(target: Target) -> BaseWithAdapter | Zeros | Adapted | Gathered | Held:
    """What a tensor is measured from, unrounded: W may be large beside what is merged."""
    return BaseWithAdapter(target.base.entry, None, target.row) if isinstance(target.base, Full) else target.base


def require_factors(adapter: Adapter) -> None:
    """Refuse an adapter that changes what no LoRA adapter of rank R could."""
    for name, choice in adapter.choices.items():
        if not all(isinstance(change, Product | Residual | Directed) for change in choice):
            stack = any(isinstance(change, Experts) for change in choice)
            how = (
                "by a product for each expert, which one rank does not hold" if stack else "otherwise than by factors of a layer"
            )
            raise GtrTurboError(
                f"{adapter.folder} changes {name} {how}.",
                "leave out --rank: full weights hold it.",
            )


def planned_layout(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Layout:
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


def write_adapter(files: Files, sources: Sources, model: Path, folder: Path, *, rank: int) -> Cut:
    """Cut each merged change of the weights to `rank` and write the adapter; the file of W + ΔW goes away.

    Args:
        files: open, DELTAS among them.
        sources: as `module_sources` laid them out.
        model: an adapter whose config the new one takes over.
        folder: where to.
        rank: of the new adapter.
    """
    forms = [_Form.of(target, rank) for target in sources.targets]
    shapes = {name: ("F32", shape) for form in forms for name, shape in form.shapes().items()}
    layout = planned_layout(folder / ADAPTER_WEIGHTS, shapes)
    path = folder / ADAPTER_WEIGHTS
    files.create(path, layout.headers[ADAPTER_WEIGHTS], layout.size)
    error, square = [], []
    for form, target in zip(forms, sources.targets, strict=True):
        delta = _change_of_weights(files, target)
        right, left = truncate(delta, form.rank)
        for name, values in form.tensors(left, right).items():
            files.write(path, layout.entries[name].start, np.ascontiguousarray(values))
        error.append(float(np.square(delta - left.astype(np.float64) @ right).sum()))
        square.append(float(np.square(delta).sum()))
    same = all(isinstance(part, LowRank) and part.change for target in sources.targets for part in target.parts)
    patterns = {form.module: form.rank for form in forms if form.rank != rank}
    write_config(model, folder, rank=rank, patterns=patterns, modules=None if same else [f.module for f in forms])
    (folder / DELTAS).unlink()
    return Cut(sum(error), sum(square))


def _change_of_weights(files: Files, target: Target) -> np.ndarray:
    """What was merged of one tensor, as a change of the weights under all adapters. [rows, width] float64"""
    assert isinstance(target.base, BaseWithAdapter)
    rows = target.entry.entries // target.row
    weights = rows_of(files, target.base.entry, target.row)
    return read_tensor(files, target.entry).reshape(rows, target.row) - weights(0, rows)


@dataclass(frozen=True)
class _Form:
    """How PEFT writes the factors of one layer."""

    module: str
    rank: int
    shape: tuple[int, ...]
    transposed: bool
    parts: tuple[str, str]

    @classmethod
    def of(cls, target: Target, rank: int) -> "_Form":
        change = next(
            change
            for part in (*target.parts, target.base)
            if isinstance(part, LowRank | BaseWithAdapter)
            for change in (part.change if isinstance(part, LowRank) else None, part.origin)
            if change
        )
        product = _product(change)
        shape = target.entry.shape
        size = min(rank, shape[0], target.entry.entries // shape[0])
        parts = EMBEDDING_PARTS if product.embedding else LINEAR_PARTS
        return cls(target.name.removesuffix(".weight"), size, shape, product.transposed, parts)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        rows, inner = self.shape[0], self.shape[1:]
        a, b = ((self.rank, rows), (*inner, self.rank)) if self.transposed else ((self.rank, *inner), (rows, self.rank))
        names = [PREFIX + self.module + part for part in self.parts]
        return {names[0]: a, names[1]: (*b, *(1,) * (len(self.shape) - 2))}

    def tensors(self, left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (left.T, right.T) if self.transposed else (right, left)
        return {name: values.reshape(shape) for values, (name, shape) in zip((a, b), self.shapes().items(), strict=True)}


def _product(change: Change) -> Product:
    """The factors of a change that `require_factors` lets through."""
    assert isinstance(change, Product | Residual | Directed)
    return change if isinstance(change, Product) else change.product


def truncate(delta: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A [r, in] and B [out, r], float32, with B A the best approximation of ΔW [out, in], float64, of rank r, to rounding.

    Subspace iteration with oversampling, then a small exact SVD. Source: Halko et al. (arXiv 0909.4061), algorithm 4.4.
    """
    short = min(delta.shape)
    width = min(short, rank + OVERSAMPLE)
    if width * 2 >= short:  # Nearly all directions are wanted: the exact decomposition costs no more.
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
    else:
        basis = np.linalg.qr(delta @ np.random.default_rng(0).standard_normal((delta.shape[1], width)))[0]
        for _ in range(PASSES):
            basis = np.linalg.qr(delta @ np.linalg.qr(delta.T @ basis)[0])[0]
        u, s, vt = np.linalg.svd(basis.T @ delta, full_matrices=False)
        u = basis @ u
    root = np.sqrt(s[:rank])
    a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    return np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)


def write_config(model: Path, folder: Path, *, rank: int, patterns: dict[str, int], modules: list[str] | None) -> None:
    """Write the config of an adapter whose product is ΔW itself: scale 1. `modules`: those it adapts, if not those of `model`."""
    named = (
        {"target_modules": modules, "layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
        if modules
        else {}
    )
    old = adapter_config(model)
    config = (
        old
        | {name: value for name, value in LORA_ALONE.items() if old.get(name)}
        | named
        | {
            "r": rank,
            "lora_alpha": rank,
            "use_rslora": False,
            "rank_pattern": patterns,
            "alpha_pattern": dict(patterns),
        }
    )
    save_json(folder / ADAPTER_CONFIG, config)
