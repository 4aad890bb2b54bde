"""Code of the user's own whose file is edited: what is named is the text that ran."""

import hashlib
import importlib
import os
import sys
from pathlib import Path

import pytest

from gtrturbo.config import PpoStepConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import load, one_text
from gtrturbo.runs.plan import Step
from gtrturbo.runs.sources import Watch

FIRST, SECOND = "RULE = 7\n", "RULE = 8\n"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def rule_file(tmp_path):
    file = tmp_path / "edited_rule.py"
    file.write_text(FIRST)
    return file


@pytest.fixture
def named_module(rule_file, monkeypatch):
    """The same file as a module on the path, which Python imports once."""
    monkeypatch.syspath_prepend(rule_file.parent)
    yield "edited_rule:RULE"
    sys.modules.pop("edited_rule", None)


def found(name: str) -> tuple[object, str]:
    plugin = load("merge rule", name)
    return plugin.value, plugin.sha256


def test_a_file_that_is_edited_while_it_is_imported_is_named_by_the_text_that_ran(rule_file):
    text = "from pathlib import Path\nPath(__file__).write_text('RULE = 8\\n')\nRULE = 7\n"
    rule_file.write_text(text)
    assert found(f"{rule_file}:RULE") == (7, sha256(text))
    assert found(f"{rule_file}:RULE") == (8, sha256(SECOND))


def test_a_text_of_the_same_size_and_second_is_another_text(rule_file, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # Python would keep the first one's, and take it for the second's.
    assert found(f"{rule_file}:RULE") == (7, sha256(FIRST))
    before = rule_file.stat()
    rule_file.write_text(SECOND)
    os.utime(rule_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(f"{rule_file}:RULE") == (8, sha256(SECOND))


def test_within_a_block_a_file_stays_what_it_was_and_after_it_is_what_it_says(rule_file):
    name = f"{rule_file}:RULE"
    with one_text():
        plugin = load("merge rule", name)
        rule_file.write_text(SECOND)
        with one_text():  # A stage of a run.
            assert found(name) == (7, sha256(FIRST)) and plugin.edited
        rule_file.unlink()
        assert found(name) == (7, sha256(FIRST)) and plugin.edited
        rule_file.write_text(FIRST)
        assert not plugin.edited
        rule_file.write_text(SECOND)
    assert found(name) == (8, sha256(SECOND))


def test_a_module_that_is_edited_is_named_by_the_text_that_was_imported_or_refused(rule_file, named_module):
    with one_text():
        assert found(named_module) == (7, sha256(FIRST))
        rule_file.write_text(SECOND)
        assert found(named_module) == (7, sha256(FIRST))
    with pytest.raises(GtrTurboError, match=r"edited_rule\.py was edited after it was imported") as error:
        load("merge rule", named_module)
    assert f"{rule_file}:NAME" in error.value.fix
    rule_file.write_text(FIRST)
    assert found(named_module) == (7, sha256(FIRST))


def test_a_module_that_other_code_imported_is_named_by_what_it_was_then(rule_file, named_module, tmp_path):
    (tmp_path / "other.py").write_text("from edited_rule import RULE\n")
    assert load("merge rule", f"{tmp_path / 'other.py'}:RULE").value == 7
    rule_file.write_text(SECOND)
    with pytest.raises(GtrTurboError, match="was edited after it was imported"):
        load("merge rule", named_module)


def test_a_module_that_is_imported_again_is_named_by_its_new_text(rule_file, named_module):
    assert found(named_module) == (7, sha256(FIRST))
    rule_file.write_text("RULE = 1000\n")
    importlib.reload(sys.modules["edited_rule"])
    assert found(named_module) == (1000, sha256("RULE = 1000\n"))


@pytest.fixture
def update(rule_file) -> Step:
    out = rule_file.parent
    config = PpoStepConfig(out=out / "next", checkpoint=out / "c", rollouts=out / "t", credit=f"{rule_file}:RULE")
    return Step("ppo-step", config, 5)


def test_a_run_in_one_process_tells_once_of_code_that_was_edited(rule_file, update, capsys):
    watch = Watch(alone=False)
    with one_text():
        watch(update)
        assert capsys.readouterr().err == ""
        rule_file.write_text(SECOND)
        watch(update)
        watch(update)
    told = capsys.readouterr().err
    assert told.count("edited_rule.py was edited while the run is at work") == 1 and sha256(FIRST)[:6] in told


def test_a_run_whose_stages_are_processes_refuses_the_step_that_would_be_made_by_another_text(rule_file, update):
    watch = Watch(alone=True)
    with one_text():
        watch(update)
        rule_file.write_text(SECOND)
        with pytest.raises(GtrTurboError, match=r"ppo-step of iteration 5 would be made by another text") as error:
            watch(update)
        assert error.value.fix == "bring it back as it was, and run it again with the same options: what is there stays."
        update.config.out.mkdir()
        Path(update.config.out / "stage.json").touch()
        watch(update)  # It is there, made by the text that was.
