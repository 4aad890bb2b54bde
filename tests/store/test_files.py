"""Files that are written whole or not at all."""

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtrturbo.errors import of_system
from gtrturbo.store import files
from gtrturbo.store.files import list_files, save_json, write_whole
from gtrturbo.store.leftovers import find_leftovers, remove_leftover
from gtrturbo.store.names import PRUNED
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.saved_pictures import is_saved, save_image
from gtrturbo.store.writing import writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_written_again(tmp_path):
    for content in (b"first", b""):
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content and names(tmp_path) == ["a"]


def test_a_file_follows_the_umask_like_every_other(tmp_path):
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, error):
    write_whole(tmp_path / "a", b"old")

    def full(descriptor):
        raise error

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(error):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path):
    save_json(tmp_path / "a", {"loss": 0.5})
    with pytest.raises(ValueError):
        save_json(tmp_path / "a", {"loss": float("nan")})
    assert json.loads((tmp_path / "a").read_text()) == {"loss": 0.5} and names(tmp_path) == ["a"]


@pytest.mark.parametrize("target", ["theirs", "nowhere"], ids=["a link", "a link to nothing"])
def test_a_link_that_lies_at_the_drafts_name_is_not_followed(tmp_path, monkeypatch, target):
    (tmp_path / "theirs").write_text("years of work")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "known")
    (tmp_path / ".a.known").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "theirs").read_text() == "years of work"
    assert names(tmp_path) == [".a.known", "theirs"]


def test_the_draft_of_a_killed_prune_is_no_file_of_the_artifact(tmp_path):
    (tmp_path / f".{PRUNED}.0123").touch()
    (tmp_path / ".keep").touch()
    assert list_files(tmp_path) == [".keep"]


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.mark.parametrize("kept", [0, 20, 60, 8], ids=["empty", "cut short", "cut later", "signature alone"])
def test_a_picture_that_a_killed_process_left_unfinished_is_made_again(tmp_path, kept):
    file = tmp_path / save_image(tmp_path, PIXELS)
    whole = file.read_bytes()
    os.truncate(file, kept)
    assert tmp_path / save_image(tmp_path, PIXELS) == file
    assert file.read_bytes() == whole and names(tmp_path / "images") == [file.name]


def test_a_whole_picture_is_not_written_again(tmp_path):
    file = tmp_path / save_image(tmp_path, PIXELS)
    before = file.stat().st_ino
    save_image(tmp_path, PIXELS)
    assert file.stat().st_ino == before


@pytest.mark.parametrize("shape", [(4, 6, 3), (6, 4, 3)])
def test_another_whole_picture_under_the_name_is_noticed_and_made_again(tmp_path, shape):
    file = tmp_path / save_image(tmp_path, PIXELS)
    whole = file.read_bytes()
    Image.fromarray(np.zeros(shape, np.uint8)).save(file)
    assert not is_saved(tmp_path, f"images/{file.name}")
    save_image(tmp_path, PIXELS)
    assert file.read_bytes() == whole and is_saved(tmp_path, f"images/{file.name}")


LEFT = ".a.0123456789abcdef"


def test_what_a_killed_writer_left_of_a_file_goes_when_the_file_is_written_again(tmp_path):
    for name in (LEFT, ".a.0123456789abcdeg", ".b.0123456789abcdef", ".a.0123", "a.0123456789abcdef"):
        (tmp_path / name).write_text("left")
    write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == [".a.0123", ".a.0123456789abcdeg", ".b.0123456789abcdef", "a", "a.0123456789abcdef"]


def test_what_another_writer_is_writing_stays(tmp_path):
    (tmp_path / LEFT).write_text("at work")
    with (tmp_path / LEFT).open() as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == [LEFT, "a"]


WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.mark.parametrize("number", WITHOUT_LOCKS)
def test_a_file_system_without_locks_is_told_with_the_path_and_what_mends_it(tmp_path, monkeypatch, number):
    def without(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(OSError) as of_file:
        write_whole(tmp_path / "a", b"new")
    with pytest.raises(OSError) as of_folder, writing(tmp_path / "out", Provenance("init", "checkpoint", {}, {})):
        raise AssertionError("a draft that nothing holds")
    for error, name in ((of_file, "a"), (of_folder, "out")):
        told = of_system(error.value)
        assert told.what == f"{tmp_path / name} cannot be locked: its file system has no locks that work."
        assert "mounted with locks" in told.fix
    assert names(tmp_path) == []


def test_where_a_lock_needs_a_file_that_is_open_for_writing_what_was_left_goes_all_the_same(tmp_path, monkeypatch):
    genuine = fcntl.flock

    def of_nfs(descriptor: int, how: int) -> None:
        reading = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if reading and stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        genuine(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    (tmp_path / LEFT).write_text("left")
    write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_what_was_left_and_cannot_be_locked_stays(tmp_path, monkeypatch):
    genuine, left = fcntl.flock, tmp_path / LEFT
    left.write_text("left")

    def but_of_one(descriptor: int, how: int) -> None:
        if os.path.samestat(os.fstat(descriptor), left.stat()):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        genuine(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", but_of_one)
    write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == [LEFT, "a"]
    [found] = find_leftovers(tmp_path)
    assert "cannot be locked" in remove_leftover(found) and names(tmp_path) == [LEFT, "a"]


def test_a_link_with_the_name_of_a_draft_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / LEFT).symlink_to("victim")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_that_has_no_name_is_told_by_its_path():
    with pytest.raises(IsADirectoryError) as error:
        write_whole(Path("/"), b"")
    assert error.value.filename == "/"


def test_an_out_below_a_link_that_leads_in_a_circle_is_an_error_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    work = Provenance("init", "checkpoint", {}, {})
    with pytest.raises(OSError, match="loop"), writing(tmp_path / "loop" / "out", work):
        pass
