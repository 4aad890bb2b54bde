"""Adapters of all kinds that a merge knows, written by hand with PEFT's names, and the weights that each stands for, in float64.

PEFT's definitions: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), DoRA (2402.09353), PiSSA (2404.02948), OLoRA (2406.01775); of
convolutions, embeddings, Conv1D and stacked parameters as in peft.tuners.lora.layer.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from checkpoints import Tensors, stored
from safetensors.numpy import save_file

KINDS = ("plain", "plain", "rslora", "dora", "pissa", "olora", "patterns")
PREFIX = "base_model.model."


@dataclass
class Written:
    """One adapter: `whole` weights that it stands for, and how large the terms were that were summed for each."""

    folder: Path
    whole: Tensors
    sizes: Tensors = field(default_factory=dict)


def shapes(rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    """Tensors that adapters of other layers than linear ones need. No Conv1D is square: its shape tells which way it lies."""
    found: dict[str, tuple[int, ...]] = {}
    if rng.random() < 0.4:
        found["visual.patch.weight"] = tuple(int(size) for size in rng.integers(1, 6, 4))
    if rng.random() < 0.3:
        found["visual.line.weight"] = tuple(int(size) for size in rng.integers(1, 7, 3))
    if rng.random() < 0.4:
        width = int(rng.integers(1, 12))
        found["h.0.c_fc.weight"] = (width, width + int(rng.integers(1, 9)))
    if rng.random() < 0.4:
        width = int(rng.integers(2, 9))
        found["model.layers.0.experts.down_proj"] = (int(rng.integers(2, 5)), width, width + int(rng.integers(1, 6)))
    return found


def write(rng: np.random.Generator, folder: Path, base: Tensors, base_folder: Path) -> Written:
    """Write a random adapter of some of the base's tensors."""
    made = _Adapter(rng, base)
    made.choose()
    config = {
        "peft_type": "LORA", "r": made.rank, "lora_alpha": made.alpha, "use_rslora": made.kind == "rslora", "bias": "none",
        "use_dora": made.kind == "dora", "target_modules": sorted(made.modules), "rank_pattern": made.ranks,
        "alpha_pattern": made.alphas, "base_model_name_or_path": str(base_folder.resolve()),
        "init_lora_weights": made.kind if made.kind in ("pissa", "olora") else True,
    }  # fmt: skip
    if made.saved:
        config["modules_to_save"] = made.saved
    if made.parameters:
        config["target_parameters"] = made.parameters
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save(folder / "adapter_model.safetensors", made.tensors, made.dtype)
    return Written(folder, made.whole, made.sizes)


