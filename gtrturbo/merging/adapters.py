"""LoRA adapters on disk as dense task vectors, a few rows at a time: ΔW = scale · B A, never A and B apart.

Source: Hu et al., "LoRA" (arXiv 2106.09685); scale α/r, or α/√r (Kalajdzievski, arXiv 2312.03732). Patterns follow PEFT.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.store.names import ADAPTER_WEIGHTS
from gtrturbo.store.open_files import Files, read_tensor, widen
from gtrturbo.store.safetensors_files import TensorEntry, read_header

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
# What makes an adapter's task vector something else than scale·B·A and whole tensors; none is guessed at.
REFUSED = {"use_dora": False, "fan_in_fan_out": False, "target_parameters": None, "lora_bias": False, "use_qalora": False,
           "megatron_config": None, "trainable_token_indices": None, "layer_replication": None, "alora_invocation_tokens": None,
           "arrow_config": None, "use_bdlora": None}  # fmt: skip
# Ways to begin that change the weights under the adapter.
REBASING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """One adapter: factors by module as (A [r, in], B [out, r]), scales, and tensors that it replaces as a whole."""

    folder: Path
    factors: dict[str, tuple[TensorEntry, TensorEntry]]
    scales: dict[str, float]
    replaced: dict[str, TensorEntry]


def read_adapter(folder: Path) -> Adapter:
    """Read where an adapter's tensors lie.

    Raises:
        GtrTurboError: damaged, or it uses a part of PEFT whose task vector is something else.
    """
    config = adapter_config(folder)
    odd = [name for name, plain in REFUSED.items() if config.get(name) not in (plain, None, False)]
    if str(config.get("init_lora_weights")).startswith(REBASING):
        odd.append(f"init_lora_weights {config['init_lora_weights']}")
    if config.get("peft_type") != "LORA" or odd:
        what = ", ".join(odd) or f"peft_type {config.get('peft_type')}"
        raise GtrTurboError(
            f"{folder} is no LoRA adapter whose task vector is scale·B·A ({what}).",
            "write full weights with PEFT's merge_and_unload and merge those.",
        )
    _, entries = read_header(folder / ADAPTER_WEIGHTS)
    by_name = {entry.name: entry for entry in entries}
    modules = sorted(name.removesuffix(A) for name in by_name if name.endswith(A))
    factors: dict[str, tuple[TensorEntry, TensorEntry]] = {}
    for module in modules:
        if module + B not in by_name:
            raise GtrTurboError(f"{folder} has {module}{A} without its lora_B.")
        factors[module.removeprefix(PREFIX)] = _pair(folder, by_name.pop(module + A), by_name.pop(module + B))
    if strange := [name for name in by_name if ".lora_" in name or "modules_to_save." in name or "_magnitude" in name]:
        raise GtrTurboError(f"{folder} holds {strange[0]}, which is no factor of a linear layer.")
    scales = {module: scale_of(config, module, a.shape[0]) for module, (a, _) in factors.items()}
    # The bias of an adapted module is saved under the layer that PEFT wraps.
    replaced = {name.removeprefix(PREFIX).replace(".base_layer.", "."): entry for name, entry in by_name.items()}
    return Adapter(folder, factors, scales, replaced)


def _pair(folder: Path, a: TensorEntry, b: TensorEntry) -> tuple[TensorEntry, TensorEntry]:
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise GtrTurboError(f"{folder}: {a.name} has shape {list(a.shape)} and its lora_B {list(b.shape)}: no linear layer.")
    for entry in (a, b):
        if not entry.is_float:
            raise GtrTurboError(f"{folder}: {entry.name} is of type {entry.dtype}.")
    return a, b


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    """Return the scale of one module's B A: α/r, or α/√r with rsLoRA, with the module's own α where a pattern names it."""
    pattern = config.get("alpha_pattern") or {}
    own = next((key for key in pattern if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = pattern[own] if own else config["lora_alpha"]
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


@dataclass
class Delta:
    """ΔW of one module with its factors in memory, computed row by row."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    _buffer: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def read(cls, files: Files, adapter: Adapter, module: str) -> "Delta":
        a, b = adapter.factors[module]
        return cls(
            np.asarray(widen(read_tensor(files, a)), np.float32),
            np.asarray(widen(read_tensor(files, b)), np.float32),
            adapter.scales[module],
        )

    def rows(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """ΔW[first:last] in `out`, or in memory that the next call uses again: fresh memory costs more time than the product.

        Returns: [last − first, in] float32
        """
        if out is None and len(self._buffer) < last - first:
            self._buffer = np.empty((last - first, self.a.shape[1]), np.float32)
        out = self._buffer[: last - first] if out is None else out.reshape(last - first, -1)
        rows = np.matmul(self.b[first:last], self.a, out=out)
        rows *= np.float32(self.scale)
        return rows
