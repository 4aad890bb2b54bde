"""Files that describe a model in words: what libraries pass over where it is damaged is refused by name."""

import json
import shutil

import pytest
from resealed import reseal

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.descriptions import LARGE, require_readable

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is no JSON from line 1, column 1 on"),
        (b"[]", "it is no JSON object"),
        (b'"text"', "it is no JSON object"),
        (b"{\n!", "it is no JSON from line 2, column 1 on"),
        ('{"a": 1}'.encode("utf-16"), "it is no text in UTF-8"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "4300 digits"),
        (DEEP, "it nests too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_by_its_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GtrTurboError) as error:
        require_readable(tmp_path)
    assert str(tmp_path / name) in error.value.what and said in error.value.what
    assert error.value.fix.startswith("put the file back; ")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe{}", b"", b" \n", b"{{ a }}\0", b"{% for", b"{{ a ", b"{% nosuch %}", b"{% generation %}{{ a }}", b"{" * 9],
)
def test_what_is_no_text_is_no_template(tmp_path, content):
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(GtrTurboError, match=r"chat_template\.jinja is damaged"):
        require_readable(tmp_path)


def test_objects_templates_and_infinity_are_taken(tmp_path):
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "ß": null}', encoding="utf-8")
    # The last two blocks are not Jinja's own: transformers has them in its environment.
    template = "{{ 'ß' }}{% for a in b %}{% generation %}{{ a }}{% endgeneration %}{% if a %}{% break %}{% endif %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(b"\xff")  # What is no JSON has other readers.
    require_readable(tmp_path)


def test_of_a_large_file_only_the_ends_are_looked_at(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({str(number): number for number in range(80_000)}))
    assert file.stat().st_size > LARGE
    require_readable(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(GtrTurboError, match=r"tokenizer\.json is damaged"):
        require_readable(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", b"\xff\xfe{\0}\0"),
        ("generation_config.json", DEEP),
        ("tokenizer_config.json", DEEP),
        ("chat_template.jinja", bytes(range(256))),
    ],
)
def test_a_policy_is_not_loaded_with_a_damaged_file_that_its_manifest_names(init, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(init, folder)
    (folder / name).write_bytes(content)
    reseal(folder)
    with pytest.raises(GtrTurboError, match=f"{name} is damaged"):
        load_policy(folder, device="cpu")


def test_a_tokenizer_without_the_end_of_a_turn_is_refused(init, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(init, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}))
    reseal(folder)
    with pytest.raises(GtrTurboError, match="names no eos_token"):
        load_policy(folder, device="cpu")
