"""Sums of adapters against PEFT's own `add_weighted_adapter`: negative and unequal weights, scales of each adapter's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gtrturbo.errors import GtrTurboError

WEIGHTS = (0.7, -0.4)
ALPHAS = (8, 3)
SUMS = {
    "linear": {"method": "task-arithmetic", "parameters": ("factors=true",)},
    "linear, as whole": {"method": "linear", "normalize": False, "parameters": ("factors=true",)},
    "magnitude_prune": {"method": "breadcrumbs", "gamma": 0.0, "density": "0.5", "parameters": ("factors=true",)},
    "dare_linear": {"method": "dare-linear", "density": "1", "parameters": ("factors=true",)},
    "cat": {"method": "task-arithmetic", "rank": 8},
    "svd": {"method": "task-arithmetic", "rank": 4},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[Path, list[Path]]:
    """A model of one layer, and two adapters of different scales."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("factors")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=20, num_key_value_heads=2, **shape)).save_pretrained(root / "base")
    paths = []
    for number, alpha in enumerate(ALPHAS):
        model = AutoModelForCausalLM.from_pretrained(root / "base")
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "down_proj"]))
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(value, std=0.3)
        paths.append(root / f"adapter{number}")
        adapted.save_pretrained(paths[-1])
    return root / "base", paths


def changes(folder: Path) -> dict[str, np.ndarray]:
    """What PEFT adds to each weight for an adapter on disk."""
    found = load_file(folder / "adapter_model.safetensors")
    scale = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder.parent / "base"), folder)
    layers = {name: layer for name, layer in scale.named_modules() if hasattr(layer, "get_delta_weight")}
    assert len(layers) == len(found) // 2
    return {name: layer.get_delta_weight("default").detach().numpy() for name, layer in layers.items()}


@pytest.mark.parametrize("kind", SUMS)
def test_sums_of_factors_are_those_of_peft(given, folders, kind):
    base, paths = given
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), paths[0], adapter_name="one")
    model.load_adapter(paths[1], "two")
    combination, density = kind.split(",")[0], float(SUMS[kind].get("density", 1))
    model.add_weighted_adapter(["one", "two"], list(WEIGHTS), "sum", combination_type=combination, density=density)
    out = folders.merge(*paths, base=base, weights=",".join(map(str, WEIGHTS)), **SUMS[kind])
    (out.parent / "base").symlink_to(base)
    found = changes(out)
    for name, layer in model.named_modules():
        if name in found:
            expected = layer.get_delta_weight("sum").detach().numpy()
            np.testing.assert_allclose(found[name], expected, atol=2e-6 * np.abs(expected).max())


def test_one_adapter_of_negative_weight_is_taken_away(given, folders):
    base, paths = given
    out = folders.merge(paths[0], base=base, method="task-arithmetic", weights="-0.5", parameters=("factors=true",))
    (out.parent / "base").symlink_to(base)
    before = changes(paths[0])
    for name, value in changes(out).items():
        np.testing.assert_allclose(value, -0.5 * before[name], atol=1e-6)


@pytest.mark.parametrize("settings", [{"method": "ties"}, {"method": "linear"}, {"method": "dare-ties"}, {"method": "slerp"}])
def test_means_of_factors_have_no_negative_weights(given, folders, settings):
    base, paths = given
    with pytest.raises(GtrTurboError, match="of factors has no negative weights") as error:
        folders.merge(paths[0], paths[0], base=base, weights="0.7,-0.4", parameters=("factors=true",), **settings)
    assert "--parameters factors=true" in error.value.fix


def test_a_factor_of_the_merge_is_not_applied_twice(given, folders):
    base, paths = given
    with pytest.raises(GtrTurboError, match="would multiply A and B"):
        folders.merge(paths[0], base=base, scale=0.5, parameters=("factors=true",))