class _Adapter:
    """An adapter that is being made."""

    def __init__(self, rng: np.random.Generator, base: Tensors) -> None:
        self.rng, self.base = rng, base
        self.kind, self.dtype = str(rng.choice(KINDS)), str(rng.choice(["F32", "F16", "BF16"]))
        self.rank, self.alpha = int(rng.integers(1, 5)), float(rng.choice([1, 2, 16]))
        self.ranks: dict[str, int] = {}
        self.alphas: dict[str, float] = {}
        self.modules: set[str] = set()
        self.saved: list[str] = []
        self.parameters: list[str] = []
        self.tensors: Tensors = {}
        self.sizes: Tensors = {}
        self.whole: Tensors = {name: value.astype(np.float64) for name, value in base.items()}

    def choose(self) -> None:
        """Adapt linear layers, and of the others those that chance chooses and the kind allows."""
        linear = [name for name, value in self.base.items() if value.ndim == 2 and value.size and name.endswith("proj.weight")]
        linear = (
            linear or [name for name, value in self.base.items() if value.ndim == 2 and value.size and "embed" not in name][:1]
        )
        for name in linear:
            self._matrix(name)
        # Beside layers that lie the other way only the model's code tells how a square one lies, and there is no such model.
        plain = all(len(set(self.base[name].shape)) > 1 for name in linear)
        if self.kind not in ("pissa", "olora"):
            for name in ("visual.patch.weight", "visual.line.weight", "h.0.c_fc.weight"):
                if name in self.base and self.rng.random() < 0.7 and (plain or "c_fc" not in name):
                    self._matrix(name, transposed="c_fc" in name)
            if "model.embed_tokens.weight" in self.base and self.rng.random() < 0.3:
                self._embedding("model.embed_tokens.weight")
        if plain and self.kind in ("plain", "rslora") and "model.layers.0.experts.down_proj" in self.base:
            self._experts("model.layers.0.experts.down_proj")
        if "lm_head.weight" in self.base.keys() - self.sizes.keys() and self.rng.random() < 0.3:
            self.saved, moved = ["lm_head"], self._random(self.base["lm_head.weight"].shape)
            self.tensors[f"{PREFIX}lm_head.weight"], self.whole["lm_head.weight"] = moved, wide(moved, self.dtype)

    def _random(self, shape: tuple[int, ...], size: float = 1.0) -> np.ndarray:
        return stored(self.rng.normal(size=shape) * size, self.dtype)

    def _settings(self, module: str, most: int) -> tuple[int, float]:
        """Rank and scale of a module, by patterns or the adapter's own."""
        last = module.rsplit(".", 1)[-1]
        if self.kind == "patterns" and self.rng.random() < 0.6:
            self.ranks[module], self.alphas[module] = int(self.rng.integers(1, 6)), float(self.rng.integers(1, 9))
        if self.kind in ("pissa", "olora") and self.rank > most:
            self.ranks[module] = most
        self.modules.add(last)
        rank, alpha = self.ranks.get(module, self.rank), self.alphas.get(module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.kind == "rslora" else rank)

    def _matrix(self, name: str, *, transposed: bool = False) -> None:
        """A linear layer [out, in], a convolution [out, in, …], or a Conv1D, which lies as [in, out]."""
        module, shape = name.removesuffix(".weight"), self.base[name].shape
        out, inputs = (shape[1], shape[:1]) if transposed else (shape[0], shape[1:])
        rank, scale = self._settings(module, min(out, math.prod(inputs)))
        a = self._random((rank, *inputs))
        b = self._random((out, rank, *[1] * (len(inputs) - 1)), 10.0 ** self.rng.integers(-3, 0))
        self.tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        left, right = wide(b, self.dtype).reshape(out, rank), wide(a, self.dtype).reshape(rank, -1)
        self._add(name, module, scale * left @ right, scale * abs(left) @ abs(right), transposed=transposed)

    def _embedding(self, name: str) -> None:
        module, (rows, width) = name.removesuffix(".weight"), self.base[name].shape
        rank, scale = self._settings(module, min(rows, width))
        a, b = self._random((rank, rows)), self._random((width, rank), 0.1)
        self.tensors |= {f"{PREFIX}{module}.lora_embedding_A": a, f"{PREFIX}{module}.lora_embedding_B": b}
        left, right = wide(b, self.dtype), wide(a, self.dtype)
        self._add(name, module, scale * left @ right, scale * abs(left) @ abs(right), transposed=True)

    def _add(self, name: str, module: str, delta: np.ndarray, size: np.ndarray, *, transposed: bool) -> None:
        """Add B A [out, in] to a weight as the kind says."""
        under = self.base[name].astype(np.float64)
        flat = under.T if transposed else under.reshape(len(under), -1)
        whole = flat + delta
        if self.kind == "dora":
            magnitude = self._random((len(flat),))
            self.tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = magnitude
            factor = (wide(magnitude, self.dtype) / np.sqrt((whole**2).sum(axis=1)))[:, None]
            whole, size = factor * whole, abs(factor) * (abs(flat) + size) + abs(flat)
        elif self.kind in ("pissa", "olora"):
            rank, scale = self.ranks.get(module, self.rank), self.alphas.get(module, self.alpha)
            gone = _largest(flat, rank) if self.kind == "pissa" else scale / rank * _head_of_qr(flat, rank)
            whole, size = whole - gone, size + abs(gone) + np.linalg.norm(flat)
        shape = self.base[name].shape
        self.whole[name] = whole.T if transposed else whole.reshape(shape)
        self.sizes[name] = size.T if transposed else size.reshape(shape)

    def _experts(self, name: str) -> None:
        """Stacked parameters [experts, in, out]: ΔW_e = scale · (B_e A_e)ᵀ, with A [experts r, in] and B [out, r experts]."""
        experts, inputs, out = self.base[name].shape
        module, rank = name.rsplit(".", 1)[0], self.rank
        scale = self.alpha / (math.sqrt(rank) if self.kind == "rslora" else rank)
        a, b = self._random((experts * rank, inputs)), self._random((out, rank * experts), 0.1)
        self.tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        self.parameters = ["experts.down_proj"]
        each = [(wide(b, self.dtype)[:, e::experts], wide(a, self.dtype)[e * rank : (e + 1) * rank]) for e in range(experts)]
        self.whole[name] = self.base[name] + np.stack([scale * (left @ right).T for left, right in each])
        self.sizes[name] = np.stack([scale * (abs(left) @ abs(right)).T for left, right in each])


def _largest(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The sum of the largest singular components, by numpy."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(min(rank, len(s))))


def _head_of_qr(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The projection of the columns on the span of the first ones, by Gram and Schmidt, twice: Q[:, :r] R[:r]."""
    basis: list[np.ndarray] = []
    for column in matrix.T[: min(rank, *matrix.shape)]:
        rest = column.copy()
        for _ in range(2):
            rest = rest - sum((each * (each @ rest) for each in basis), np.zeros(len(rest)))
        basis.append(rest / np.linalg.norm(rest))
    return sum(np.outer(each, each @ matrix) for each in basis)


def wide(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def save(file: Path, tensors: dict[str, np.ndarray], kind: str) -> None:
    if kind != "BF16":
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file)
        return
    header, place = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [place, place + value.nbytes]}
        place += value.nbytes
    text, values = json.dumps(header).encode(), b"".join(value.tobytes() for value in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + values)
