"""What `run --dry-run` refuses of a model as its first stage would, and how long prompts are: no weights are read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from more_families import MORE, TEMPLATES
from tiny_families import FAMILIES, make

from gtrturbo.config import RolloutConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.estimate import notes
from gtrturbo.stages import execute
from gtrturbo.store.turns import read_turn_tokens, read_turns


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a model of a family without its weights, as so many positions have it."""

    def model(name: str, positions: int | None = None) -> RunConfig:
        monkeypatch.setitem(FAMILIES, name, (FAMILIES | MORE)[name])
        folder = make(name, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        if positions:
            config["text_config"]["max_position_embeddings"] = positions
        (folder / "config.json").write_text(json.dumps(config))
        return RunConfig(out=tmp_path / "r", model=str(folder), task="numberline", env=("image=tiny",), device="cpu")

    return model


def without_weights(config: RunConfig) -> RunConfig:
    (Path(config.model) / "model.safetensors").unlink()
    return config


def test_a_model_without_a_template_is_refused_and_with_one_it_is_not(made, tmp_path):
    config = without_weights(made("paligemma"))
    with pytest.raises(GtrTurboError, match=r"has no chat template, .*\n.*--chat-template FILE"):
        notes(config)
    template = tmp_path / "turns.jinja"
    template.write_text(TEMPLATES["paligemma"])
    assert notes(replace(config, set=(f"init.chat-template={template}",)))


def test_a_family_that_the_first_stage_refuses_is_refused(made):
    with pytest.raises(GtrTurboError, match="gives cross_attention_mask for each token"):
        notes(without_weights(made("mllama")))


def test_prompts_have_as_many_tokens_as_the_processor_writes_and_have_to_fit(made, tmp_path, monkeypatch):
    config = made("internvl")
    [about] = [line for line in notes(config) if line.startswith("A turn has")]
    play = RolloutConfig(out=tmp_path / "t", checkpoint=Path(config.model), task="numberline", env=("image=tiny",), episodes=4)
    turns = execute(replace(play, max_new_tokens=2)).out
    longest = max(map(len, read_turn_tokens(turns, read_turns(turns)).prompt_ids))
    image = int(about.split()[3])
    assert abs(int(about.split("about ")[1].split()[0]) + image - longest) <= 2  # Numbers of one digit more or less.

    config = without_weights(made("internvl", positions=longest // 2))
    with pytest.raises(GtrTurboError, match=rf"a prompt has \d+ tokens, and .*model reads {longest // 2} at most"):
        notes(config)
    config = made("internvl", positions=longest + 20)
    assert [line for line in notes(config) if line.startswith("Replies may have") and f"of the {longest + 20} that" in line]
    assert not [line for line in notes(made("internvl", positions=9999)) if line.startswith("Replies may have")]


def test_a_model_that_is_not_here_is_planned_as_before(tmp_path):
    config = RunConfig(out=tmp_path / "r", model="nobody/nothing", task="numberline", env=("image=tiny",), device="cpu")
    assert any("is not on this machine" in line for line in notes(config))
