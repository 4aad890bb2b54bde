"""Code of the user's own: found by name, told apart by its text, and with its own line where it fails."""

import hashlib
import sys

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import calling, find, is_outside, load

TABLE = {"ties": 1, "linear": 2, "slerp": 3}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("RULE = 7\nRULES = 8\n_HIDDEN = 9\n")
    return path


def test_a_built_in_name_is_the_tables():
    assert find("merge rule", "ties", TABLE) == 1


def test_an_unknown_name_lists_what_is_built_in_and_what_is_spelt_alike():
    with pytest.raises(GtrTurboError, match="there is no merge rule 'tiess'") as error:
        find("merge rule", "tiess", TABLE)
    assert "did you mean ties?" in error.value.fix
    assert "ties, linear, slerp" in error.value.fix
    assert "path/to/file.py:NAME" in error.value.fix


def test_a_file_gives_its_name_and_the_sha256_of_its_text(file):
    plugin = load("merge rule", f"{file}:RULE")
    assert plugin.value == 7
    assert plugin.name == "mine.py:RULE"
    assert plugin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_module_is_found_on_the_path(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    assert find("merge rule", "mine:RULE", TABLE) == 7
    assert load("merge rule", "mine:RULE").name == "mine:RULE"


def test_a_file_is_imported_once_and_again_when_its_text_changed(file):
    file.write_text("THING = object()\n")
    first = load("task", f"{file}:THING").value
    assert load("task", f"{file}:THING").value is first
    file.write_text("THING = object()  # another\n")
    assert load("task", f"{file}:THING").value is not first


def test_a_missing_name_lists_those_spelt_alike(file):
    with pytest.raises(GtrTurboError, match=r"mine.py has no RULEZ to be a merge rule") as error:
        load("merge rule", f"{file}:RULEZ")
    assert error.value.fix == "spelt alike: RULE, RULES."


def test_a_missing_file_lists_those_spelt_alike(file):
    with pytest.raises(GtrTurboError, match="there is no file") as error:
        load("task", f"{file.with_name('mime.py')}:RULE")
    assert error.value.fix == "beside it: mine.py."


def test_a_missing_module_says_how_to_name_a_file():
    with pytest.raises(GtrTurboError, match="there is no module nowhere_at_all") as error:
        load("task", "nowhere_at_all.inner:X")
    assert "nowhere_at_all.inner.py:NAME" in error.value.fix


def test_code_that_raises_shows_its_own_line_and_can_be_tried_again(file):
    file.write_text("import math\n\n\ndef deep():\n    return math.sqrt(-1)\n\n\nRULE = deep()\n")
    with pytest.raises(GtrTurboError, match=r"mine.py line 5 raises ValueError") as error:
        load("merge rule", f"{file}:RULE")
    assert error.value.fix == "return math.sqrt(-1)"
    assert not [name for name in sys.modules if name.startswith("_gtrturbo_") and not hasattr(sys.modules[name], "__file__")]


def test_code_that_is_no_python_shows_its_line(file):
    file.write_text("RULE = 7\ndef (\n")
    with pytest.raises(GtrTurboError, match=r"mine.py line 2 is no Python"):
        load("merge rule", f"{file}:RULE")


def test_a_module_that_lacks_another_names_its_own_line(file, monkeypatch):
    file.write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(file.parent)
    sys.modules.pop("mine", None)
    with pytest.raises(GtrTurboError, match=r"mine.py line 1 raises ModuleNotFoundError"):
        load("task", "mine:TASK")


@pytest.mark.parametrize(
    ("name", "outside"),
    [("ties", False), ("a.b:C", True), ("x/y.py:Z", True), ("ema:0.5", False), ("runs/a", False), (":X", False), ("C:/x", False)],
)
def test_names_of_outside_code_are_told_from_others(name, outside):
    assert is_outside(name) is outside


def test_a_file_without_a_name_in_it_says_how_to_name_one(file):
    with pytest.raises(GtrTurboError, match="is a file, and a task is something in it") as error:
        find("task", str(file), TABLE)
    assert error.value.fix == f"name that, too: {file}:NAME"


def test_what_is_imported_is_not_offered(file):
    file.write_text("import math\nfrom pathlib import Path\nTASK = 1\n")
    with pytest.raises(GtrTurboError) as error:
        load("task", f"{file}:nope")
    assert error.value.fix == "it has: TASK."


def test_of_many_names_it_is_said_how_many_are_left_out(file):
    file.write_text("".join(f"{letter * 9} = 1\n" for letter in "abcdefghijklmnopq"))
    with pytest.raises(GtrTurboError) as error:
        load("task", f"{file}:X")
    assert error.value.fix == f"it has: {', '.join(letter * 9 for letter in 'abcdefghijkl')} and 5 more."


def test_code_that_is_called_otherwise_than_it_takes_is_named(file):
    with pytest.raises(GtrTurboError, match="engine mine does not fit: TypeError"), calling("engine", "mine"):
        (lambda: None)(1)  # type: ignore[call-arg]
