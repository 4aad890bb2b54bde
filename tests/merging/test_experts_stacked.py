"""Checkpoints that store in one stack the experts that their base stores one by one, and the other way round."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import read
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.verify import ulps

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}  # fmt: skip
MODELS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, intermediate_size=16, num_local_experts=11)),
    "qwen3 moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, head_dim=8, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=12)
    ),
}


@pytest.fixture(params=MODELS)
def kinds(request, folders):
    """A base whose experts are files' own tensors, and two models around it, each stored so and as a stack."""
    made = []
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        model = MODELS[request.param]()
        model.save_pretrained(folders.root / name)
        made.append((model, folders.root / name, stacked(model, folders.root / f"{name} stacked")))
    return made


def stacked(model: PreTrainedModel, folder: Path) -> Path:
    folder.mkdir()
    model.config.save_pretrained(folder)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def loaded(folder: Path, like: PreTrainedModel) -> dict[str, torch.Tensor]:
    return type(like).from_pretrained(folder, dtype=torch.float32).state_dict()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("missing", ["dropped", "base"])
def test_stacked_experts_are_merged_into_those_that_the_base_stores_one_by_one(folders, kinds, missing, known, capsys):
    (model, base, _), (_, a, a_stacked), (_, b, b_stacked) = kinds
    if not known:
        (a_stacked / "config.json").write_text('{"model_type": "none"}')
    found = folders.merge(a_stacked, b, base=base, method="linear", weights="0.25,0.75", missing=missing, verify=99)
    expected = [loaded(each, model) for each in (a, b)]
    assert read(found).keys() == read(base).keys()
    for name, value in loaded(found, model).items():
        exact = 0.25 * expected[0][name].double() + 0.75 * expected[1][name].double()
        assert ulps(value, exact, exact.abs()).max() <= 1, name
    assert "as model.layers.0.mlp.experts." in " ".join(capsys.readouterr().err.split())
    both = [read(folders.merge(x, y, base=base, density="0.3")) for x, y in ((a_stacked, b_stacked), (a, b))]
    assert all((value == both[1][name]).all() for name, value in both[0].items())


def test_a_recipe_merges_them_too(folders, kinds):
    (_, base, _), (_, a, a_stacked), _ = kinds
    recipe = folders.root / "recipe.yml"
    found = []
    for one in (a, a_stacked):
        weight = "{weight: [{filter: mlp, value: 0.25}, {value: 1}]}"
        recipe.write_text(
            f'merge_method: task_arithmetic\nbase_model: "{base}"\nmodels: [{{model: "{one}", parameters: {weight}}}]\n'
        )
        found.append(read(folders.merge(recipe=str(recipe))))
    assert all((value == found[1][name]).all() for name, value in found[0].items())


@pytest.mark.parametrize("missing", ["dropped", "base"])
def test_experts_in_other_pieces_are_refused_whatever_is_missing(folders, kinds, missing):
    (_, base, base_stacked), (_, a, a_stacked), _ = kinds
    cause = r"stores as model\.layers\.0\..*experts\..* what the base stores as .*, in other pieces or another shape"
    with pytest.raises(GtrTurboError, match=cause) as refused:
        folders.merge(a, base=base_stacked, missing=missing)
    assert "save both anew by save_pretrained" in refused.value.fix
    weights = load_file(a_stacked / "model.safetensors")
    save_file(
        {name: value[:-1].clone() if value.dim() == 3 else value for name, value in weights.items()},
        a_stacked / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(GtrTurboError, match=cause):
        folders.merge(a_stacked, base=base, missing=missing)


def test_experts_that_are_left_out_need_not_be_stored_alike(folders, kinds):
    (_, base, _), (_, a, a_stacked), _ = kinds
    experts = ("model.layers.*.block_sparse_moe.experts.*", "model.layers.*.mlp.experts.?.*")
    kept = [name for name in experts if any(".experts.0." in each and name[15:24] in each for each in read(base))]
    found, alike = (read(folders.merge(one, base=base, method="linear", exclude=tuple(kept))) for one in (a_stacked, a))
    assert all((value == alike[name]).all() for name, value in found.items())


def test_an_adapter_on_a_stack_is_refused_where_the_base_has_experts_one_by_one(folders, kinds):
    from peft import LoraConfig, get_peft_model

    (_, base, _), (model, _, a_stacked), _ = kinds
    shutil.copytree(a_stacked, folders.root / "under")
    settings = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **settings)).save_pretrained(folders.root / "adapter")
    recipe = folders.root / "recipe.yml"
    named = json.dumps({"model": str(folders.root / "under"), "lora": str(folders.root / "adapter")})
    recipe.write_text(f'merge_method: linear\nbase_model: "{base}"\nmodels: [{{model: {named}, parameters: {{weight: 1}}}}]\n')
    with pytest.raises(GtrTurboError, match=r"stores model\.layers\.0\.mlp\.experts\.down_proj as a stack"):
        folders.merge(recipe=str(recipe))
