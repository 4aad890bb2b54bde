"""Which files an environment of the user's own is made of: all that it imports, and those beside it that it names."""

import importlib
import os
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from gtrturbo.plugins import is_users
from gtrturbo.tasks.code import files_of
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import environment_code, origin

ENV = """
import gymnasium
from odd_environments import Plain
from {name}_settings import PAY

class Mine(Plain):
    def __init__(self, **how):
        from {name}_lazy import START
        super().__init__(**how)

gymnasium.register("{name}/Env-v0", Mine)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write files by name, and let them be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        return tmp_path

    return write


def names(*modules):
    return sorted(files_of(modules))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from c_numbers import PAY, GOAL", ["c_main", "c_numbers"]),
        ("def make():\n    import c_numbers", ["c_main", "c_numbers"]),
        ("def make():\n    import c_pack.inner as x", ["c_main", "c_pack", "c_pack.inner", "c_pack.more"]),
        ("def make():\n    from c_pack import inner", ["c_main", "c_pack", "c_pack.inner", "c_pack.more"]),
        ("import importlib\nhow = lambda: importlib.import_module('c_numbers')", ["c_main", "c_numbers"]),
        ("import os.path, numpy, no_such_module_at_all", ["c_main"]),
        ("STARTS = 'starts.json'", ["c_main", "c_main/starts.json"]),
        ("LEVELS = 'levels'", ["c_main", "c_main/levels/1.txt", "c_main/levels/2.txt"]),
        ("ONE = 'levels/1.txt'\nNONE = ('', '.', '..', '/', '\\0', 'x' * 9999, '\\ud800')", ["c_main", "c_main/levels/1.txt"]),
        ("def end():\n    open('starts.json', 'a').write('x')", ["c_main"]),
        ("def end(here):\n    (here / 'starts.json').write_text('x')\n    (here / 'levels').open(mode='w')", ["c_main"]),
        ("this is no Python", ["c_main"]),
    ],
)
def test_files_are_found_without_being_imported(text, found, written):
    written({"c_main.py": text, "c_numbers.py": "PAY = GOAL = 1.0\n", "starts.json": "[1]", "beside.txt": ""})
    written({"levels/1.txt": "", "levels/2.txt": "", "c_pack/__init__.py": ""})
    written({"c_pack/inner.py": "from . import more\nfrom .nowhere import x\n", "c_pack/more.py": ""})
    assert names("c_main", "numpy", "") == found and not {"c_main", "c_numbers", "c_pack"} & sys.modules.keys()


@pytest.mark.parametrize("name", ["c_one", "importlib_c.two"])
def test_each_edit_of_what_an_environment_is_made_of_makes_it_another(name, written, monkeypatch):
    place, _, module = name.rpartition(".")
    files = {f"{module}.py": ENV.format(name=module) + "STARTS = 'starts.json'\n", f"{module}_settings.py": "PAY = 1.0\n"}
    files |= {f"{module}_lazy.py": "START = 3\n", "starts.json": "[1]"}
    folder = written({str(Path(place, file)): text for file, text in files.items()}) / place
    monkeypatch.syspath_prepend(folder)
    task = f"gym:{module}:{module}/Env-v0"
    load_task(task)
    before = {environment_code.__wrapped__(task, ())}
    for file in files:
        (folder / file).write_text((folder / file).read_text() + "\n")
        before.add(environment_code.__wrapped__(task, ()))
    assert len(before) == 1 + len(files) and "" not in before
    assert len(origin(task, ())["version"].split()[-1]) == 12


def test_a_folder_of_the_users_may_have_any_name():
    assert is_users("/home/me/importlib_envs/mine.py") and is_users(f"{os.path.dirname(os.__file__)}_of_mine/mine.py")
    assert not any(map(is_users, [importlib.__file__, "<frozen importlib._bootstrap>", os.__file__, gym.__file__, "<string>"]))
