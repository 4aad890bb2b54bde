"""An adapter without manifest is another checkpoint where the weights are others that it adapts, whatever its own files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.lineage import same_model
from gtrturbo.stages import execute
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST, MODEL_WEIGHTS

PLAY = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 4}
MakeConfig = Callable[[Path, Path], Any]


@pytest.fixture
def model(init, tmp_path) -> Path:
    """A model without manifest, as others leave it."""
    shutil.copytree(init, tmp_path / "b")
    (tmp_path / "b" / MANIFEST).unlink()
    return tmp_path / "b"


@pytest.fixture
def foreign(model, tmp_path) -> Path:
    """An adapter without manifest on that model, which it names by its full path."""
    return _foreign_adapter(tmp_path / "a", tmp_path / "own", on=model)


def _foreign_adapter(folder: Path, own: Path, *, on: Path, named: str | None = None) -> Path:
    if not own.exists():
        execute(InitConfig(out=own, model=str(on), lora_rank=2))
    shutil.copytree(own, folder)
    (folder / MANIFEST).unlink()
    config = json.loads((folder / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": named or str(on)}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return folder


def _change(model: Path) -> None:
    tensors = {name: value + 0.01 for name, value in load_file(model / MODEL_WEIGHTS).items()}
    save_file(tensors, model / MODEL_WEIGHTS, metadata={"format": "pt"})


def _as_made_before(artifact: Path) -> None:
    """Take out of a manifest what earlier versions did not write into it."""
    told = json.loads((artifact / MANIFEST).read_text())
    told["inputs"] = {role: identity for role, identity in told["inputs"].items() if not role.startswith("under_")}
    (artifact / MANIFEST).write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda a, turns: EvalConfig(out=a.parent / "out", checkpoint=a, chance_episodes=0, **PLAY), "checkpoint"),
        (lambda a, turns: RolloutConfig(out=a.parent / "out", checkpoint=a, **PLAY), "checkpoint"),
        (lambda a, turns: SftConfig(out=a.parent / "out", checkpoint=a, data=(turns,), steps=1, batch_size=2), "checkpoint"),
        (lambda a, turns: MergeConfig(out=a.parent / "out", base=a, checkpoints=(a.parent / "own",)), "base"),
    ],
    ids=["eval", "rollout", "sft", "merge"],
)
def test_what_was_made_on_other_weights_is_not_taken_for_what_is_asked_for(foreign, model, expert, make: MakeConfig, option):
    config = make(foreign, expert)
    made = execute(config)
    assert execute(config).id == made.id
    _change(model)
    with pytest.raises(GtrTurboError, match=f"out exists and was made on another model under --{option} "):
        execute(config)
    model.rename(model.with_name("elsewhere"))  # What is not here is not held against anything.
    if option != "base":
        assert execute(config).id == made.id


def test_several_teachers_count_each_with_what_is_under_it(foreign, model, init, expert, tmp_path):
    turns = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=init, **PLAY)).out
    scores = DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=init, more_teachers=(foreign, init))
    inputs = read_manifest(execute(scores).out).inputs
    assert inputs.keys() == {"rollouts", "teacher", "more_teachers", "under_more_teachers"}
    assert len(inputs["under_more_teachers"]) == 1
    _change(model)
    with pytest.raises(GtrTurboError, match="on another model under --more-teachers "):
        execute(scores)


def test_what_was_made_before_is_accepted_by_the_same_command(foreign, model, tmp_path):
    config = EvalConfig(out=tmp_path / "out", checkpoint=foreign, chance_episodes=0, **PLAY)
    execute(config)
    _as_made_before(config.out)
    assert execute(config).id == artifact_id(config.out)


def test_a_base_inside_counts_and_so_does_one_below_an_adapter(foreign, model, tmp_path):
    inside = _foreign_adapter(tmp_path / "inside", tmp_path / "own", on=model, named="base")
    shutil.copytree(model, inside / "base")
    config = EvalConfig(out=tmp_path / "out", checkpoint=inside, chance_episodes=0, **PLAY)
    execute(config)
    _change(inside / "base")
    with pytest.raises(GtrTurboError, match="on another model under --checkpoint"):
        execute(config)


def test_turns_that_an_adapter_played_on_another_model_are_not_its_own(foreign, model, tmp_path):
    turns = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=foreign, **PLAY)).out
    update = PpoStepConfig(out=tmp_path / "next", checkpoint=foreign, rollouts=turns, epochs=1, minibatch_size=1)
    _change(model)
    with pytest.raises(GtrTurboError, match=r"turns were played on another model under the adapter .*/a\.") as error:
        execute(update)
    assert error.value.fix.startswith("run: gtrturbo rollout")
    _as_made_before(turns)
    with pytest.raises(GtrTurboError, match=r"every turn of .* is illegal"):  # It got as far as the turns themselves.
        execute(update)


def test_what_a_manifest_says_or_is_an_input_itself_is_not_named_again(foreign, model, init, tmp_path):
    own = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=tmp_path / "own", **PLAY)).out
    assert read_manifest(own).inputs.keys() == {"checkpoint"}
    full = execute(RolloutConfig(out=tmp_path / "full", checkpoint=model, **PLAY)).out
    assert read_manifest(full).inputs.keys() == {"checkpoint"}
    around = execute(MergeConfig(out=tmp_path / "around", checkpoints=(foreign,), method="linear")).out
    assert read_manifest(around).inputs.keys() == {"base", "checkpoints"}
    apart = execute(MergeConfig(out=tmp_path / "apart", base=init, checkpoints=(foreign,), method="linear")).out
    assert read_manifest(apart).inputs.keys() == {"base", "checkpoints"}


def test_adapters_of_the_same_files_are_one_model_only_on_the_same_weights(foreign, model, tmp_path):
    for place in ("one", "two"):
        shutil.copytree(model, tmp_path / place / "b")
        _foreign_adapter(tmp_path / place / "a", tmp_path / "own", on=model, named="../b")
    one, two = str(tmp_path / "one" / "a"), str(tmp_path / "two" / "a")
    assert same_model(one, two)
    _change(tmp_path / "two" / "b")
    assert not same_model(one, two)
