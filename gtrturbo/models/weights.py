"""Weights on disk, tensor by tensor: full checkpoints in one file or many, and LoRA adapters as dense deltas."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import ADAPTER_CONFIG

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."
# Parts of PEFT that change what the adapter's task vector is; none is guessed at.
UNSUPPORTED = {"use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "bias": "none",
               "fan_in_fan_out": False, "lora_bias": False, "target_parameters": None}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A full checkpoint's tensors by name, read one at a time."""

    folder: Path
    files: dict[str, str]

    @classmethod
    def find(cls, folder: Path) -> "Weights":
        """List the tensors of a checkpoint folder, sharded or not.

        Raises:
            GtrTurboError: no weights there, or a damaged file.
        """
        if (folder / INDEX).is_file():
            return cls(folder, json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        with opened(folder / SINGLE) as file:
            return cls(folder, dict.fromkeys(file.keys(), SINGLE))

    def shards(self) -> dict[str, list[str]]:
        """Return the names of the tensors in each file."""
        grouped: dict[str, list[str]] = {}
        for name, file in self.files.items():
            grouped.setdefault(file, []).append(name)
        return grouped

    def read(self, name: str) -> Tensor:
        """Read one tensor. Raises GtrTurboError where a file is damaged."""
        with opened(self.folder / self.files[name]) as file:
            return file.get_tensor(name)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file.

    Raises:
        GtrTurboError: it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise GtrTurboError(f"{path} cannot be read: {error}.", f"see: gtrturbo show {path.parent} --check") from None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: per module the factors A [r, in] and B [out, r], and the scale of B A."""

    folder: Path
    factors: dict[str, tuple[Tensor, Tensor]]
    scale: float

    @classmethod
    def load(cls, folder: Path) -> "Adapter":
        """Load an adapter's factors.

        Raises:
            GtrTurboError: it uses a part of PEFT whose task vector is not scale·B·A.
        """
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        odd = [name for name, plain in UNSUPPORTED.items() if config.get(name, plain) not in (plain, None)]
        if config.get("peft_type") != "LORA" or odd:
            raise GtrTurboError(f"{folder} is no plain LoRA adapter ({', '.join(odd) or config.get('peft_type')}).")
        rank = config["r"]
        scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        with opened(folder / ADAPTER):
            tensors = load_file(folder / ADAPTER)
        modules = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
        factors = {
            module.removeprefix(ADAPTER_PREFIX): (tensors.pop(f"{module}.lora_A.weight"), tensors.pop(f"{module}.lora_B.weight"))
            for module in modules
        }
        if tensors:
            raise GtrTurboError(f"{folder} holds more than LoRA factors of linear layers (first: {sorted(tensors)[0]}).")
        return cls(folder, factors, scale)

    def delta(self, module: str) -> Tensor:
        """ΔW = scale · B A of one module. [out, in] float32"""
        a, b = self.factors[module]
        return self.scale * (b.float() @ a.float())


def require_finite(tensor: Tensor, name: str, folder: Path) -> Tensor:
    """Refuse NaN and infinity by file and tensor."""
    if not torch.isfinite(tensor).all():
        raise GtrTurboError(f"{name} in {folder} holds a NaN or an infinity.", "leave that checkpoint out.")
    return tensor
