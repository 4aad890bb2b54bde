"""Adapters of experts that a model holds as one stack and its files one by one, against PEFT's own merge in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import read
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from gtrturbo.errors import GtrTurboError

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}  # fmt: skip
MODELS = {
    # As wide as they are high: shapes do not tell which way round they are.
    "mixtral": lambda experts: MixtralForCausalLM(MixtralConfig(**SIZES, intermediate_size=16, num_local_experts=experts)),
    "qwen3 moe": lambda experts: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=experts, num_experts_per_tok=2, moe_intermediate_size=12)
    ),
}
KINDS = {
    "all linear": {"target_modules": "all-linear"},
    "attention and experts": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 5},
    },
    "one stack": {"target_modules": [], "target_parameters": ["experts.gate_up_proj"], "use_rslora": True},
}


def write_base(folder: Path, model: str, *, experts: int = 11) -> PreTrainedModel:
    torch.manual_seed(experts)
    made = MODELS[model](experts)
    made.save_pretrained(folder)
    return made


def write_adapter(folder: Path, base: Path, *, seed: int, **settings) -> Path:
    torch.manual_seed(seed)
    model = get_peft_model(loaded(base), LoraConfig(r=3, lora_alpha=7, **settings))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> PreTrainedModel:
    kind = (
        MixtralForCausalLM if json.loads((folder / "config.json").read_text())["model_type"] == "mixtral" else Qwen3MoeForCausalLM
    )
    return kind.from_pretrained(folder, dtype=torch.float32)


def merged_by_peft(base: Path, adapter: Path, out: Path) -> dict[str, np.ndarray]:
    """What PEFT makes of the same numbers in float64, under the names on disk."""
    model = PeftModel.from_pretrained(loaded(base).double(), adapter, autocast_adapter_dtype=False).double()
    model.merge_and_unload().save_pretrained(out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_each_expert_gets_its_part_of_the_stack(folders, model, kind):
    base = folders.root / "base"
    write_base(base, model)
    paths = [write_adapter(folders.root / f"adapter{seed}", base, seed=seed, **KINDS[kind]) for seed in range(2)]
    expected = [merged_by_peft(base, path, folders.root / f"peft {path.name}") for path in paths]
    found = read(folders.merge(*paths, base=base, method="linear", weights="0.25,0.75", verify=99))
    before = read(base)
    assert found.keys() == before.keys() == expected[0].keys()
    for name, value in found.items():
        exact = 0.25 * expected[0][name] + 0.75 * expected[1][name]
        assert (np.abs(value - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all(), name
    changed = {name for name, value in found.items() if np.abs(value - before[name]).max() > 1e-3}
    assert len({name for name in changed if ".experts." in name}) == 2 * 11 * (2 if kind == "one stack" else 3)


def test_an_adapter_of_another_number_of_experts_is_refused(folders):
    for experts in (4, 5):
        write_base(folders.root / f"base{experts}", "mixtral", experts=experts)
    path = write_adapter(folders.root / "adapter", folders.root / "base4", seed=0, **KINDS["one stack"])
    with pytest.raises(GtrTurboError, match=r"gate_up_proj of the adapters has shape \[4, 32, 16\]"):
        folders.merge(path, base=folders.root / "base5")
    with pytest.raises(GtrTurboError, match=r"by a product for each expert, which one rank does not hold"):
        folders.merge(path, base=folders.root / "base4", rank=4)


def test_an_expert_that_is_missing_is_refused(folders):
    base = folders.root / "base"
    write_base(base, "mixtral", experts=3)
    path = write_adapter(folders.root / "adapter", base, seed=0, **KINDS["one stack"])
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(GtrTurboError, match=r"layers\.1\.mlp\.experts\.gate_up_proj"):
        folders.merge(path, base=base)


def test_a_recipe_puts_such_an_adapter_on_its_model(folders):
    base = folders.root / "base"
    write_base(base, "mixtral", experts=5)
    path = write_adapter(folders.root / "adapter", base, seed=0, **KINDS["attention and experts"])
    recipe = folders.root / "recipe.yml"
    models = f"[{{model: {base}+{path}, parameters: {{weight: 1}}}}, {{model: {base}, parameters: {{weight: 1}}}}]"
    recipe.write_text(f"merge_method: linear\nmodels: {models}\n")
    found, before = read(folders.merge(recipe=str(recipe))), read(base)
    for name, value in merged_by_peft(base, path, folders.root / "peft").items():
        exact = (value + before[name]) / 2
        assert (np.abs(found[name] - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all(), name
