"""What the cache keeps is found again under every umask, whichever of its parts was made first."""

import os
import stat
from pathlib import Path

import pytest

from gtrturbo.play.teaching.kept_answers import KeptAnswers, default_folder
from gtrturbo.store import seen
from gtrturbo.store.hashes import WORTH_REMEMBERING
from gtrturbo.store.kept import kept
from gtrturbo.store.seen import Look, looks, mark_of, remember


@pytest.fixture(params=[0o022, 0o002, 0o000])
def own_cache(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setattr(seen, "SETTLED_BY_FINE_CLOCK", -1)
    before = os.umask(request.param)
    yield tmp_path / "home" / "cache" / "gtrturbo"
    os.umask(before)


def keep_numbers() -> None:
    kept("chance", {"a": 1}, lambda: {"random": 0.25})


def keep_answers() -> None:
    KeptAnswers(default_folder())


def remember_one(folder: Path) -> None:
    (folder / "large.bin").write_bytes(b"0" * WORTH_REMEMBERING)
    remember(folder, {"large.bin": Look("0" * 64, mark_of(folder / "large.bin"))})


def test_kept_numbers_are_found_again_under_any_umask(own_cache):
    keep_numbers()
    assert kept("chance", {"a": 1}, lambda: {"random": 0.75}) == {"random": 0.25}
    [file] = (own_cache / "chance").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("first", [keep_numbers, keep_answers])
def test_a_record_is_believed_whoever_made_the_cache(own_cache, tmp_path, first):
    first()
    remember_one(tmp_path)
    assert len(looks()) == 1
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


def test_a_cache_that_the_group_could_write_to_becomes_ones_own(own_cache, tmp_path):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o775)
    remember_one(tmp_path)
    assert len(looks()) == 1 and stat.S_IMODE(own_cache.stat().st_mode) == 0o755


def test_a_cache_that_everybody_may_write_to_stays_as_it_is(own_cache, tmp_path):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    remember_one(tmp_path)
    assert looks() == {} and stat.S_IMODE(own_cache.stat().st_mode) == 0o777


def test_folders_of_answers_elsewhere_lie_in_folders_as_the_umask_makes_them(own_cache, tmp_path):
    (tmp_path / "plain").mkdir()
    KeptAnswers(tmp_path / "runs" / "answers")
    assert (tmp_path / "runs").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert stat.S_IMODE((tmp_path / "runs" / "answers").stat().st_mode) == 0o700
