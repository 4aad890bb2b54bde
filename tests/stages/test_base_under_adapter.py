"""An adapter goes on the model that it was made on: another in its place is refused wherever the adapter is read."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parsed import parsed
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from gtrturbo.config import EvalConfig, InitConfig, MergeConfig, RolloutConfig, SftConfig, ShowConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import base_record, differences
from gtrturbo.models.under_adapter import base_of
from gtrturbo.show.artifact import show
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_INDEX, MODEL_WEIGHTS, RENDERER_FILES

PLAY = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 4}
COMMIT, LATER = "0123abc", "4567def"


def _foreign(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / MANIFEST).unlink()
    return folder


def _with_other_weights(folder: Path) -> None:
    tensors = {name: value + 0.01 for name, value in load_file(folder / MODEL_WEIGHTS).items()}
    save_file(tensors, folder / MODEL_WEIGHTS, metadata={"format": "pt"})


@pytest.fixture
def trained(init, expert, tmp_path) -> Path:
    """An adapter that was trained one step, on a folder without manifest."""
    _foreign(init, tmp_path / "model")
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(tmp_path / "model"), lora_rank=2)).out
    return execute(SftConfig(out=tmp_path / "trained", data=(expert,), checkpoint=fresh, steps=1, batch_size=4)).out


def test_another_base_is_refused_by_every_stage_and_by_show(trained, tmp_path):
    _with_other_weights(tmp_path / "model")
    for config in (
        RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY),
        RolloutConfig(out=tmp_path / "turns", checkpoint=trained, verify_inputs="always", **PLAY),
        EvalConfig(out=tmp_path / "eval", checkpoint=trained, chance_episodes=0, **PLAY),
        MergeConfig(out=tmp_path / "merged", checkpoints=(trained,)),
    ):
        with pytest.raises(GtrTurboError, match=r"model/model.safetensors is not what it was .* when the adapter"):
            execute(config)
    with pytest.raises(GtrTurboError, match=r"another base, in .*model: model.safetensors"):
        show(ShowConfig(artifact=trained, check=True))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_base_with_another_config_is_refused(trained, tmp_path, name):
    file = tmp_path / "model" / name
    file.write_text(file.read_text() + "\n")
    with pytest.raises(GtrTurboError, match=f"model/{name} is not what it was"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))


@pytest.mark.parametrize("record", ["of today", "of every file, as the first were"])
def test_files_that_nobody_loads_may_come_beside_a_base_and_go(trained, tmp_path, record):
    model = tmp_path / "model"
    files = {name: (model / MODEL_WEIGHTS).read_bytes() for name in ("consolidated.safetensors", "model.fp16.safetensors")}
    files |= {"pytorch_model.bin": b"PK\x03\x04", "model-00001-of-00002.safetensors": files["consolidated.safetensors"]}
    files |= dict.fromkeys(("special_tokens_map.json", "preprocessor_config.json", MODEL_INDEX), b"{}")
    files |= {"chat_template.json": json.dumps({"chat_template": (model / "chat_template.jinja").read_text()}).encode()}
    if record != "of today":
        told = json.loads((trained / MANIFEST).read_text())
        told["base"] |= dict.fromkeys(files, "0" * 64) | {"tokenizer.json": "0" * 64}
        (trained / MANIFEST).write_text(json.dumps(told))
    for name, content in files.items():
        (model / name).write_bytes(content)
    show(ShowConfig(artifact=trained, check=True))
    execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))
    for name in (*files, "tokenizer.json"):
        (model / name).unlink()
    execute(RolloutConfig(out=tmp_path / "again", checkpoint=trained, **PLAY))


def test_the_tokenizer_of_a_base_counts_where_the_adapter_has_none(trained, tmp_path):
    bare = _foreign(trained, tmp_path / "bare")
    for name in RENDERER_FILES:
        (bare / name).unlink(missing_ok=True)
    record = base_record(bare)
    assert {MODEL_WEIGHTS, "config.json", "tokenizer.json"} <= record.keys()
    assert set(read_manifest(trained).base) == {MODEL_WEIGHTS, "config.json", "generation_config.json"}


def test_a_vocabulary_of_another_name_counts_where_the_adapter_has_no_tokenizer(trained, tmp_path):
    bare = _foreign(trained, tmp_path / "bare")
    for name in RENDERER_FILES:
        (bare / name).unlink(missing_ok=True)
    (tmp_path / "model" / "tekken.json").write_text("{}")
    record = base_record(bare)
    assert "tekken.json" in record and [*differences_of(trained, bare, record, tmp_path)] == []
    (tmp_path / "model" / "tekken.json").write_text("{ }")
    [(name, _, _)] = differences_of(trained, bare, record, tmp_path)
    assert name == "tekken.json"
    del record["tekken.json"]  # As it was recorded before.
    assert [*differences_of(trained, bare, record, tmp_path)] == []


def differences_of(trained: Path, bare: Path, record: dict[str, str], tmp_path: Path) -> list[tuple]:
    told = json.loads((trained / MANIFEST).read_text()) | {"base": record}
    (bare / MANIFEST).write_text(json.dumps(told))
    return [*differences(bare, tmp_path / "model", "always")]


def test_a_base_whose_weights_were_saved_anew_in_other_files_is_refused_as_that(trained, tmp_path):
    model = tmp_path / "model"
    loaded = AutoModelForImageTextToText.from_pretrained(model)
    (model / MODEL_WEIGHTS).unlink()
    loaded.save_pretrained(model, max_shard_size="300KB")
    with pytest.raises(GtrTurboError, match=r"in model\.safetensors\.index\.json, and held them in model\.safetensors") as error:
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))
    command = error.value.fix.partition("gtrturbo ")[2].replace("FULL", str(tmp_path / "full"))
    words = shlex.split(command.replace("FOLDER", str(model.rename(tmp_path / "other"))))
    execute(parsed(words))


def test_a_shard_of_the_base_that_is_gone_or_another_is_refused(init, tmp_path):
    model = _foreign(init, tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(model)
    (model / MODEL_WEIGHTS).unlink()
    (model / MODEL_INDEX).unlink(missing_ok=True)
    loaded.save_pretrained(model, max_shard_size="300KB")
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(model), lora_rank=2)).out
    shard = sorted(model.glob("model-*.safetensors"))[1]
    rollout = RolloutConfig(out=tmp_path / "turns", checkpoint=fresh, **PLAY)
    tensors = {name: value + 0.01 for name, value in load_file(shard).items()}
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(GtrTurboError, match=f"{shard.name} is not what it was"):
        execute(rollout)
    shard.unlink()
    with pytest.raises(GtrTurboError, match=f"{shard.name} was there when the adapter .* was made on it, and is missing now"):
        execute(rollout)
    loaded.save_pretrained(model)
    assert (model / MODEL_WEIGHTS).is_file()  # It takes precedence over the index.
    with pytest.raises(GtrTurboError, match=r"holds its weights in model\.safetensors, and held them in .*\.index\.json"):
        execute(rollout)


def test_configs_of_a_base_that_are_gone_are_refused(trained, tmp_path):
    (tmp_path / "model" / "generation_config.json").unlink()
    with pytest.raises(GtrTurboError, match=r"generation_config\.json was there when the adapter .*, and is missing now"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))


def test_a_checkpoint_that_was_made_again_under_an_adapter_is_refused(expert, tmp_path):
    """The new one is whole by its own manifest."""
    execute(InitConfig(out=tmp_path / "full"))
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(tmp_path / "full"), lora_rank=2)).out
    execute(InitConfig(out=tmp_path / "full", seed=9, overwrite=True))
    with pytest.raises(GtrTurboError, match=r"full/model.safetensors is not what it was"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=fresh, **PLAY))


@pytest.fixture
def cache(init, tmp_path, monkeypatch) -> Path:
    """The cache of the hub, with one revision of some/model; nothing else can be reached."""
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    home = tmp_path / "hub" / "models--some--model"
    (home / "snapshots").mkdir(parents=True)
    _foreign(init, home / "snapshots" / COMMIT)
    _move_main(home, COMMIT)
    return home


def _move_main(home: Path, commit: str) -> None:
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)


@pytest.fixture
def kept(cache, tmp_path) -> Path:
    """An adapter on some/model that names no revision, and whose manifest records the one that was there."""
    fresh = execute(InitConfig(out=tmp_path / "lora", lora_rank=2)).out
    adapter = _foreign(fresh, tmp_path / "adapter")
    config = json.loads((adapter / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": "some/model"}
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config))
    out = execute(MergeConfig(out=tmp_path / "kept", base=adapter)).out
    assert MODEL_WEIGHTS in read_manifest(out).base
    return out


def test_a_base_of_the_hub_that_was_fetched_anew_is_refused(kept, cache, tmp_path):
    _with_other_weights(cache / "snapshots" / COMMIT)
    with pytest.raises(GtrTurboError, match=rf"{COMMIT}/model.safetensors is not what it was"):
        execute(MergeConfig(out=tmp_path / "again", base=kept))


@pytest.mark.parametrize("holds", ["its config", "other weights"])
def test_the_revision_that_an_adapter_was_made_on_is_taken_where_main_has_moved(kept, cache, expert, tmp_path, holds):
    before, after = cache / "snapshots" / COMMIT, cache / "snapshots" / LATER
    rollout = RolloutConfig(out=tmp_path / "before", checkpoint=kept, **PLAY)
    execute(rollout)
    if holds == "other weights":
        _with_other_weights(Path(shutil.copytree(before, after)))
    else:
        after.mkdir()
        shutil.copy(before / "config.json", after)
    _move_main(cache, LATER)
    again = execute(replace(rollout, out=tmp_path / "after")).out
    assert (again / "turns.jsonl").read_bytes() == (tmp_path / "before" / "turns.jsonl").read_bytes()
    show(ShowConfig(artifact=kept, check=True))
    merged = execute(MergeConfig(out=tmp_path / "merged", checkpoints=(kept,), method="linear")).out
    expected = load_file(before / MODEL_WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(merged / MODEL_WEIGHTS).items())
    shutil.rmtree(before)
    with pytest.raises(GtrTurboError, match="is not on this machine" if holds == "its config" else "is not what it was"):
        execute(replace(rollout, out=tmp_path / "never"))


def test_an_adapter_names_the_commit_of_its_base_and_stays_on_it(cache, expert, tmp_path):
    fresh = execute(InitConfig(out=tmp_path / "lora", model="some/model", lora_rank=2)).out
    trained = execute(SftConfig(out=tmp_path / "trained", data=(expert,), checkpoint=fresh, steps=1, batch_size=4)).out
    thin = execute(MergeConfig(out=tmp_path / "thin", checkpoints=(trained,), method="linear", rank=1)).out
    for folder in (fresh, trained, thin):
        named = json.loads((folder / ADAPTER_CONFIG).read_text())
        assert (named["base_model_name_or_path"], named["revision"]) == ("some/model", COMMIT)
    _with_other_weights(Path(shutil.copytree(cache / "snapshots" / COMMIT, cache / "snapshots" / LATER)))
    _move_main(cache, LATER)
    (trained / MANIFEST).unlink()  # So that nothing is known but the commit.
    assert base_of(trained) == str(cache / "snapshots" / COMMIT)
    shutil.rmtree(cache / "snapshots" / COMMIT)
    with pytest.raises(GtrTurboError, match=f"some/model at {COMMIT}, which is not on this machine") as error:
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=fresh, **PLAY))
    assert f"hf download some/model --revision {COMMIT}" in error.value.fix


def test_what_is_trained_carries_the_record_of_what_it_was_trained_from(trained, tmp_path):
    record = read_manifest(tmp_path / "lora").base
    assert {MODEL_WEIGHTS, "config.json"} <= record.keys() and read_manifest(trained).base == record


def test_an_adapter_without_a_record_goes_on_and_gets_one(trained, expert, tmp_path):
    lora = tmp_path / "lora"
    told = json.loads((lora / MANIFEST).read_text())
    (lora / MANIFEST).write_text(json.dumps({name: value for name, value in told.items() if name != "base"}))
    again = SftConfig(out=tmp_path / "again", data=(expert,), checkpoint=lora, steps=1, batch_size=4)
    assert read_manifest(execute(again).out).base == told["base"]
    show(ShowConfig(artifact=lora, check=True))


def test_a_base_that_is_not_here_is_told_where_all_else_is_checked(trained, tmp_path, capsys):
    show(ShowConfig(artifact=trained, check=True))
    assert "of its base" in capsys.readouterr().out
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    show(ShowConfig(artifact=trained, check=True))
    assert "is not here to be checked" in capsys.readouterr().out


def test_a_merge_around_another_base_does_not_read_the_one_that_changed(trained, init, tmp_path):
    _with_other_weights(tmp_path / "model")
    merge = MergeConfig(out=tmp_path / "merged", checkpoints=(trained,), base=init)
    execute(merge)
    with pytest.raises(GtrTurboError, match="is not what it was"):
        execute(replace(merge, out=tmp_path / "other", base=tmp_path / "model"))


def test_a_model_of_the_hub_whose_tokenizer_was_not_fetched_is_told_as_one_without(cache, tmp_path):
    (cache / "snapshots" / COMMIT / "tokenizer.json").unlink()
    with pytest.raises(GtrTurboError, match=r"^some/model has no tokenizer: tokenizer\.json is not there\."):
        execute(InitConfig(out=tmp_path / "out", model="some/model"))
