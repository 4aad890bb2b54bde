"""Models that cannot be worked with are told for what they are: no pictures, a part that is missing, weights too large."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resealed import reseal
from safetensors.torch import load_file, save_file
from tiny_families import TEXT, make, template, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from gtrturbo.config import DistillConfig, InitConfig, RolloutConfig, SftConfig
from gtrturbo.errors import Collapse, GtrTurboError
from gtrturbo.models.families import DEFAULT
from gtrturbo.models.processor import load_processor
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.shape import read_shape
from gtrturbo.stages import execute
from gtrturbo.store.mending import FETCH_AGAIN, mend_of

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def internvl(tmp_path_factory) -> Path:
    return make("internvl", tmp_path_factory.mktemp("families") / "internvl")


@pytest.fixture(scope="module")
def text_only(tmp_path_factory) -> Path:
    """A language model that takes no pictures."""
    folder = tmp_path_factory.mktemp("text") / "llama"
    words = tokenizer({}, bos=True)
    words.chat_template = template("", bos=True)
    settings: dict[str, Any] = {"vocab_size": len(words), **TEXT}
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def changed(source: Path, out: Path, change) -> Path:
    """A copy of a model with other weights; a checkpoint's is no artifact any more."""
    shutil.copytree(source, out)
    (out / "stage.json").unlink(missing_ok=True)
    weights = load_file(out / WEIGHTS)
    change(weights)
    save_file(weights, out / WEIGHTS, {"format": "pt"})
    return out


@pytest.mark.parametrize("ask", [
    lambda model, out: execute(InitConfig(out=out, model=str(model))),
    lambda model, out: execute(RolloutConfig(out=out, checkpoint=model, task="numberline", episodes=1)),
    lambda model, out: read_shape(str(model)),
], ids=["init", "rollout", "dry-run"])  # fmt: skip
def test_a_text_only_model_is_told_as_one(text_only, tmp_path, ask):
    with pytest.raises(GtrTurboError, match="llama is no image-text-to-text model, but of type llama: ") as error:
        ask(text_only, tmp_path / "out")
    assert error.value.fix == "choose a model that takes pictures and text."


def test_what_has_no_manifest_cannot_be_checked_but_fetched_again(internvl, warm, tmp_path):
    model = changed(internvl, tmp_path / "lacks", lambda weights: weights.pop(next(name for name in weights if "k_proj" in name)))
    with pytest.raises(GtrTurboError, match="lacks 1 tensors") as error:
        execute(InitConfig(out=tmp_path / "out", model=str(model)))
    assert error.value.fix == mend_of(model) == FETCH_AGAIN
    assert mend_of(warm) == f"see: gtrturbo show {warm} --check"


def test_a_command_that_is_told_can_be_run_where_a_name_holds_spaces(warm, tmp_path):
    copy = shutil.copytree(warm, tmp_path / "two words")
    assert mend_of(copy) == f"see: gtrturbo show '{copy}' --check"


def test_weights_that_overflow_inside_a_norm_are_told_at_init(internvl, tmp_path):
    def grow(weights):
        weights[next(name for name in weights if "vision" not in name and "layers.1.mlp.down_proj" in name)] *= 1e38

    with pytest.raises(GtrTurboError, match="gives every token the same chance: its weights are too large"):
        execute(InitConfig(out=tmp_path / "out", model=str(changed(internvl, tmp_path / "huge", grow))))


def test_a_tokenizer_that_nothing_here_reads_names_what_does(internvl, tmp_path, monkeypatch):
    monkeypatch.setattr("gtrturbo.models.reading.find_spec", lambda _: None)
    model = shutil.copytree(internvl, tmp_path / "pieces")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"no pieces")
    with pytest.raises(GtrTurboError, match="needs sentencepiece, which is not installed") as error:
        execute(InitConfig(out=tmp_path / "out", model=str(model)))
    assert error.value.fix == "install it: pip install sentencepiece protobuf"


def test_a_prompt_without_a_template_asks_for_one(tmp_path):
    renderer = Renderer(load_processor(make("untaught", tmp_path / "untaught"), family=DEFAULT), DEFAULT)
    with pytest.raises(GtrTurboError, match="cannot render a prompt") as error:
        renderer.prompt([{"role": "user", "content": [{"type": "image"}]}], [np.zeros((56, 56, 3), np.uint8)])
    assert "--chat-template FILE" in error.value.fix


def test_a_picture_that_a_processor_refuses_is_told_by_its_size(policy):
    narrow = np.zeros((2, 600, 3), np.uint8)
    with pytest.raises(GtrTurboError, match="cannot render a prompt") as error:
        policy.renderer.prompt([{"role": "user", "content": [{"type": "image"}]}], [narrow])
    assert error.value.fix.startswith("the pictures are 2 × 600: let the task show others; or see: gtrturbo show ")


@pytest.fixture(scope="module")
def too_large(warm, tmp_path_factory) -> Path:
    """The warm model with an output head whose logits overflow."""

    def grow(weights):
        weights["model.norm.weight"] *= 1e38

    large = changed(warm, tmp_path_factory.mktemp("large") / "large", grow)
    shutil.copy(warm / "stage.json", large)  # Else it would play a first turn, which tells it too.
    return reseal(large)


def test_a_teacher_whose_logits_overflow_is_told_as_one(too_large, turns, tmp_path):
    with pytest.raises(Collapse, match=r"the logits of .*large are not finite at temperature ") as error:
        execute(DistillConfig(out=tmp_path / "out", teacher=too_large, rollouts=turns))
    assert "its weights are too large" in error.value.fix


def test_a_loss_that_is_no_number_at_first_is_the_checkpoints(too_large, expert, tmp_path):
    with pytest.raises(GtrTurboError, match=r"loss is .* at step 0") as error:
        execute(SftConfig(out=tmp_path / "out", data=(expert,), checkpoint=too_large, steps=2, batch_size=4))
    assert error.value.fix.startswith(f"{too_large}: its weights are too large")


def test_what_the_last_step_made_is_looked_at(ppo_config, warm, expert, tmp_path):
    ppo = replace(ppo_config, out=tmp_path / "ppo", learning_rate=1e9, minibatch_size=10**4)
    sft = SftConfig(
        out=tmp_path / "sft", data=(expert,), checkpoint=warm, steps=1, batch_size=4, learning_rate=1e9, warmup_steps=0
    )
    for config in (ppo, sft):
        with pytest.raises(Collapse, match="after the last step the logits are not finite: nothing was written"):
            execute(config)
        assert not config.out.exists()
