"""What makes a task of the user's own: a function, a part of one, or an object; of its types only the options' are read."""

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import load
from gtrturbo.tasks.loading import load_task

HEAD = """
from __future__ import annotations
from functools import partial, wraps
from typing import TYPE_CHECKING, Literal
from own_tasks import WALK
if TYPE_CHECKING:
    from gtrturbo.tasks import Task
    from nowhere import Size

def make(*, n: int = 3, way: Literal["right", "left"] = "right", shy: bool | None = None) -> Task:
    return WALK

class Maker:
    def __call__(self, *, n: int = 3) -> Task:
        return WALK

def told(function):
    @wraps(function)
    def call(**options):
        return function(**options)
    return call

PART, FULL, MAKER, TOLD = partial(make, n=4), partial(make, n=4, way="left", shy=True), Maker(), told(make)

def sized(*, size: Size = 3) -> Task:
    return WALK

def quoted(*, size: "list[" = 3) -> Task:
    return WALK

def either(*, n: int | str | None = None) -> Task:
    return WALK

def several(**options) -> Task:
    return WALK

def needs(view, *, n: int = 3) -> Task:
    return WALK

def needs_first(n: int = 3, /) -> Task:
    return WALK
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(HEAD)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


@pytest.mark.parametrize(
    ("name", "options", "made"),
    [
        ("make", ["n=5"], {"n": 5, "way": "right", "shy": None}),
        ("PART", [], {"n": 4, "way": "right", "shy": None}),
        ("PART", ["n=5", "way=left"], {"n": 5, "way": "left", "shy": None}),
        ("FULL", [], {"n": 4, "way": "left", "shy": True}),
        ("MAKER", ["n=5"], {"n": 5}),
        ("TOLD", ["n=5"], {"n": 5, "way": "right", "shy": None}),
    ],
)
def test_a_task_is_made_by_whatever_can_be_called(own, name, options, made):
    assert load_task(own(name), options).options == made


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sized", r"mine.py:sized has an argument size of the type 'Size', which cannot be read: name 'Size' is not defined"),
        ("quoted", r"mine.py:quoted has an argument size of the type .*list\[.*, which cannot be read: "),
        ("several", r"mine.py:several takes \*\*options, of which nobody knows the names"),
        ("either", r"mine.py:either has an argument n of a kind that cannot be written"),
        ("needs", r"mine.py:needs has an argument view without a default"),
        ("needs_first", r"mine.py:needs_first takes n by its place"),
    ],
)
def test_what_cannot_be_an_option_is_told_with_the_file(own, name, told):
    with pytest.raises(GtrTurboError, match=told) as error:
        load_task(own(name))
    assert error.value.fix


def test_what_lies_beside_a_file_is_told_where_it_is_not_found(tmp_path):
    (tmp_path / "beside_it.py").write_text("X = 1\n")
    (tmp_path / "package_beside").mkdir()
    fix = f"set PYTHONPATH to the folder {tmp_path}, in which"
    for text in ("from beside_it import X", "import package_beside.inner"):
        (tmp_path / "mine.py").write_text(f"{text}\n")
        with pytest.raises(GtrTurboError, match="raises ModuleNotFoundError") as error:
            load("task", f"{tmp_path / 'mine.py'}:X")
        assert error.value.fix.startswith(fix)
    (tmp_path / "mine.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(GtrTurboError, match="raises ModuleNotFoundError") as error:
        load("task", f"{tmp_path / 'mine.py'}:X")
    assert error.value.fix == "import no_such_module_at_all"
    (tmp_path / "mine.py").write_text("from .beside_it import X\n")
    with pytest.raises(GtrTurboError, match="raises ImportError: attempted relative import") as error:
        load("task", f"{tmp_path / 'mine.py'}:X")
    assert error.value.fix == f"set PYTHONPATH to the folder {tmp_path}, and import what lies in it by its name, without dots."


LATE = """
import gymnasium as gym
from dataclasses import replace
from own_tasks import WALK

def make():
    import beside_it_late
    return WALK.make()

TASK = replace(WALK, make=make)

def TOO_LATE():
    import beside_it_late
"""


def test_what_is_imported_while_it_is_at_work_is_told_too(tmp_path):
    (tmp_path / "beside_it_late.py").write_text("")
    (tmp_path / "mine.py").write_text(LATE)
    with pytest.raises(GtrTurboError, match="cannot be made: No module named 'beside_it_late'") as error:
        load_task(f"{tmp_path / 'mine.py'}:TASK").open()
    assert error.value.fix.startswith(f"set PYTHONPATH to the folder {tmp_path}")
