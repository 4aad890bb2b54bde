"""Of a folder that code of one's own names all counts that lies in it, at any depth; what gtrturbo writes there does not."""

import hashlib
from pathlib import Path

import odd_environments
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks import code
from gtrturbo.tasks.code import files_of
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import environment_code

ENV = """
import gymnasium
from odd_environments import Plain

ROOMS = "rooms"

class Mine(Plain):
    pass

gymnasium.register("{name}/Env-v0", Mine)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of a module that names the folder `rooms`, of which two files lie there."""
    monkeypatch.syspath_prepend(tmp_path)
    put(tmp_path, {"rooms/1.txt": "a", "rooms/2.txt": "b", "beside.txt": ""})
    return tmp_path


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def sha256_of(folder: Path, name: str) -> str:
    put(folder, {f"{name}.py": ENV.format(name=name)})
    task = f"gym:{name}:{name}/Env-v0"
    load_task(task)
    return environment_code.__wrapped__(task, ())


def found(folder: Path, name: str) -> list[str]:
    put(folder, {f"{name}.py": 'ROOMS = "rooms"\n'})
    return sorted(each.removeprefix(f"{name}/") for each in files_of([name]) if each != name)


def test_a_folder_without_folders_hashes_as_its_names_and_files_in_order(folder):
    # sha256 of each name in order, and of the sha256 of its file: the hash that such an environment has in earlier versions, too.
    told, whole = sha256_of(folder, "f_flat"), hashlib.sha256()
    for name, file in (("f_flat", "f_flat.py"), ("f_flat/rooms/1.txt", "rooms/1.txt"), ("f_flat/rooms/2.txt", "rooms/2.txt")):
        plain = hashlib.sha256((folder / file).read_bytes()).digest()
        whole.update(name.encode() + plain)
    odd = [each for each in files_of(["f_flat"]) if each.startswith("odd_environments")]
    assert odd == ["odd_environments"]
    whole.update(b"odd_environments" + hashlib.sha256(Path(odd_environments.__file__).read_bytes()).digest())
    assert told == whole.hexdigest()


def test_an_edit_at_any_depth_makes_it_another_environment(folder):
    put(folder, {"rooms/deep/er/3.txt": "c"})
    before = sha256_of(folder, "f_deep")
    put(folder, {"rooms/deep/er/3.txt": "d"})
    assert sha256_of(folder, "f_deep") != before


def test_all_folders_count_but_hidden_ones_and_caches(folder):
    put(
        folder,
        {"rooms/a/b/c.json": "", "rooms/.git/x": "", "rooms/a/__pycache__/y.pyc": "", "rooms/a/z.py": "", "rooms/a/.h": ""},
    )
    assert found(folder, "f_kinds") == ["rooms/1.txt", "rooms/2.txt", "rooms/a/.h", "rooms/a/b/c.json"]


@pytest.mark.parametrize("mark", ["stage.json", "run.json", ".gtrturbo-draft"])
def test_what_gtrturbo_writes_in_a_folder_does_not_count(folder, mark):
    put(folder, {f"rooms/seed-3/init/{mark}": "{}", "rooms/seed-3/init/deep/more.txt": "", "rooms/seed-3/4.txt": ""})
    assert found(folder, "f_ours") == ["rooms/1.txt", "rooms/2.txt", "rooms/seed-3/4.txt"]


def test_links_are_followed_once(folder):
    put(folder, {"elsewhere/5.txt": ""})
    (folder / "rooms" / "linked").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "back").symlink_to(folder / "elsewhere")
    (folder / "rooms" / "up").symlink_to(folder)
    (folder / "rooms" / "nowhere").symlink_to(folder / "none")
    assert found(folder, "f_links") == ["rooms/1.txt", "rooms/2.txt", "rooms/linked/5.txt"]


@pytest.mark.parametrize("most", [{"MOST_BESIDE": 3}, {"MOST_SIZE": 3}])
def test_a_folder_of_too_much_is_refused(folder, most, monkeypatch):
    for name, value in most.items():
        monkeypatch.setattr(code, name, value)
    put(folder, {"rooms/a/3.txt": "c"})
    assert len(found(folder, "f_few")) == 3
    put(folder, {"rooms/a/4.txt": "d"})
    with pytest.raises(GtrTurboError, match=f"{folder / 'rooms'}, which code beside it names, holds more than") as error:
        found(folder, "f_few")
    assert "let the code name what it reads in there" in error.value.fix


def test_more_than_a_thousand_files_count(folder):
    put(folder, {f"rooms/{number}.txt": "" for number in range(1200)})
    assert len(found(folder, "f_many")) == 1200
