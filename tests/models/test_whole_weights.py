"""Weights that are missing, unexpected, of another shape or no numbers are errors; what a library may leave out still loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from resealed import reseal
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from gtrturbo.config import EvalConfig, InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import checkpoint
from gtrturbo.models.checkpoint import load_model, load_policy, save_model
from gtrturbo.models.value_head import ValueHead
from gtrturbo.stages import execute
from gtrturbo.store.safetensors_files import read_layout

METADATA = {"format": "pt"}
QUERY = "model.layers.0.self_attn.q_proj.weight"


def changed(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    """Change one of the weights, a matrix."""
    name = next(name for name in sorted(weights) if weights[name].ndim == 2 and "embed" not in name)
    others = {key: value for key, value in weights.items() if key != name}
    return {
        "missing": others,
        "renamed": others | {name.replace("weight", "weigth"): weights[name]},
        "unexpected": weights | {"extra.weight": torch.zeros(3)},
        "misshaped": weights | {name: torch.zeros(weights[name].shape[0] + 1, weights[name].shape[1])},
        "nan": weights | {name: torch.full_like(weights[name], torch.nan)},
        "one infinity": weights | {name: weights[name].index_fill(0, torch.tensor([0]), torch.inf)},
        "whole numbers": weights | {name: weights[name].to(torch.int32)},
    }[how]


SAID = {
    "missing": r"lacks 1 tensors of the model \(first: ",
    "renamed": r"lacks 1 tensors of the model .*; holds 1 tensors that the model has no place for",
    "unexpected": r"holds 1 tensors that the model has no place for \(first: .*extra",
    "misshaped": r"has another shape than the model: \S+ is \[\d+, \d+\], not \[\d+, \d+\]\.\nsee: ",
    "nan": r"holds weights that are no numbers \(NaN or infinity\), first in ",
    "one infinity": r"holds weights that are no numbers \(NaN or infinity\), first in ",
    "whole numbers": r"as I32 in .*safetensors, which is no type of weights",
}


def damage(source: Path, to: Path, file: str, how: str) -> Path:
    shutil.copytree(source, to)
    save_file(changed(load_file(to / file), how), to / file, METADATA)
    return to


@pytest.mark.parametrize("how", SAID)
def test_full_weights_that_do_not_fit_are_refused(warm, tmp_path, how):
    path = damage(warm, tmp_path / "c", "model.safetensors", how)
    with pytest.raises(GtrTurboError, match=SAID[how]):
        load_policy(path, device="cpu")
    with pytest.raises(GtrTurboError, match=SAID[how]):
        load_model(path)


@pytest.mark.parametrize("how", SAID)
def test_an_adapter_that_does_not_fit_is_refused(lora_warm, lora, tmp_path, how):
    shutil.copytree(lora, tmp_path / "lora")
    path = damage(lora_warm, tmp_path / "c", "adapter_model.safetensors", how)
    with pytest.raises(GtrTurboError, match=SAID[how]):
        load_policy(path, device="cpu")


@pytest.mark.parametrize("how", ["missing", "nan"])
def test_a_base_that_does_not_fit_is_refused_under_an_adapter(lora_warm, lora, tmp_path, how):
    damage(lora, tmp_path / "lora", "base/model.safetensors", how)
    shutil.copytree(lora_warm, tmp_path / "c")
    with pytest.raises(GtrTurboError, match=SAID[how]):
        load_policy(tmp_path / "c", device="cpu")


@pytest.mark.parametrize("how", ["missing", "unexpected", "nan"])
def test_init_refuses_a_model_that_does_not_fit(warm, tmp_path, how):
    path = damage(warm, tmp_path / "c", "model.safetensors", how)
    (path / "stage.json").unlink()
    with pytest.raises(GtrTurboError, match=SAID[how]):
        execute(InitConfig(out=tmp_path / "o", model=str(path)))
    assert not (tmp_path / "o").exists()


def test_a_stage_refuses_weights_that_a_manifest_names_and_no_model_has(warm, tmp_path):
    path = reseal(damage(warm, tmp_path / "c", "model.safetensors", "missing"))
    with pytest.raises(GtrTurboError, match=SAID["missing"]):
        execute(EvalConfig(out=tmp_path / "e", checkpoint=path, task="numberline", episodes=2))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("how", SAID)
def test_a_value_head_that_does_not_fit_is_refused(ppo, tmp_path, how):
    path = damage(ppo, tmp_path / "c", "value_head.safetensors", how)
    with pytest.raises(GtrTurboError, match=r"value_head.safetensors"):
        load_policy(path, device="cpu")


def test_a_value_head_that_is_gone_is_missed(ppo, tmp_path):
    shutil.copytree(ppo, tmp_path / "c")
    (tmp_path / "c" / "value_head.safetensors").unlink()
    with pytest.raises(GtrTurboError, match=r"value_head.safetensors is missing"):
        load_policy(tmp_path / "c", device="cpu")


def test_a_value_head_of_another_model_is_refused(ppo, tmp_path):
    shutil.copytree(ppo, tmp_path / "c")
    ValueHead.new(96, seed=0).save(tmp_path / "c")
    with pytest.raises(GtrTurboError, match=r"values states of width 96, and the model's have 64"):
        load_policy(tmp_path / "c", device="cpu")


# What an index says


def stale_copy(shards, placed) -> None:
    name = next(name for name, file in placed.items() if file == min(shards))
    shards[max(shards)][name] = torch.full_like(shards[min(shards)][name], 0.5)


def another_place(shards, placed) -> None:
    placed[next(name for name, file in placed.items() if file == min(shards))] = max(shards)


def a_shard_less(shards, placed) -> None:
    for name in shards[max(shards)]:
        del placed[name]


LIES = [(stale_copy, "twice, in"), (another_place, "says that .* lies in"), (a_shard_less, "number 2 is left out")]


def with_index(source: Path, to: Path, change) -> Path:
    """Copy a model in two shards, changed."""
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("*.safetensors*", "stage.json"))
    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    shards = {
        f"model-0000{number}-of-00002.safetensors": {name: weights[name] for name in names[number - 1 :: 2]} for number in (1, 2)
    }
    placed = {name: file for file, held in shards.items() for name in held}
    change(shards, placed)
    for file, held in shards.items():
        save_file(held, to / file, METADATA)
    (to / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return to


@pytest.mark.parametrize(("change", "said"), LIES)
def test_an_index_that_says_otherwise_than_the_shards_is_refused_by_every_reader(warm, tmp_path, change, said):
    path = with_index(warm, tmp_path / "c", change)
    for read in (load_model, read_layout, lambda path: checkpoint._split_on("cpu", path, dtype="auto", trainable=False)):
        with pytest.raises(GtrTurboError, match=said):
            read(path)
    with pytest.raises(GtrTurboError, match=said):
        execute(InitConfig(out=tmp_path / "o", model=str(path)))


def test_an_index_that_is_true_is_read(warm, tmp_path):
    assert same(load_model(with_index(warm, tmp_path / "c", lambda *_: None)), load_model(warm))


# What libraries write


def same(one, other) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_what_stock_transformers_saves_in_shards_loads(warm, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(warm)
    model.save_pretrained(tmp_path / "c", max_shard_size="200KB")
    assert len(list((tmp_path / "c").glob("model-*.safetensors"))) > 2
    assert same(load_model(tmp_path / "c"), model)


def test_a_tied_output_head_may_be_stored_or_left_out(warm, tmp_path):
    weights = load_file(warm / "model.safetensors")
    assert "lm_head.weight" not in weights
    shutil.copytree(warm, tmp_path / "c")
    stored = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(stored, tmp_path / "c" / "model.safetensors", METADATA)
    assert same(load_model(tmp_path / "c"), load_model(warm))


def test_names_of_newer_and_older_versions_load(warm, tmp_path):
    weights = load_file(warm / "model.safetensors")
    assert QUERY in weights
    renamed = {name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else f"model.{name}": value
               for name, value in weights.items()}  # fmt: skip
    shutil.copytree(warm, tmp_path / "c")
    save_file(renamed, tmp_path / "c" / "model.safetensors", METADATA)
    assert same(load_model(tmp_path / "c"), load_model(warm))


def test_buffers_that_older_versions_stored_do_no_harm(warm, tmp_path):
    weights = load_file(warm / "model.safetensors")
    shutil.copytree(warm, tmp_path / "c")
    save_file(weights | {"model.rotary_emb.inv_freq": torch.ones(4)}, tmp_path / "c" / "model.safetensors", METADATA)
    assert same(load_model(tmp_path / "c"), load_model(warm))


def test_what_stock_peft_saves_loads(lora, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(lora / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(str(tmp_path / "c"))
    assert same(load_model(tmp_path / "c"), adapted)


def test_weights_whose_sum_overflows_are_numbers(warm, tmp_path):
    weights = load_file(warm / "model.safetensors")
    shutil.copytree(warm, tmp_path / "c")
    save_file(weights | {QUERY: torch.full_like(weights[QUERY], 3e38)}, tmp_path / "c" / "model.safetensors", METADATA)
    load_model(tmp_path / "c")


def test_what_is_saved_is_whole(warm, tmp_path):
    model = load_model(warm)
    (tmp_path / "c").mkdir()
    save_model(model, tmp_path / "c")
    assert same(load_model(tmp_path / "c"), model)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.parametrize("count", [10**30, 9_223_372_036_854_775_808, 1e9, 2_147_483_647])
def test_a_config_that_names_more_layers_than_there_are_tensors_is_refused_before_they_are_built(init, tmp_path, part, count):
    folder = tmp_path / "model"
    shutil.copytree(init, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    layers = "depth" if part == "vision_config" else "num_hidden_layers"
    assert config[part][layers] == 2
    config[part][layers] = count
    file.write_text(json.dumps(config))
    reseal(folder)
    with pytest.raises(GtrTurboError, match=f"layers \\({layers} in config.json\\), and its weights have"):
        load_policy(folder, device="cpu")
