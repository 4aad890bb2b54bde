"""Every kind of LoRA adapter against PEFT's own merge, computed in float64, on a model with every kind of layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import read
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.manifest import read_manifest

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64}


class Experts(nn.Module):
    """Two stacks of three experts, as transformers holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 16, 12))
        self.down_proj = nn.Parameter(torch.randn(3, 12, 8))


class Layers(nn.Module):
    """One of each kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(20, 12)
        self.q_proj = nn.Linear(12, 12)
        self.v_proj = nn.Linear(12, 6)
        self.up_proj = nn.Linear(12, 30, bias=False)
        self.down_proj = nn.Linear(30, 12, bias=False)
        self.c_fc = Conv1D(18, 12)
        self.c_proj = Conv1D(14, 12)
        self.patch = nn.Conv2d(3, 8, kernel_size=(2, 3))
        self.point = nn.Conv2d(8, 6, kernel_size=1)
        self.line = nn.Conv1d(4, 6, kernel_size=3)
        self.volume = nn.Conv3d(2, 5, kernel_size=(2, 2, 2))
        self.experts = Experts()
        self.norm = nn.LayerNorm(12)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layers(), Layers()])
        self.lm_head = nn.Linear(12, 20, bias=False)


def toy(dtype: torch.dtype) -> Toy:
    torch.manual_seed(0)
    return Toy().to(dtype)


def write_base(folder: Path, dtype: torch.dtype) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "none"}')
    save_file(toy(dtype).state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_adapter(folder: Path, dtype: torch.dtype, *, seed: int, half: bool = False, **settings) -> Path:
    """An adapter with random parameters, as PEFT writes it; `half`: in bfloat16."""
    torch.manual_seed(seed)
    model = get_peft_model(toy(dtype), LoraConfig(**{"r": 4, "lora_alpha": 7} | settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad and "lora_monteclora" not in name:
                value.add_(0.3 * torch.randn(value.shape, dtype=torch.float64).to(value.dtype))
    model.save_pretrained(folder)
    if half:
        tensors = {name: value.bfloat16() for name, value in load_file(folder / "adapter_model.safetensors").items()}
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged_by_peft(folder: Path, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """What PEFT makes of the same numbers in float64."""
    model = PeftModel.from_pretrained(toy(dtype).double(), folder, autocast_adapter_dtype=False).double()
    return {name: value.numpy() for name, value in model.merge_and_unload().state_dict().items()}


def ulps(found: np.ndarray, expected: np.ndarray, dtype: torch.dtype) -> float:
    """The largest distance in units in the last place of the expected values in their type."""
    size = torch.from_numpy(np.abs(expected)).to(dtype)
    unit = (torch.nextafter(size, torch.full_like(size, torch.inf)) - size).double().numpy()
    return float((np.abs(found.astype(np.float64) - expected) / unit).max())


KINDS = {
    "linear": {"target_modules": ["q_proj", "up_proj", "down_proj"]},
    "bfloat16 factors": {"target_modules": ["q_proj", "up_proj"], "half": True},
    "patterns": {
        "target_modules": ["v_proj", "up_proj", "c_fc"],
        "rank_pattern": {"up_proj": 2, r"layers\.1\.v_.*": 7, "^layers.0.c_fc": 3},
        "alpha_pattern": {"1.up_proj": 3, ".*v_proj": 5},
    },
    "rslora": {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "transposed": {"target_modules": ["c_fc", "c_proj"]},
    "convolutions": {"target_modules": ["patch", "point", "line", "volume"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "bias of lora": {"target_modules": ["v_proj", "c_fc", "patch"], "lora_bias": True},
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of the adapted": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "dora of the others": {"target_modules": ["c_fc", "embed_tokens", "patch", "point"], "use_dora": True},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 17, 4]}},
    "experts": {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "one stack of experts": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "one layer": {"target_modules": ["layers.1.q_proj"]},
    "velora": {"target_modules": ["q_proj"], "velora_config": VeloraConfig()},
    "monteclora": {"target_modules": ["q_proj"], "monteclora_config": MontecloraConfig()},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_is_what_peft_merges_to_one_unit_in_the_last_place(folders, kind):
    for name, dtype in DTYPES.items():
        base = write_base(folders.root / f"base {name}", dtype)
        path = write_adapter(folders.root / f"adapter {name}", dtype, seed=1, **KINDS[kind])
        expected, before = merged_by_peft(path, dtype), read(base)
        settings = {"density": "1"} if name == "BF16" else {"method": "linear"}
        found = read(folders.merge(path, base=base, verify=99, **settings))
        assert found.keys() == before.keys()
        for tensor, value in found.items():
            if name == "F64":  # PEFT's own sums of 30 terms of order 1 are rounded, too.
                assert np.abs(value - expected[tensor]).max() <= 2e-14, tensor
            else:
                assert ulps(value, expected[tensor], dtype) <= 1, tensor
        changed = {tensor for tensor in before if np.abs(expected[tensor] - before[tensor]).max() > 0.01}
        assert changed and all(np.array_equal(found[tensor], before[tensor]) for tensor in before.keys() - changed)


@pytest.mark.parametrize("start", ["pissa", "olora", "kasa"])
def test_what_the_start_took_out_of_the_base_is_taken_out_again(folders, start):
    """PEFT decomposes the float32 weights, in float32: a few units of 2^-24 of a norm of 5."""
    kind: dict[str, Any] = {"kasa_config": KasaConfig()} if start == "kasa" else {"init_lora_weights": start}
    base = write_base(folders.root / "base", torch.float32)
    path = write_adapter(folders.root / "adapter", torch.float32, seed=1, target_modules=["up_proj", "q_proj"], **kind)
    model = PeftModel.from_pretrained(toy(torch.float32), path)
    expected = {name: value.numpy() for name, value in model.merge_and_unload().state_dict().items()}
    found, before = read(folders.merge(path, base=base, method="linear", verify=99)), read(base)
    for tensor, value in found.items():
        assert np.abs(value - expected[tensor]).max() <= 5e-6, tensor
    factors = load_file(path / "adapter_model.safetensors")
    at = "layers.0.up_proj"
    a, b = (factors[f"base_model.model.{at}.{part}.weight"].double().numpy() for part in ("lora_A", "lora_B"))
    assert np.abs(found[f"{at}.weight"] - (before[f"{at}.weight"] + 7 / 4 * b @ a)).max() > 0.1  # It is not W + scale · B A.


METHODS = [
    {"method": "slerp", "weights": "0.3,0.7"}, {"method": "linear", "normalize": False, "weights": "0.3,0.7"}, {"method": "sce"},
    {"method": "model-stock"}, {"density": "0.5"}, {"method": "multislerp"}, {"method": "task-arithmetic", "weights": "0.4,-0.9"},
]  # fmt: skip


@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: settings.get("method", "ties"))
@pytest.mark.parametrize("start", ["weights", "adapter"])
def test_an_adapter_of_full_rank_gives_the_full_output(folders, settings, start):
    """Its factors are float32: 12 terms of order 1."""
    kinds: tuple[dict[str, Any], ...] = (
        {"target_modules": ["v_proj", "c_fc", "patch"]},
        {"target_modules": ["v_proj", "embed_tokens"], "use_dora": True},
    )
    base = write_base(folders.root / "base", torch.float32)
    paths = [write_adapter(folders.root / f"adapter{i}", torch.float32, seed=i, **kind) for i, kind in enumerate(kinds)]
    origin = base
    if start == "adapter":
        origin = write_adapter(folders.root / "origin", torch.float32, seed=9, target_modules=["up_proj", "v_proj"])
        config = json.loads((origin / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
        (origin / "adapter_config.json").write_text(json.dumps(config))
    full = read(folders.merge(*paths, base=origin, **settings))
    cut = folders.merge(*paths, base=origin, rank=20, **settings)
    expected = merged_by_peft(cut, torch.float32)
    for tensor, value in full.items():
        assert np.abs(value - expected[tensor]).max() <= 3e-6, tensor
    assert read_manifest(cut).metrics["rank_error"] <= 1e-6


def test_an_adapter_cannot_stand_for_a_model_that_is_scaled(folders):
    base = write_base(folders.root / "base", torch.float32)
    path = write_adapter(folders.root / "adapter", torch.float32, seed=1, target_modules=["v_proj"])
    settings = {"method": "linear", "normalize": False, "weights": "0.5,0.6"}
    with pytest.raises(GtrTurboError, match=r"weights that sum to 1\.1 scale the whole model"):
        folders.merge(path, path, base=base, rank=4, **settings)
    found, before = read(folders.merge(path, path, base=base, verify=99, **settings)), read(base)
    assert np.allclose(found["lm_head.weight"], 1.1 * before["lm_head.weight"], rtol=2e-7, atol=0)


@pytest.mark.parametrize(
    "settings", [{"method": "linear"}, {"method": "linear", "normalize": False}, {"method": "task-arithmetic"}]
)
def test_a_checkpoint_that_is_the_base_keeps_its_weight(folders, settings):
    base = write_base(folders.root / "base", torch.float32)
    path = write_adapter(folders.root / "adapter", torch.float32, seed=1, target_modules=["v_proj"])
    still = write_adapter(folders.root / "still", torch.float32, seed=1, target_modules=["v_proj"])
    zeros = {name: value * 0 for name, value in load_file(still / "adapter_model.safetensors").items()}
    save_file(zeros, still / "adapter_model.safetensors")
    expected, before = merged_by_peft(path, torch.float32), read(base)
    for other in (base, still):
        found = read(folders.merge(other, path, base=base, weights="0.25,0.75", **settings))
        for tensor, value in found.items():
            assert np.abs(value - (0.25 * before[tensor] + 0.75 * expected[tensor])).max() <= 2e-7, tensor


def test_what_changes_nothing_is_told_and_what_is_empty_is_refused(folders, capsys):
    base = write_base(folders.root / "base", torch.float32)
    path = write_adapter(folders.root / "adapter", torch.float32, seed=1, target_modules=["v_proj"])
    tensors = load_file(path / "adapter_model.safetensors")
    save_file({name: value * ("lora_A" in name) for name, value in tensors.items()}, path / "adapter_model.safetensors")
    folders.merge(path, base=base)
    assert f"{path} changes nothing: it counts as the base, with its weight." in capsys.readouterr().err.replace("\n", "")
    save_file({name: torch.zeros(0) for name in tensors}, path / "adapter_model.safetensors")
    with pytest.raises(GtrTurboError, match="is empty"):
        folders.merge(path, base=base)
    save_file({}, path / "adapter_model.safetensors")
    with pytest.raises(GtrTurboError, match="holds no tensors"):
        folders.merge(path, base=base)


def test_an_adapter_of_joined_attention_is_refused_by_that_name(folders):
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    model = Attending()
    save_file(model.state_dict(), write_base(folders.root / "base", torch.float32) / "model.safetensors", {"format": "pt"})
    path = folders.root / "adapter"
    get_peft_model(model, LoraConfig(r=2, target_modules=["attention"])).save_pretrained(path)
    with pytest.raises(GtrTurboError, match=r"(?s)adapts attention, an nn\.MultiheadAttention.*merge_and_unload"):
        folders.merge(path, base=folders.root / "base")
