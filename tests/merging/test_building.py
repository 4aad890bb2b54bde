"""The compiled loops: loaded only from where nobody else writes, only as they were built, and what fails is told as it is."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import kernel
from gtrturbo.merging.building import built


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that writes a text, and counts how often it was called; and a cache of its own."""
    file, log = tmp_path / "mycc", tmp_path / "log"
    file.write_text(f'#!/bin/sh\necho called >> {log}\nwhile [ "$1" != -o ]; do shift; done\nprintf built > "$2"\n')
    file.chmod(0o755)
    log.touch()
    tmp_path.chmod(0o700)
    monkeypatch.setenv("CC", str(file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda: log.read_text().count("called")


def content() -> str:
    with built() as library:
        return library.read_text()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "gtrturbo").iterdir())


def test_a_library_is_built_once_and_its_name_says_its_content(tmp_path, compiler, capsys):
    assert [content(), content(), compiler()] == ["built", "built", 1]
    [library] = kept(tmp_path)
    assert library.stem.split("-")[2] == hashlib.sha256(b"built").hexdigest()
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700 and not library.stat().st_mode & 0o022
    assert capsys.readouterr().err == ""


def test_another_compiler_or_other_words_to_it_build_another_library(tmp_path, compiler, monkeypatch):
    content()
    monkeypatch.setenv("CC", f"{os.environ['CC']} -m64")
    content()
    changed = tmp_path / "mycc"
    changed.write_text(changed.read_text() + "# a new version\n")
    content()
    assert compiler() == 3 and len(kept(tmp_path)) == 3


DAMAGE = {
    "other content": lambda library, other: library.write_text("planted"),
    "a link": lambda library, other: (library.unlink(), library.symlink_to(other)),
    "a hard link": lambda library, other: os.link(library, other.with_name("second")),
    "a pipe": lambda library, other: (library.unlink(), os.mkfifo(library)),
    "a folder": lambda library, other: (library.unlink(), library.mkdir()),
    "writable by others": lambda library, other: library.chmod(0o777),
    "cut off": lambda library, other: os.truncate(library, 2),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_library_that_is_not_as_it_was_built_is_built_anew(tmp_path, compiler, damage):
    content()
    other = tmp_path / "other.so"
    other.write_text("built")
    damage(kept(tmp_path)[0], other)
    assert (content(), compiler()) == ("built", 2)
    assert other.read_text() == "built" and [library.read_text() for library in kept(tmp_path)] == ["built"]


def plant(tmp_path: Path) -> None:
    """Put an own library there, named as one that was built, with the hash of what it holds."""
    content()
    [library] = kept(tmp_path)
    library.unlink()
    name = f"{library.stem.rpartition('-')[0]}-{hashlib.sha256(b'planted').hexdigest()}.so"
    library.with_name(name).write_text("planted")
    library.with_name(name).chmod(0o700)


UNSAFE = {
    "writable by all": lambda folder: folder.chmod(0o777),
    "a link": lambda folder: (folder.rename(folder.with_name("real")), folder.symlink_to(folder.with_name("real"))),
    "below a folder of all": lambda folder: folder.parent.chmod(0o777),
}


@pytest.mark.parametrize("unsafe", UNSAFE.values(), ids=UNSAFE)
def test_nothing_is_loaded_from_where_others_write(tmp_path, compiler, unsafe, capsys):
    plant(tmp_path)
    assert content() == "planted"  # What a user puts into a folder of their own, with its hash, is their own affair.
    unsafe(tmp_path / "cache" / "gtrturbo")
    assert content() == "built" and "the merge's loops are built for this process alone: " in capsys.readouterr().err


def test_a_folder_that_a_umask_made_writable_for_a_group_is_mended_and_used(tmp_path, compiler, capsys):
    folder = tmp_path / "cache" / "gtrturbo"
    content()
    folder.chmod(0o770)
    before = kept(tmp_path)
    assert content() == "built" and capsys.readouterr().err == ""
    assert kept(tmp_path) == before and stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_folder_of_another_user_is_not_used(tmp_path, compiler, monkeypatch, capsys):
    plant(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert content() == "built" and "is no folder of your own" in capsys.readouterr().err


def test_a_cache_that_cannot_be_made_costs_a_build_and_nothing_else(tmp_path, compiler, monkeypatch, capsys):
    (tmp_path / "cache").write_text("a file")
    assert content() == "built" and "cache cannot be used (File exists)" in capsys.readouterr().err
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    assert content() == "built" and "you have no home folder" in capsys.readouterr().err


def test_what_is_built_for_one_process_and_what_a_killed_one_left_goes_away(tmp_path, compiler, monkeypatch):
    content()
    left = tmp_path / "cache" / "gtrturbo" / "build-left"
    left.mkdir()
    os.utime(left, (0, 0))
    kept(tmp_path)[1].unlink()
    content()
    assert not left.exists() and len(kept(tmp_path)) == 1
    (tmp_path / "cache" / "gtrturbo").chmod(0o777)
    with built() as library:
        assert library.is_file()
    assert not library.exists() and len(kept(tmp_path)) == 1


FAILING = {
    "#!/bin/sh\necho 'kernel.c:1: error: no \033[31mway' >&2\nexit 1\n": "fails: kernel.c:1: error: no ␛[31mway",
    "#!/bin/sh\nexit 3\n": "fails: exit code 3",
    "#!/bin/sh\nexit 0\n": "leaves no library",
    "no program": "cannot be started: Exec format error",
    '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nprintf text > "$2"\n': "the compiled loops cannot be loaded",
}


@pytest.mark.parametrize(("program", "said"), FAILING.items())
def test_what_is_wrong_with_a_compiler_is_told_as_it_is(tmp_path, compiler, program, said, capsys):
    (tmp_path / "mycc").write_text(program)
    kernel.compiled_kernel.cache_clear()
    try:
        assert kernel.compiled_kernel() is None
    finally:
        kernel.compiled_kernel.cache_clear()
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("cache/gtrturbo/build-*"))


@pytest.mark.parametrize(("named", "said"), [("/nowhere/cc -m64", "there is no such program"), ("'cc", "is no command")])
def test_a_name_of_no_compiler_is_told(monkeypatch, named, said):
    monkeypatch.setenv("CC", named)
    with pytest.raises(GtrTurboError, match=said), built():
        pass


def test_an_empty_name_means_the_machines_own(monkeypatch):
    monkeypatch.setenv("CC", " ")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(GtrTurboError, match="no C compiler: there is none of cc, gcc, clang"), built():
        pass
