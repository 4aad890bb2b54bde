"""Tiny checkpoints made of numbers, written by hand, and read back."""

import json
from pathlib import Path

import numpy as np
import torch

from gtrturbo.config import MergeConfig
from gtrturbo.merging.parts import narrow
from gtrturbo.stages import execute
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import header_of, read_layout

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
Tensors = dict[str, np.ndarray]
SHAPES = {"embed.weight": (60, 40), "layers.0.weight": (40, 40), "layers.0.bias": (40,), "norm.weight": (40,), "scalar": ()}
NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "U8": np.uint8}


class Folders:
    """Writes checkpoints by hand, and merges them. bfloat16 is stored from float64 by `narrow`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._merged = 0

    def write(self, name: str, tensors: Tensors, dtypes: str | dict[str, str] = "F32", *, shards: int = 1) -> Path:
        """Write a checkpoint folder; tensors go round over the shards."""
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
        kinds = {key: dtypes if isinstance(dtypes, str) else dtypes[key] for key in tensors}
        groups = [list(tensors)[shard::shards] for shard in range(shards)]
        files = ["model.safetensors"] if shards == 1 else [f"model-{i + 1}-of-{shards}.safetensors" for i in range(shards)]
        for file, names in zip(files, groups, strict=True):
            parts = {key: stored(tensors[key], kinds[key]) for key in names}
            header = header_of({key: (kinds[key], tensors[key].shape) for key in names})
            (folder / file).write_bytes(header + b"".join(part.tobytes() for part in parts.values()))
        if shards > 1:
            where = {key: file for file, names in zip(files, groups, strict=True) for key in names}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        return folder

    def merge(self, *checkpoints: Path, base: Path | None = None, **settings) -> Path:
        """Merge around `base` into a new folder."""
        self._merged += 1
        out = self.root / f"merged{self._merged}"
        return execute(MergeConfig(**{"out": out, "base": base, "checkpoints": checkpoints} | settings)).out


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return narrow(np.asarray(values, np.float64), np.dtype(np.uint16))
    return np.asarray(values).astype(NUMPY[dtype])


def read(folder: Path) -> Tensors:
    """All tensors of a folder as they lie on disk; bfloat16 as float32."""
    layout = read_layout(folder)
    files, found = Files(), {}
    for name in layout.headers:
        files.open(folder / name)
    for name, entry in layout.entries.items():
        flat = np.empty(entry.entries, NUMPY[entry.dtype])
        files.read(entry, 0, flat)
        wide = (flat.astype(np.uint32) << 16).view(np.float32) if entry.dtype == "BF16" else flat
        found[name] = wide.reshape(entry.shape)
    files.close()
    return found


def content(folder: Path) -> dict[str, bytes]:
    """The weights' files, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def noisy(shapes: dict[str, tuple[int, ...]], k: int, *, scale: float = 0.1, seed: int = 0) -> tuple[Tensors, list[Tensors]]:
    """A random base and k checkpoints around it, float64."""
    noise = np.random.default_rng(seed)
    base = {name: noise.normal(size=shape) for name, shape in shapes.items()}
    return base, [{name: base[name] + scale * noise.normal(size=shape) for name, shape in shapes.items()} for _ in range(k)]
