"""Models that cannot be worked with are told for what they are: no pictures, a part that is missing, weights too large."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from resealed import reseal
from safetensors.torch import load_file, save_file
from tiny_families import TEXT, make, template, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import is_timm_available

from gtrturbo.config import DistillConfig, InitConfig, RolloutConfig, SftConfig
from gtrturbo.errors import Collapse, GtrTurboError
from gtrturbo.models.checkpoint_files import copy_renderer, renderer_hash
from gtrturbo.models.descriptions import has_vocabulary
from gtrturbo.models.families import DEFAULT
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import missing_package
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.shape import read_shape
from gtrturbo.stages import execute
from gtrturbo.store.mending import FETCH_AGAIN, WRITE_AGAIN, mend_of

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


FEW_LAYERS = {"text_config": {"num_hidden_layers": 4}}
LAYERS = {f"model.language_model.layers.{number}.weight": torch.zeros(1) for number in range(4)}
APART = r"an encoder-decoder, of type {}: its replies stand apart from its prompts"
OTHER = "choose a model that takes pictures and text."


@pytest.mark.parametrize(("name", "settings", "told", "mend"), [
    ("udop", {}, APART.format("udop"), OTHER),
    ("pix2struct", {}, APART.format("pix2struct"), OTHER),
    ("florence2", {}, APART.format("florence2"), OTHER),
    ("pi0", {}, "writes no text: the config of type pi0 has no vocabulary", OTHER),
    pytest.param("perception_lm", FEW_LAYERS, "type perception_lm needs timm, which is not installed",
                 "install it: pip install timm", marks=pytest.mark.skipif(is_timm_available(), reason="timm is installed")),
    ("qwen4_exp", FEW_LAYERS | {"vision_config": {"depth": 4}},
     r"its config.json and transformers' code for type qwen4_exp do not fit together \(TypeError; --debug", WRITE_AGAIN),
])  # fmt: skip
def test_a_family_that_cannot_play_is_told_by_its_type_in_one_sentence(name, settings, told, mend, tmp_path):
    model = tmp_path / "model"
    hf.CONFIG_MAPPING[name](**settings).save_pretrained(model)
    save_file(LAYERS, model / WEIGHTS, {"format": "pt"})
    with pytest.raises(GtrTurboError, match=told) as error:
        execute(InitConfig(out=tmp_path / "out", model=str(model)))
    assert error.value.what.startswith(str(model)) and "\n" not in error.value.what
    assert error.value.fix.startswith(mend) and "\n" not in error.value.fix


def test_a_type_that_transformers_does_not_know_is_told_with_what_may_know_it(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    with pytest.raises(
        GtrTurboError, match=rf"transformers {hf.__version__} does not know type of_tomorrow\.\nupdate it: pip"
    ) as error:
        execute(InitConfig(out=tmp_path / "out", model=str(model)))
    assert "\n" not in error.value.what


@pytest.mark.parametrize(
    "error",
    [AttributeError("'X' object has no attribute 'y'"), TypeError("forward() got\nz"), NotImplementedError(), KeyError("rope")],
    ids=repr,
)
def test_an_error_of_code_in_the_first_turn_is_told_by_the_models_type_and_not_by_its_text(
    error, internvl, tmp_path, monkeypatch
):
    def fails(self, *args, **settings):
        raise error

    monkeypatch.setattr(Policy, "generate", fails)
    with pytest.raises(GtrTurboError) as told:
        execute(InitConfig(out=tmp_path / "out", model=str(internvl)))
    said = "does not work as transformers' models of pictures and text do"
    kind = type(error).__name__
    assert told.value.what == f"{internvl} is of type internvl and cannot play a turn: it {said} ({kind}; --debug shows where)."
    assert "--family" in told.value.fix and told.value.__cause__ is error


def test_a_model_that_an_adapter_cannot_be_put_on_is_told_by_its_type(internvl, tmp_path, monkeypatch):
    def fails(self):
        raise NotImplementedError("`get_input_embeddings` not auto-handled;\nplease override")

    monkeypatch.setattr(hf.InternVLForConditionalGeneration, "get_output_embeddings", fails)
    with pytest.raises(GtrTurboError, match="takes no adapter: its files and transformers' code for type internvl") as error:
        execute(InitConfig(out=tmp_path / "out", model=str(internvl), lora_rank=2))
    assert error.value.fix == "train all weights: --lora-rank 0." and "\n" not in error.value.what


def test_a_model_without_its_processor_is_told_which_file_it_lacks(internvl, tmp_path):
    model = shutil.copytree(internvl, tmp_path / "model")
    (model / "processor_config.json").unlink()
    with pytest.raises(GtrTurboError, match=r"of its image processor there is no file, such as preprocessor_config\.json\."):
        execute(InitConfig(out=tmp_path / "out", model=str(model)))


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ImportError("\nTimmWrapperModel requires the timm library but it was not found in your environment."), "timm"),
        (ImportError("\nXModel requires the no-such_library library but it was not found"), "no-such_library"),
        (ModuleNotFoundError("No module named 'nowhere'", name="nowhere"), "nowhere"),
        (ValueError("it requires the torch library"), None),
    ],
)
def test_a_package_that_a_library_lacks_is_named_whichever_it_is(error, package, monkeypatch):
    monkeypatch.setattr("gtrturbo.models.reading.find_spec", lambda _: None)
    assert missing_package(error) == package


def test_what_has_no_manifest_cannot_be_checked_but_fetched_again(internvl, warm, tmp_path):
    model = changed(internvl, tmp_path / "lacks", lambda weights: weights.pop(next(name for name in weights if "k_proj" in name)))
    with pytest.raises(GtrTurboError, match="lacks 1 tensors") as error:
        execute(InitConfig(out=tmp_path / "out", model=str(model)))
    assert error.value.fix == mend_of(model) == WRITE_AGAIN and mend_of("some/model") == FETCH_AGAIN
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


def lose(file: Path) -> None:
    file.unlink()


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


@pytest.mark.parametrize(("change", "told"), [
    (lose, "is not there."), (make_folder, "is a folder."), (link_to_nothing, "is a link that leads nowhere."),
])  # fmt: skip
@pytest.mark.parametrize("ask", [
    lambda model, turns, out: execute(InitConfig(out=out, model=str(model))),
    lambda model, turns, out: execute(DistillConfig(out=out, teacher=model, rollouts=turns)),
], ids=["init", "distill"])  # fmt: skip
def test_a_model_without_a_tokenizer_is_told_as_one(change, told, ask, init, internvl, turns, tmp_path):
    # transformers makes a tokenizer of eight tokens of the one, and looks for SentencePiece with the other.
    for source in (init, internvl):
        model = shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("stage.json"))
        change(model / "tokenizer.json")
        with pytest.raises(GtrTurboError) as error:
            ask(model, turns, tmp_path / "out")
        assert error.value.what == f"{model} has no tokenizer: tokenizer.json {told}"
        assert error.value.fix == "copy it from where the model was made, or download the model again."


@pytest.mark.parametrize(("files", "whole"), [
    (("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"), False),
    (("vocab.json",), False), (("merges.txt",), False), (("vocab.json", "merges.txt"), True), (("vocab.txt",), True),
    (("tokenizer.json",), True), (("tokenizer.4.0.0.json",), True), (("tokenizer.model",), True), (("tokenizer.model.v3",), True),
    (("spiece.model",), True), (("sentencepiece.bpe.model",), True), (("qwen.tiktoken",), True), (("tekken.json",), True),
])  # fmt: skip
def test_a_tokenizer_is_known_by_the_files_of_its_family(files, whole, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    assert has_vocabulary(tmp_path) is whole


@pytest.mark.parametrize("name", ["tekken.json", "vocab.txt", "spiece.model", "tokenizer.model.v3", "qwen.tiktoken"])
def test_a_vocabulary_of_any_name_goes_along_and_counts(name, tmp_path):
    source, copy = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    copy.mkdir()
    (source / "tokenizer_config.json").write_text("{}")
    before = renderer_hash(source)
    # Of what was made before: the name, a zero byte, the content, a zero byte, for each file in the order of the names.
    assert before == hashlib.sha256(b"tokenizer_config.json\0{}\0").hexdigest()
    (source / name).write_text("{}")
    copy_renderer(source, copy)
    assert (copy / name).read_text() == "{}" and has_vocabulary(copy)
    assert before != renderer_hash(source) == renderer_hash(copy)


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
