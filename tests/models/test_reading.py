"""Files of a model that are damaged: one sentence with the model and the command that checks it, whatever a library raises."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.reading import reading_model


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
    assert error.value.fix.removeprefix("put the file back; ") == "download it again, or choose another model."


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
