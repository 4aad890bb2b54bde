"""Files of a model that are damaged: one sentence with the model and the command that checks it, whatever a library raises."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.reading import reading_model
from gtrturbo.stages import execute
from gtrturbo.store.mending import WRITE_AGAIN
from gtrturbo.store.names import MODEL_INDEX, MODEL_WEIGHTS


@pytest.fixture
def copy(init, tmp_path) -> Path:
    shutil.copytree(init, tmp_path / "model", ignore=shutil.ignore_patterns("stage.json"))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "qwen2_5_vl", "text_config": 5}'),
        ("config.json", b'{"model_type": []}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\0" * 64),
        ("tokenizer_config.json", b"[]"),
        ("processor_config.json", b'{"image_processor": {"size": "x"}}'),
        ("model.safetensors", b""),
        ("value_head.safetensors", b"junk"),
    ],
)
def test_a_damaged_file_is_told_with_the_model(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(GtrTurboError) as error:
        load_policy(copy, device="cpu")
    assert str(copy) in error.value.what
    assert len(error.value.what) < 600
    assert error.value.fix.removeprefix("put the file back; ") == WRITE_AGAIN


def put(name: str, **values: Any) -> Callable[[Path], None]:
    """Change settings of a JSON file; those of a part are named PART__SETTING."""

    def change(model: Path) -> None:
        content = json.loads((model / name).read_text())
        for key, value in values.items():
            part, _, setting = key.rpartition("__")
            (content[part] if part else content)[setting] = value
        (model / name).write_text(json.dumps(content))

    return change


def drop(name: str, key: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        content = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({other: value for other, value in content.items() if other != key}))

    return change


def made_of(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(make((model / name).read_bytes()))  # type: ignore[func-returns-value]


def leads_nowhere(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(model / "nowhere")

    return change


def is_a_folder(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).mkdir()

    return change


CODE = r" its config.json and transformers' code for type qwen2_5_vl do not fit together \(\w+; --debug shows where\)\."
SIZES = r"/model.safetensors cannot be read: it has \d+ bytes, its header says \d+\."
PARTS_OF_CONFIG = " cannot be loaded: its config.json holds what does not fit together: "
NO_ROW = r"^the tokenizer of .* writes token \d+, and the model has \d+ of them\."


@pytest.mark.parametrize(("change", "told"), [
    (made_of(MODEL_WEIGHTS, lambda raw: raw[:-7]), SIZES),
    (made_of(MODEL_WEIGHTS, lambda raw: raw + b"xx"), SIZES),
    (made_of(MODEL_WEIGHTS, lambda raw: raw[:99]), r"/model.safetensors cannot be read: it is cut off within its header\."),
    (made_of(MODEL_WEIGHTS, lambda raw: b"\0" * len(raw)), r"/model.safetensors cannot be read: its header is no JSON\."),
    (made_of(MODEL_WEIGHTS, lambda raw: b""), r"/model.safetensors cannot be read: it has no header\."),
    (leads_nowhere(MODEL_WEIGHTS), r"/model.safetensors is a link that leads nowhere, and no file\."),
    (is_a_folder(MODEL_WEIGHTS), r"/model.safetensors is a folder, and no file\."),
    (leads_nowhere(MODEL_INDEX), r"/model.safetensors.index.json is a link that leads nowhere, and no file\."),
    (leads_nowhere("generation_config.json"), r"/generation_config.json is a link that leads nowhere, and no file\."),
    (leads_nowhere("chat_template.jinja"), r"/chat_template.jinja is a link that leads nowhere, and no file\."),
    (lambda model: (model / MODEL_WEIGHTS).unlink(), " of its weights there is no file, such as model.safetensors."),
    (made_of("tokenizer.json", lambda raw: b"{}"), r"/tokenizer.json is damaged: it is JSON, and no tokenizer\."),
    (drop("tokenizer.json", "model"), r"/tokenizer.json is damaged: it is JSON, and no tokenizer\."),
    (drop("tokenizer.json", "added_tokens"), r"/tokenizer.json is damaged: it has no added_tokens\."),
    (put("tokenizer_config.json", pad_token="<another>"), NO_ROW),
    (put("tokenizer_config.json", eos_token="<another>"), NO_ROW),
    (put("config.json", text_config__pad_token_id=10**6), CODE),
    (put("config.json", text_config__hidden_size=-8), CODE),
    (put("config.json", text_config__num_attention_heads=0), CODE),
    (put("config.json", text_config__hidden_act="none"), CODE),
    (put("config.json", text_config__layer_types=[]), PARTS_OF_CONFIG + r"`num_hidden_layers` .* `layer_types`"),
    (put("config.json", text_config__vocab_size=10**13), " cannot be loaded: it asks for more memory than there is."),
    (put("config.json", text_config__intermediate_size=7),
     r" has another shape than the model: \S+ is \[\d+, \d+\], not \[\d+, \d+\]"),
    (made_of("chat_template.jinja", lambda raw: b"{{ x.y.z }}"), "its chat template fails: 'x' is undefined."),
])  # fmt: skip
def test_a_folder_whose_files_are_odd_is_told_in_our_own_words_with_a_mend_of_a_folder(copy, change, told, tmp_path):
    change(copy)
    for ask in (lambda: load_policy(copy, device="cpu"), lambda: execute(InitConfig(out=tmp_path / "out", model=str(copy)))):
        with pytest.raises(GtrTurboError, match=told) as error:
            ask()
        assert error.value.what.startswith((f"{copy}", "the tokenizer of")) and len(error.value.what) < 400
        assert error.value.fix.endswith(WRITE_AGAIN)


def test_the_base_of_an_adapter_is_named_where_its_weights_are_cut(copy, tmp_path):
    adapter = execute(InitConfig(out=tmp_path / "adapter", model=str(copy), lora_rank=2)).out
    made_of(MODEL_WEIGHTS, lambda raw: raw[:-7])(copy)
    with pytest.raises(GtrTurboError, match=r"model/model.safetensors cannot be read: it has \d+ bytes") as error:
        load_policy(adapter, device="cpu")
    assert error.value.fix == WRITE_AGAIN


def test_what_a_device_says_is_not_taken_for_the_files(copy):
    with pytest.raises(GtrTurboError, match="RuntimeError: CUDA error: device-side assert"), reading_model(copy):
        raise RuntimeError("CUDA error: device-side assert")


@pytest.mark.parametrize(("name", "value", "told"), [
    ("video_token_id", 10**6, "names token 1000000, and its vocabulary has "),
    ("image_token_id", -1, "names token -1, and its vocabulary has "),
    ("image_token_id", 0, "means token 0 by a picture, and its processor writes "),
])  # fmt: skip
def test_tokens_of_pictures_that_the_model_and_its_processor_do_not_share_are_refused(copy, name, value, told):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(GtrTurboError, match=told):
        load_policy(copy, device="cpu")


@pytest.mark.parametrize("name", ["eos_token", "pad_token"])
def test_a_tokenizer_that_writes_tokens_the_model_has_not_is_refused(copy, name):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {name: "<|another|>"}))
    with pytest.raises(GtrTurboError, match=r"the tokenizer of .* writes token \d+, and the model has \d+ of them"):
        load_policy(copy, device="cpu")


@pytest.mark.parametrize("uniforms", [np.full((1, 4), 0.5), None], ids=["drawn", "greedy"])
def test_logits_that_are_no_numbers_are_refused_and_no_token_is_made_of_them(copy, uniforms):
    policy = load_policy(copy, device="cpu")
    with torch.no_grad():
        # An entry of a normalised state that is above 1.2 becomes infinite in float32.
        policy.model.get_parameter("model.language_model.norm.weight").fill_(3e38)
    prompt = policy.renderer.prompt([{"role": "user", "content": "hello"}], [])
    with pytest.raises(GtrTurboError, match=r"^the logits of .* are not finite at temperature 1"):
        policy.generate([prompt], uniforms, temperature=1.0, max_new_tokens=4)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(GtrTurboError, match=f"{name} is no regular file, but a pipe or a device."):
        load_policy(copy, device="cpu")


@pytest.mark.parametrize("template", ["{% for %}", "{{ x.y.z }}", "{{ 1 / 0 }}", "{% for i in range(10 ** 9) %}{% endfor %}"])
def test_a_damaged_chat_template_is_told_with_the_model(copy, template):
    (copy / "chat_template.jinja").write_text(template)
    # What a conversation is rendered by is tried when a model is loaded.
    with pytest.raises(GtrTurboError, match=f"^{copy}(/chat_template.jinja is damaged: | cannot (be loaded|render a prompt): )"):
        load_policy(copy, device="cpu").renderer.prompt([{"role": "user", "content": "hello"}], [])


def test_too_little_memory_is_not_the_fault_of_the_files(copy):
    with pytest.raises(MemoryError), reading_model(copy):
        raise MemoryError


def test_a_token_that_the_model_has_no_embedding_for_is_refused_where_it_is_written(policy):
    policy.renderer.processor.tokenizer.add_tokens(["zyzzyva"])
    with pytest.raises(GtrTurboError, match=r"writes token \d+, and the model has \d+ of them"):
        policy.renderer.prompt([{"role": "user", "content": "zyzzyva"}], [])
    with pytest.raises(GtrTurboError, match=r"writes token \d+, and the model has \d+ of them"):
        policy.renderer.response_ids("zyzzyva")
