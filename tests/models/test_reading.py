"""Files of a model that are damaged: one sentence with the model and the command that checks it, whatever a library raises."""

import os
import shutil
from pathlib import Path

import pytest

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
def test_a_damaged_file_is_told_with_the_model_and_its_check(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(GtrTurboError) as error:
        load_policy(copy, device="cpu")
    assert str(copy) in error.value.what
    assert len(error.value.what) < 600
    assert error.value.fix == f"see: gtrturbo show {copy} --check"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(GtrTurboError, match=f"{name} is no regular file, but a pipe or a device."):
        load_policy(copy, device="cpu")


@pytest.mark.parametrize("template", ["{% for %}", "{{ x.y.z }}", "{{ 1 / 0 }}", "{% for i in range(10 ** 9) %}{% endfor %}"])
def test_a_damaged_chat_template_is_told_with_the_model(copy, template):
    (copy / "chat_template.jinja").write_text(template)
    policy = load_policy(copy, device="cpu")
    with pytest.raises(GtrTurboError, match=f"^{copy} cannot render a prompt: "):
        policy.renderer.prompt([{"role": "user", "content": "hello"}], [])


def test_too_little_memory_is_not_the_fault_of_the_files(copy):
    with pytest.raises(MemoryError), reading_model(copy):
        raise MemoryError
