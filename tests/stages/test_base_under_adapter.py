"""An adapter goes on the model that it was made on: another in its place is refused wherever the adapter is read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from gtrturbo.config import EvalConfig, InitConfig, MergeConfig, RolloutConfig, SftConfig, ShowConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.show.artifact import show
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_WEIGHTS

PLAY = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 4}


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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_base_with_another_config_or_tokenizer_is_refused(trained, tmp_path, name):
    file = tmp_path / "model" / name
    file.write_text(file.read_text() + "\n")
    with pytest.raises(GtrTurboError, match=f"model/{name} is not what it was"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))


def test_weights_beside_those_of_the_base_and_ones_that_are_gone_are_refused(trained, tmp_path):
    copied = tmp_path / "model" / "model-00001-of-00002.safetensors"
    shutil.copy(tmp_path / "model" / MODEL_WEIGHTS, copied)
    with pytest.raises(GtrTurboError, match=r"of-00002\.safetensors was not there"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))
    copied.unlink()
    (tmp_path / "model" / "generation_config.json").unlink()
    with pytest.raises(GtrTurboError, match=r"generation_config\.json is missing"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=trained, **PLAY))


def test_a_checkpoint_that_was_made_again_under_an_adapter_is_refused(expert, tmp_path):
    """The new one is whole by its own manifest."""
    execute(InitConfig(out=tmp_path / "full"))
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(tmp_path / "full"), lora_rank=2)).out
    execute(InitConfig(out=tmp_path / "full", seed=9, overwrite=True))
    with pytest.raises(GtrTurboError, match=r"full/model.safetensors is not what it was"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=fresh, **PLAY))


def test_a_base_of_the_hub_that_was_fetched_anew_is_refused(init, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    _foreign(init, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    fresh = execute(InitConfig(out=tmp_path / "lora", lora_rank=2)).out
    adapter = _foreign(fresh, tmp_path / "adapter")
    config = json.loads((adapter / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": "some/model"}
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config))
    kept = execute(MergeConfig(out=tmp_path / "kept", base=adapter)).out
    assert MODEL_WEIGHTS in read_manifest(kept).base
    _with_other_weights(snapshot)
    with pytest.raises(GtrTurboError, match=r"0123abc/model.safetensors is not what it was"):
        execute(MergeConfig(out=tmp_path / "again", base=kept))


def test_what_is_trained_carries_the_record_of_what_it_was_trained_from(trained, tmp_path):
    record = read_manifest(tmp_path / "lora").base
    assert {MODEL_WEIGHTS, "config.json", "tokenizer.json"} <= record.keys() and read_manifest(trained).base == record


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
