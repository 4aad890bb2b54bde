"""The built-in models: their sizes, their tokenizer, and what init makes of them."""

import hashlib
import json

import pytest
import torch

from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import built_in
from gtrturbo.models.built_in import build, build_processor, build_tokenizer
from gtrturbo.models.checkpoint import load_model
from gtrturbo.models.shape import read_shape
from gtrturbo.models.sizes import BUILT_IN, BuiltIn
from gtrturbo.models.under_adapter import base_of
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.texts import task_texts

WORDS = 573  # of the default tokenizer
ANY_TEXT = "请看图片，然后选择一个动作。🧊🏁 naïve\ttext\n\n  of 12,345 ½ signs"


def parameters(sizes: BuiltIn, vocabulary: int) -> int:
    """Count by hand: weights and biases of each layer."""
    h, f, k = sizes.hidden, sizes.inner, sizes.hidden // sizes.heads * sizes.key_value_heads
    layer = (h * h + h) + 2 * (h * k + k) + h * h + 3 * h * f + 2 * h
    w, g = sizes.vision_hidden, sizes.vision_inner
    block = (3 * w * w + 3 * w) + (w * w + w) + 3 * w * g + 2 * g + w + 2 * w
    merger = w + (4 * w) * (4 * w) + 4 * w + (4 * w) * h + h
    vision = 3 * 2 * 14 * 14 * w + sizes.vision_layers * block + merger
    return vocabulary * h + sizes.layers * layer + h + vision


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_model_has_as_many_parameters_as_its_sizes_give_and_the_page_says(name):
    model, processor = build(name, seed=0)
    assert len(processor.tokenizer) == WORDS
    assert model.num_parameters() == parameters(BUILT_IN[name], WORDS) == {"tiny": 288_592, "small": 725_056}[name]
    assert f"{model.num_parameters():,}" in str(built_in.__doc__)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_sections_of_a_head_share_its_dimensions_in_pairs(name):
    sizes = BUILT_IN[name]
    assert 2 * sum(sizes.mrope_section) == sizes.hidden // sizes.heads


def test_the_default_tokenizer_is_what_it_was():
    # Of the vocabulary that checkpoints made before there was a choice have: their turns are read with the same ids.
    vocabulary = build_processor().tokenizer.get_vocab()
    found = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    assert found == "e0d23c812f1de5ae1e096a30776b55822b912d4034bc235dc045c49397f35951"


@pytest.mark.parametrize("texts", [None, ["left", "right"], []], ids=["default", "of a task", "of nothing"])
def test_any_text_can_be_written(texts):
    tokenizer = build_processor(texts).tokenizer
    ids = tokenizer(ANY_TEXT)["input_ids"]
    assert tokenizer.unk_token_id is None
    assert tokenizer.decode(ids) == ANY_TEXT


def test_each_word_of_a_tasks_texts_and_of_the_template_is_one_token():
    tokenizer = build_tokenizer(["Walk over frozen lakes."])
    assert tokenizer.tokenize("Walk over frozen lakes.") == ["Walk", "Ġover", "Ġfrozen", "Ġlakes", "."]
    assert [len(tokenizer.tokenize(role)) for role in ("system", "user", "assistant")] == [1, 1, 1]
    assert len(build_processor().tokenizer.tokenize("Walk over frozen lakes.")) > 5


@pytest.fixture(scope="module")
def of_task(tmp_path_factory):
    out = tmp_path_factory.mktemp("built_in") / "of_task"
    return execute(InitConfig(out=out, model="small", task="numberline", env=("image=tiny",), lora_rank=4, dtype="bfloat16")).out


def test_init_of_a_task_makes_the_tokenizer_of_its_texts(of_task, init):
    of_texts = build_tokenizer(task_texts(load_task("numberline", ["image=tiny"])))
    written = json.loads((of_task / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert of_texts.get_vocab() == written
    assert len(of_texts) < WORDS
    assert (read_manifest(of_task).config["task"], read_manifest(of_task).config["env"]) == ("numberline", ["image=tiny"])
    assert (read_manifest(init).config["task"], read_manifest(init).config["env"]) == (None, [])


def test_an_adapter_on_a_built_in_model_keeps_its_base_inside(of_task):
    assert base_of(of_task) == str(of_task / "base")
    model = load_model(of_task)
    assert model.config.text_config.hidden_size == 128
    assert {parameter.dtype for name, parameter in model.named_parameters() if "lora_" not in name} == {torch.bfloat16}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_shape_of_a_built_in_model_is_read_without_its_weights(name):
    shape = read_shape(name, lora_rank=4)
    assert shape is not None
    assert (shape.parameters, shape.vocabulary, shape.hidden) == (parameters(BUILT_IN[name], WORDS), WORDS, BUILT_IN[name].hidden)
    of_texts = read_shape(name, texts=["left", "right"])
    # The 256 bytes, two and three words of the template and of the texts made of them, and the eight special tokens.
    assert of_texts is not None and 256 + 8 + 5 < of_texts.vocabulary < WORDS


def test_a_task_is_refused_for_a_model_that_brings_its_tokenizer(tmp_path):
    with pytest.raises(GtrTurboError) as refusal:
        execute(InitConfig(out=tmp_path / "x", model="some/model", task="numberline"))
    assert refusal.value.what == "some/model brings its tokenizer with it, so that --task numberline has nothing to make."
    assert "tiny, small" in refusal.value.fix
    assert not (tmp_path / "x").exists()


def test_options_of_no_task_are_refused(tmp_path):
    with pytest.raises(GtrTurboError, match="--env image=tiny is of no task"):
        InitConfig(out=tmp_path / "x", env=("image=tiny",))
