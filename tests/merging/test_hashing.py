"""What happens beside a merge: its output is hashed and synced while it is written, foreign inputs are hashed meanwhile."""

import hashlib
import os
import shutil
import threading

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import engine, hashing
from gtrturbo.merging.hashing import Hasher
from gtrturbo.store import ids as identities
from gtrturbo.store import open_files as files
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.open_files import Files

SIZE = 10_000


@pytest.fixture
def out(tmp_path):
    opened = Files()
    opened.create(tmp_path / "out", b"", SIZE)
    yield opened, tmp_path / "out"
    opened.close()


def write(opened, path, hasher, start, stop):
    data = (np.arange(start, stop) % 251).astype(np.uint8)
    opened.write(path, start, data)
    hasher.wrote(start, stop)


def test_parts_in_any_order_give_the_hash_of_the_file(out, monkeypatch):
    monkeypatch.setattr(hashing, "STEP", 1000)
    monkeypatch.setattr(hashing, "PIECE", 300)
    opened, path = out
    hasher = Hasher(opened, path, SIZE)
    for start in (7000, 0, 9000, 2000, 4500):
        write(opened, path, hasher, start, {0: 2000, 2000: 4500, 4500: 7000, 7000: 9000, 9000: SIZE}[start])
    assert hasher.digest() == hashlib.sha256(bytes(i % 251 for i in range(SIZE))).hexdigest()


def test_the_disk_is_waited_for_while_the_file_grows(out, monkeypatch):
    monkeypatch.setattr(hashing, "FLUSH", 3000)
    opened, path = out
    synced = threading.Semaphore(0)
    monkeypatch.setattr(files.os, "fsync", lambda _: synced.release())
    hasher = Hasher(opened, path, SIZE)
    write(opened, path, hasher, 0, 2999)
    assert not synced.acquire(timeout=0.05)
    for start, stop in ((2999, 3500), (3500, 9999)):
        write(opened, path, hasher, start, stop)
        assert synced.acquire(timeout=10)
    write(opened, path, hasher, 9999, SIZE)
    hasher.digest()
    assert not synced.acquire(blocking=False)  # The end of the file is synced by whoever finishes it.


@pytest.mark.parametrize("call", ["fsync", "preadv"])
def test_a_disk_that_fails_while_the_file_is_followed_is_an_error(out, monkeypatch, call):
    monkeypatch.setattr(hashing, "FLUSH", 3000)
    opened, path = out

    def failing(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(files.os, call, failing)
    hasher = Hasher(opened, path, SIZE)
    write(opened, path, hasher, 0, SIZE)
    with pytest.raises(OSError, match="Input/output error"):
        hasher.digest()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_foreign_inputs_are_hashed_once_each_by_the_threads_that_merge(folders, family, monkeypatch, threads):
    base, others = family(3)
    ids = [artifact_id(path) for path in (base, *others)]
    genuine, hashed = identities.content_hash, []

    def counted(path):
        hashed.append((path, threading.current_thread()))
        return genuine(path)

    monkeypatch.setattr(identities, "content_hash", counted)
    inputs = read_manifest(folders.merge(*others, base=base, threads=threads)).inputs
    assert [inputs["base"], *inputs["checkpoints"]] == ids
    assert sorted(path for path, _ in hashed) == sorted(file for path in (base, *others) for file in path.iterdir())
    assert threading.main_thread() not in [thread for _, thread in hashed]


def test_no_further_input_is_hashed_once_a_merge_has_failed(folders, family, monkeypatch):
    base, others = family(3)
    failed = threading.Event()
    hashed = []

    def failing(*_):
        failed.set()
        raise GtrTurboError("broken")

    def slow(path):
        hashed.append(path)
        failed.wait(10)
        threading.Event().wait(0.2)  # Until the others have heard of it.
        return ""

    monkeypatch.setattr("gtrturbo.stages.merge.artifact_id", slow)
    monkeypatch.setattr(engine.Merge, "_merge", failing)
    with pytest.raises(GtrTurboError, match="broken"):
        folders.merge(*others, base=base, method="linear", threads=2)
    assert len(hashed) == 1


def test_an_input_that_cannot_be_hashed_is_named(folders, family, monkeypatch):
    base, others = family(2)

    def failing(path):
        raise OSError(5, os.strerror(5), str(path))

    monkeypatch.setattr(identities, "content_hash", failing)
    with pytest.raises(GtrTurboError, match=r"checkpoint0-|base0") as error:
        folders.merge(*others, base=base)
    assert "cannot be read or written: its disk reports an error" in str(error.value)


def test_a_copy_of_the_base_among_foreign_checkpoints_is_named_as_one(folders, family):
    base, others = family(2)
    again = shutil.copytree(base, folders.root / "again")
    merged = folders.merge(again, *others, base=base)
    assert read_manifest(merged).inputs["checkpoints"] == [artifact_id(path) for path in (again, *others)]
