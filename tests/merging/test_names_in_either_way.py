"""Filters of recipes and patterns of options, which may name tensors as they are stored or as transformers has them in memory."""

import numpy as np
import pytest
import torch
import yaml
from checkpoints import read
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from gtrturbo.errors import GtrTurboError

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
VISION = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 8, "patch_size": 4}  # fmt: skip


def mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


def llava() -> PreTrainedModel:
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=VISION, text_config=LlamaConfig(**SIZES)))


def write(folder, make, seed: int):
    torch.manual_seed(seed)
    make().float().save_pretrained(folder)
    return folder


@pytest.fixture
def models(folders):
    return [write(folders.root / name, mixtral, seed) for seed, name in enumerate("abc")]


RECIPES = {
    "weights by model": """
merge_method: linear
models:
  - model: {a}
    parameters:
      weight: [{{filter: mlp, value: 1}}, {{value: 0.3}}]
  - model: {b}
    parameters: {{weight: 0.5}}
""",
    "shared": """
merge_method: task_arithmetic
base_model: {a}
models:
  - {{model: {b}, parameters: {{weight: 1}}}}
  - {{model: {c}, parameters: {{weight: 0.5}}}}
parameters:
  lambda: [{{filter: mlp.experts, value: 0.9}}, {{filter: mlp.gate, value: 0.2}}, {{value: 0.5}}]
""",
    "slices": """
merge_method: linear
slices:
  - sources:
      - {{model: {a}, layer_range: [1, 2], parameters: {{weight: [{{filter: mlp, value: 1}}, {{value: 0.3}}]}}}}
      - {{model: {b}, layer_range: [0, 1], parameters: {{weight: 0.5}}}}
  - sources:
      - {{model: {a}, layer_range: [0, 1], parameters: {{weight: [{{filter: layers.0.mlp, value: 1}}, {{value: 0.3}}]}}}}
      - {{model: {b}, layer_range: [1, 2], parameters: {{weight: 0.5}}}}
""",
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_filter_fits_names_that_transformers_has_and_files_have_not(folders, models, kind, tmp_path):
    pytest.importorskip("mergekit", reason="pip install --no-deps mergekit==0.1.5 immutables==0.21")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    text = RECIPES[kind].format(**{path.name: path for path in models})
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    made = folders.merge(recipe=str(file))
    theirs = tmp_path / "theirs"
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(text)), str(theirs), MergeOptions(quiet=True, write_model_card=False)
    )
    found, expected = (MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict() for folder in (made, theirs))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value - expected[name]).abs().max() <= 2e-6, name


def test_a_filter_fits_names_on_disk_too_and_one_that_fits_none_is_told(folders, models, tmp_path, capsys):
    a, b, _ = models
    weight = [{"filter": "block_sparse_moe", "value": 1}, {"filter": "self_attention", "value": 7}, {"value": 0}]
    content = {"merge_method": "linear", "models": [{"model": str(a), "parameters": {"weight": weight}},
               {"model": str(b), "parameters": {"weight": [{"filter": "mlp", "value": 0}, {"value": 1}]}}]}  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    found, ours, theirs = (load_file(folder / "model.safetensors") for folder in (folders.merge(recipe=str(file)), a, b))
    for name, value in found.items():
        assert torch.equal(value, (ours if "block_sparse_moe" in name else theirs)[name]), name
    said = " ".join(capsys.readouterr().err.split())
    assert "no tensor's name holds self_attention, which the recipe has a filter for" in said
    assert "holds mlp" not in said and "holds block_sparse_moe" not in said


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_may_be_of_the_names_in_memory(folders, option):
    base, one = (write(folders.root / name, llava, seed) for seed, name in enumerate(("base", "one")))
    found = read(folders.merge(one, base=base, method="linear", **{option: ("model.language_model.*",)}))
    before, after = read(base), read(one)
    assert not any(name.startswith("model.language_model.") for name in found)
    for name, value in found.items():
        moves = name.startswith("language_model.model.") == (option == "include")
        assert np.array_equal(value, (after if moves else before)[name]), name
    with pytest.raises(GtrTurboError, match=r"no tensor is called model\.nothing\.\*"):
        folders.merge(one, base=base, method="linear", include=("model.nothing.*",))


def test_a_name_with_brackets_is_a_pattern_that_fits_itself(folders):
    names = ["layers[0].weight", "layers0.weight"]
    base = folders.write("base", {name: np.zeros(4) for name in names})
    one = folders.write("one", {name: np.ones(4) for name in names})
    found = read(folders.merge(one, base=base, method="linear", include=(names[0],)))
    assert [found[name][0] for name in names] == [1, 0]
