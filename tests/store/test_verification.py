"""Ids are verified: what a stage reads is what its manifest says, however it was changed."""

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store import seen
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.pruned import prune
from gtrturbo.store.strict_json import parse_json
from gtrturbo.store.verification import read_verified, verify
from gtrturbo.store.writing import writing

LARGE = bytes(range(256)) * (1 << 13)  # 2 MiB
WORK = Provenance(stage="sft", kind="checkpoint", config={"steps": 3}, inputs={"checkpoint": "a" * 64})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gtrturbo" / "verified.json"


@pytest.fixture
def made(tmp_path) -> Path:
    """An artifact of a small file, a picture and a large file, which is so old that its times can be trusted."""
    with writing(tmp_path / "a", WORK) as draft:
        (draft.folder / "small.txt").write_bytes(b"small")
        (draft.folder / "images").mkdir()
        (draft.folder / "images" / "p.png").write_bytes(b"picture")
        (draft.folder / "large.bin").write_bytes(LARGE)
    return tmp_path / "a"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["always", "once", "never"])
@pytest.mark.parametrize("name", ["small.txt", "images/p.png"])
def test_a_small_file_with_one_bit_changed_is_always_refused(made, name, how):
    verify(made, how)
    flip(made / name)
    with pytest.raises(GtrTurboError, match=rf"{name} is not what sft wrote \(\w{{6}}, not \w{{6}}\)"):
        verify(made, how)


@pytest.mark.parametrize("how", ["always", "once"])
def test_a_large_file_with_one_bit_changed_is_refused(made, how):
    verify(made, how)
    flip(made / "large.bin")
    with pytest.raises(GtrTurboError, match=r"large.bin is not what sft wrote"):
        verify(made, how)


def test_appended_missing_and_additional_files_are_refused(made):
    (made / "notes.txt").write_text("not of the stage")
    with pytest.raises(GtrTurboError, match=r"notes.txt is there, and sft did not write it"):
        verify(made, "once")
    (made / "notes.txt").unlink()
    (made / "small.txt").write_bytes(b"small\n")
    with pytest.raises(GtrTurboError, match=r"small.txt is not what sft wrote"):
        verify(made, "once")
    (made / "small.txt").unlink()
    with pytest.raises(GtrTurboError, match=r"small.txt is missing"):
        verify(made, "never")


def test_files_swapped_between_two_artifacts_are_refused(made, tmp_path):
    with writing(tmp_path / "b", WORK) as draft:
        (draft.folder / "large.bin").write_bytes(LARGE[::-1])
    shutil.copy2(tmp_path / "b" / "large.bin", made / "large.bin")
    with pytest.raises(GtrTurboError, match=r"large.bin is not what sft wrote"):
        verify(made, "once")


