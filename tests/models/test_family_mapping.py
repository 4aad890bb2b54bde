"""Every family of transformers' image-text-to-text mapping ends in an estimate, or in a sentence that names its type."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CLASSES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from gtrturbo.config import RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.batches import token_budget
from gtrturbo.models.shape import read_shape
from gtrturbo.models.widths import text_layers, vision_layers
from gtrturbo.runs.estimate import notes

LAYERS = ("num_hidden_layers", "depth", "num_layers")
FEW = 4


def cut(config: Any) -> None:
    """Leave a part few layers, where it does not say of each of them what kind it is."""
    if any(hasattr(config, name) for name in ("layer_types", "per_layer_config")):
        return
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > FEW:
            setattr(config, name, FEW)


def told_of(name: str, folder: Any) -> str:
    """Read the shape of a family's default config with few layers; return what it comes to."""
    try:
        config = hf.CONFIG_MAPPING[name]()
        for part in config.sub_configs:
            if hasattr(getattr(config, part, None), "to_dict"):
                cut(getattr(config, part))
        config.save_pretrained(folder)
    except StrictDataclassError:
        return "has no default config"
    try:
        shape = read_shape(str(folder))
    except GtrTurboError as error:
        assert f"type {name}" in error.what, error.what
        assert error.fix and "\n" not in error.what
        return "told"
    assert shape and shape.parameters > 0 and shape.text.inner > 0
    assert shape.tokens_of_images([(56, 56), (56, 56)]) > 0
    return "estimated"


@pytest.mark.parametrize("name", ["gemma4", "got_ocr2", "blip"])
def test_settings_that_go_by_other_names_are_found(name, tmp_path):
    assert told_of(name, tmp_path) == "estimated"


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
def test_every_family_is_estimated_or_told_by_its_type(name, tmp_path):
    assert told_of(name, tmp_path)


def default_of(name: str) -> Any:
    try:
        return hf.CONFIG_MAPPING[name]()
    except StrictDataclassError:
        return None


def test_the_widths_of_every_family_are_found_whatever_its_config_calls_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    configs = [config for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if (config := default_of(name))]
    told = []
    for config in configs:
        model = SimpleNamespace(config=config)
        policy: Any = SimpleNamespace(model=model, device=torch.device("cuda"), value_head=None, parameters=lambda: [])
        try:
            assert token_budget("auto", policy, recomputes=True) > 1
            text, tower = text_layers(config.get_text_config()), vision_layers(getattr(config, "vision_config", None))
        except GtrTurboError as error:
            assert "is not known" in error.what and "--micro-batch-tokens" in error.fix
            told.append(config.model_type)
            continue
        for layers in [text, tower] if tower else [text]:
            assert min(layers.count, layers.width, layers.inner, layers.queries, layers.keys, layers.heads) > 0
    assert told == ["pi0"] and len(configs) > 50  # It moves a robot, and has no text decoder of its own config.


EXPERTS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
           "vocab_size": 300, "moe_intermediate_size": 24, "num_experts_per_tok": 3}  # fmt: skip
DENSE = {"intermediate_size": 40}
QWEN_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14}


@pytest.mark.parametrize(
    ("name", "text", "inner"),
    [
        ("qwen3_vl_moe", {"num_experts": 8, "decoder_sparse_step": 1, **DENSE}, 3 * 24),
        ("qwen3_vl_moe", {"num_experts": 8, "mlp_only_layers": [0], "intermediate_size": 200}, 200),  # The dense layer is wider.
        ("qwen3_5_moe", {"num_experts": 8, "shared_expert_intermediate_size": 10}, 3 * 24 + 10),
        ("glm4v_moe", {"n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1, **DENSE}, 3 * 24 + 2 * 24),
    ],
)
def test_a_dry_run_of_a_mixture_counts_all_experts_and_a_forward_pass_those_that_a_token_meets(name, text, inner, tmp_path):
    config = hf.CONFIG_MAPPING[name](text_config={**EXPERTS, **text}, vision_config=QWEN_TOWER)
    config.save_pretrained(tmp_path / "model")
    with torch.device("meta"):
        model = CLASSES[type(config)](config)
    shape = read_shape(str(tmp_path / "model"))
    assert shape is not None and shape.parameters == sum(each.numel() for each in model.parameters())
    stacks = [each for name, each in model.named_parameters() if name.endswith("experts.down_proj")]
    assert stacks and all(each.shape == (8, 64, 24) for each in stacks)
    assert (shape.text.inner, shape.text.experts) == (inner, 3)
    start = RunConfig(out=tmp_path / "run", task="numberline", env=("image=tiny",), model=str(tmp_path / "model"), iterations=1)
    assert any("ppo-step" in line for line in notes(start))