def test_a_large_file_is_hashed_once_while_it_looks_the_same(made, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    verify(made, "once")
    monkeypatch.setattr("gtrturbo.store.verification.sha256_file", lambda file: "0" * 64)

    def large(name: str) -> bool:
        return name == "large.bin"

    verify(made, "once", reads=large)
    verify(made, "never", reads=large)
    with pytest.raises(GtrTurboError, match=r"large.bin is not what sft wrote"):
        verify(made, "always", reads=large)


def test_a_changed_file_whose_time_was_put_back_is_hashed_again(made, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    verify(made, "once")
    before = (made / "large.bin").stat()
    flip(made / "large.bin")
    os.utime(made / "large.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(GtrTurboError, match=r"large.bin is not what sft wrote"):
        verify(made, "once")


def test_never_still_refuses_a_file_that_looks_otherwise_than_it_was_seen(made, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    verify(made, "once")
    flip(made / "large.bin")
    with pytest.raises(GtrTurboError, match=r"large.bin has another size or time than when it was last found whole") as error:
        verify(made, "never")
    assert error.value.fix == "have it read: --verify-inputs once"


@pytest.mark.parametrize("junk", [b"", b"{", b'{"/a": 1}', b"\xff", b'{"/a": {"sha256": "x", "mark": [1]}}'])
def test_a_record_that_cannot_be_read_costs_time_alone(made, cache, junk):
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(junk)
    verify(made, "once")
    flip(made / "large.bin")
    with pytest.raises(GtrTurboError, match=r"large.bin is not"):
        verify(made, "once")


@pytest.fixture
def for_a_group():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_record_that_is_written_under_any_umask_is_believed(for_a_group, made, cache, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    cache.unlink(missing_ok=True)
    verify(made, "always")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    monkeypatch.setattr("gtrturbo.store.verification.sha256_file", lambda file: "0" * 64)
    verify(made, "once", reads=lambda name: name == "large.bin")


def test_a_record_that_others_may_write_is_not_believed(made, cache, monkeypatch):
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    verify(made, "once")
    assert seen.looks()
    cache.chmod(0o666)
    assert seen.looks() == {}
    cache.chmod(0o600)
    cache.parent.chmod(0o777)
    assert seen.looks() == {}


def test_pruned_files_are_not_missing(made):
    prune(made, ["large.bin"], remake="gtrturbo sft …")
    verify(made, "once")


def test_a_file_is_read_as_the_manifest_says_or_not_at_all(made):
    assert read_verified(made, "small.txt") == b"small"
    (made / "small.txt").write_bytes(b"smalL")
    with pytest.raises(GtrTurboError, match=r"small.txt is not what sft wrote"):
        read_verified(made, "small.txt")


TWICE = '{"format": 1, "files": {"a": "x", "a": "y"}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWICE, "it names 'a' twice"),
        ('{"format": NaN}', "it holds NaN, which is no number"),
        ('{"format": -Infinity}', "it holds -Infinity"),
        ('{"format": true}', "its format is True, not a whole number"),
        ('{"format": 1.0}', "its format is 1.0"),
        ("[1]", "its format is None"),
        ("", "Expecting value"),
        ("[" * 100_000, "it nests too deeply"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(made, text, said):
    (made / MANIFEST).write_text(text)
    with pytest.raises(GtrTurboError, match=f"stage.json is damaged: .*{said}"):
        read_manifest(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extra", 1),
        ("kind", "weights"),
        ("stage", "train"),
        ("files", {"large.bin": "0" * 63}),
        ("files", {"large.bin": "g" * 64}),
        ("files", {"large.bin": "0" * 64 + "\n"}),
        ("metrics", {"loss": True}),
        ("metrics", {"loss": "0.5"}),
        ("renderer", "abc"),
        ("inputs", {"checkpoint": 3}),
        ("config", []),
        ("version", 2),
        ("plugins", {"task": "mine"}),
    ],
)
def test_a_manifest_with_text_that_no_stage_writes_is_refused(made, name, value):
    content = json.loads((made / MANIFEST).read_text())
    (made / MANIFEST).write_text(json.dumps(content | {name: value}))
    with pytest.raises(GtrTurboError, match=r"stage.json is damaged"):
        read_manifest(made)


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("rollout", "temperature", "0.5"),
        ("rollout", "temperature", True),
        ("rollout", "temperature", -1.0),
        ("rollout", "temperature", None),
        ("rollout", "seed", 2**64),
        ("rollout", "seed", 1.0),
        ("rollout", "episodes", [3]),
        ("rollout", "episodes", 0),
        ("rollout", "env", {"horizon": 2}),
        ("rollout", "env", ["horizon=2", 3]),
        ("rollout", "env", "horizon=2"),
        ("rollout", "task", 5),
        ("rollout", "expert", "true"),
        ("distill", "top_logprobs", "4"),
        ("ppo-step", "gamma", {}),
        ("merge", "normalize", 1),
    ],
)
def test_a_manifest_whose_settings_no_option_may_have_been_is_refused(made, stage, name, value):
    content = json.loads((made / MANIFEST).read_text())
    (made / MANIFEST).write_text(json.dumps(content | {"stage": stage, "config": {name: value}}))
    with pytest.raises(GtrTurboError, match=f"stage.json is damaged: its setting {name.replace('_', '-')} is"):
        read_manifest(made)


def test_settings_as_stages_write_them_and_those_of_other_versions_are_read(made):
    config = {
        "temperature": 1, "seed": 2**64 - 1, "env": ["horizon=2"], "revision": None, "no_such": [{}], "density": "0.2",
        "expert": False, "episodes": 3,
    }  # fmt: skip
    content = json.loads((made / MANIFEST).read_text())
    (made / MANIFEST).write_text(json.dumps(content | {"stage": "rollout", "config": config}))
    assert read_manifest(made).config == config


def test_a_manifest_with_something_behind_it_is_refused(made):
    with (made / MANIFEST).open("a") as file:
        file.write("\n")
    with pytest.raises(GtrTurboError, match="there is more than one value with a newline"):
        read_manifest(made)


def test_json_is_read_as_it_was_written():
    assert parse_json('{"a": [1, 2.5, "ü", null, true]}\n'.encode()) == {"a": [1, 2.5, "ü", None, True]}


def test_what_was_just_written_is_not_hashed_again(tmp_path, monkeypatch):
    with writing(tmp_path / "new", WORK) as draft:
        (draft.folder / "large.bin").write_bytes(LARGE)
        draft.hashes["large.bin"] = hashlib.sha256(LARGE).hexdigest()  # As a merge knows it when the last byte is written.
    hashed = []
    monkeypatch.setattr("gtrturbo.store.verification.sha256_file", lambda file: hashed.append(file.name))
    verify(tmp_path / "new", "once")
    assert hashed == []
