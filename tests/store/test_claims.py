"""Folders that are written beside their place: made anew, held by one process, and never reached through a link."""

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.accumulators import replace_sums
from gtrturbo.merging.state import RunningSums, claimed
from gtrturbo.store import claims
from gtrturbo.store.claims import claimed_anew, holds_no_links, partial, put_in_place, replaced, require_outside_artifacts
from gtrturbo.store.names import DRAFT_MARK, MANIFEST, STATE
from gtrturbo.store.open_files import Files
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.writing import finished, writing

WORK = Provenance("rollout", "turns", {}, {})
BUSY = GtrTurboError("busy")


def write(out: Path, content: str = "own", *, overwrite: bool = False) -> None:
    with writing(out, WORK, overwrite=overwrite) as draft:
        (draft.folder / "a.txt").write_text(content)


def add(state: Path) -> None:
    with claimed(state) as following:
        (following / "a.txt").write_text("own")
        replace_sums(state, following, RunningSums(2, "b", [], {}), {})


WRITERS = {"artifact": write, "state": add}


@pytest.fixture
def precious(tmp_path):
    """A folder of the user's own, to which links will lead."""
    (tmp_path / "precious" / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt"):
        (tmp_path / "precious" / name).write_text("precious")
    yield tmp_path / "precious"
    assert [(tmp_path / "precious" / name).read_text() for name in ("a.txt", "deep/b.txt")] == ["precious"] * 2
    assert len(list((tmp_path / "precious").rglob("*"))) == 3


@pytest.mark.parametrize("work", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("link_of", [partial, replaced])
@pytest.mark.parametrize("target", ["precious", "precious/a.txt", "nowhere"])
def test_a_link_in_the_place_of_a_draft_or_of_what_it_replaces_is_not_followed(tmp_path, precious, work, link_of, target):
    out = tmp_path / "out"
    link_of(out).symlink_to(tmp_path / target)
    work(out)
    link_of(out).unlink(missing_ok=True)
    link_of(out).symlink_to(tmp_path / target)
    work(out, **{"overwrite": True} if work is write else {})
    assert (out / "a.txt").read_text() == "own" and not out.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


@pytest.mark.parametrize("work", WRITERS.values(), ids=WRITERS)
def test_links_in_what_a_killed_writer_left_are_not_followed_and_nothing_of_it_is_taken_over(tmp_path, precious, work):
    left = partial(tmp_path / "out")
    left.mkdir()
    (left / DRAFT_MARK).touch()
    (left / "deep").symlink_to(precious / "deep")
    (left / "a.txt").symlink_to(precious / "a.txt")
    (left / "planted.txt").write_text("planted")
    os.link(precious / "a.txt", left / "hard.txt")
    work(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"a.txt", "stage.json", "timing.json", "state.json"}


@pytest.mark.parametrize("work", WRITERS.values(), ids=WRITERS)
def test_a_file_in_the_place_of_a_draft_is_left_there_and_named(tmp_path, work):
    partial(tmp_path / "out").write_text("mine")
    with pytest.raises(GtrTurboError, match=r"\.out\.partial is in the way: a file"):
        work(tmp_path / "out")
    assert partial(tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("work", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("place_of", [partial, replaced])
def test_a_folder_of_others_in_the_place_of_a_draft_stays_and_is_named(tmp_path, work, place_of):
    place = place_of(tmp_path / "out")
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "mine.txt").write_text("mine")
    with pytest.raises(GtrTurboError, match="in the way: a folder that gtrturbo did not make"):
        work(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
    assert (place / "deep" / "mine.txt").read_text() == "mine"


def test_a_folder_of_others_that_is_put_there_during_the_work_stays_and_so_does_what_was_to_be_replaced(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(GtrTurboError, match="in the way"), writing(tmp_path / "out", WORK, overwrite=True) as draft:
        (draft.folder / "a.txt").write_text("new")
        replaced(tmp_path / "out").mkdir()
        (replaced(tmp_path / "out") / "mine.txt").write_text("mine")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert (replaced(tmp_path / "out") / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("work", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("sign", [None, DRAFT_MARK, MANIFEST, STATE])
@pytest.mark.parametrize("place_of", [partial, replaced])
def test_what_a_killed_writer_left_is_known_by_its_sign_and_goes_away(tmp_path, work, sign, place_of):
    work(tmp_path / "out")
    place_of(tmp_path / "out").mkdir()
    if sign:
        (place_of(tmp_path / "out") / sign).touch()
        (place_of(tmp_path / "out") / "half.txt").touch()
    work(tmp_path / "out", **{"overwrite": True} if work is write else {})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"a.txt", "stage.json", "timing.json", "state.json"}


def test_a_folder_that_is_removed_in_part_is_still_known_as_ours(tmp_path, monkeypatch):
    # Its sign goes last, whatever else is there: killed before, the next writer finds it.
    seen = []
    genuine = claims.remove_whole
    monkeypatch.setattr(claims, "remove_whole", lambda path: (seen.append(path.name), genuine(path)))
    left = partial(tmp_path / "out")
    left.mkdir()
    for name in (DRAFT_MARK, "a", "z", MANIFEST):
        (left / name).touch()
    write(tmp_path / "out")
    assert set(seen[:2]) == {"a", "z"} and sorted(seen[2:]) == sorted([DRAFT_MARK, MANIFEST])


def test_a_disk_that_is_full_when_the_draft_is_signed_leaves_no_draft(tmp_path, monkeypatch):
    def full(*given, **named):
        raise OSError(errno.ENOSPC, "full", DRAFT_MARK)

    monkeypatch.setattr(claims, "_sign_within", full)
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_just_after_the_mark_is_written_is_told_as_that_and_leaves_nothing(tmp_path, monkeypatch):
    sign = claims._sign_within

    def interrupted(folder):
        sign(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "_sign_within", interrupted)
    with pytest.raises(KeyboardInterrupt), claimed_anew(tmp_path / "out", BUSY):
        pytest.fail("the folder was made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["nowhere", "out", "kept"])
def test_a_state_is_never_put_in_the_place_of_a_link(tmp_path, target):
    add(tmp_path / "kept")
    (tmp_path / "out").symlink_to(tmp_path / target)
    with pytest.raises(GtrTurboError, match="out is a link"):
        add(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()


def test_overwrite_on_a_link_replaces_the_link_and_not_what_it_leads_to(tmp_path):
    write(tmp_path / "kept", "kept")
    (tmp_path / "out").symlink_to(tmp_path / "kept")
    write(tmp_path / "out", "new", overwrite=True)
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "out" / "a.txt").read_text() == "new"
    assert (tmp_path / "kept" / "a.txt").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["precious", "precious/a.txt", "nowhere", "out"])
def test_a_link_to_what_is_no_artifact_is_refused_before_the_work(tmp_path, precious, overwrite, target):
    (tmp_path / "out").symlink_to(tmp_path / target)
    with pytest.raises(GtrTurboError, match="out exists and is no artifact of gtrturbo"):
        finished(tmp_path / "out", WORK)
    with pytest.raises(GtrTurboError, match="out exists and is no artifact of gtrturbo"):
        write(tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").is_symlink()


def test_a_folder_that_another_holds_is_left_alone(tmp_path):
    with claimed_anew(tmp_path / "out", BUSY) as place:
        (place / "a.txt").write_text("the other's")
        with pytest.raises(GtrTurboError, match="busy"), claimed_anew(tmp_path / "out", BUSY):
            raise AssertionError("two writers")
        assert (place / "a.txt").read_text() == "the other's"


def test_a_claim_that_another_takes_over_does_not_remove_what_the_other_writes(tmp_path):
    # The folder of the first goes away under it, and the second makes one of the same name.
    with pytest.raises(RuntimeError), claimed_anew(tmp_path / "out", BUSY) as place:
        place.rename(tmp_path / "moved")
        place.mkdir()
        (place / "a.txt").write_text("the other's")
        raise RuntimeError
    assert (place / "a.txt").read_text() == "the other's"


def test_a_draft_that_is_swapped_for_a_link_while_it_is_locked_is_refused(tmp_path, precious, monkeypatch):
    genuine = fcntl.flock

    def swapped(descriptor, how):
        genuine(descriptor, how)
        partial(tmp_path / "out").rename(tmp_path / "moved")
        partial(tmp_path / "out").symlink_to(precious)

    monkeypatch.setattr(fcntl, "flock", swapped)
    with pytest.raises(GtrTurboError, match="busy"), claimed_anew(tmp_path / "out", BUSY):
        raise AssertionError("a draft through a link")


def test_a_folder_takes_its_place_also_where_a_killed_writer_had_put_the_old_one_aside(tmp_path):
    for folder in (partial(tmp_path / "out"), replaced(tmp_path / "out")):
        folder.mkdir()
        (folder / MANIFEST).touch()
        (folder / "a.txt").write_text(folder.name)
    put_in_place(partial(tmp_path / "out"), tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == ".out.partial"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Resume logs


@dataclass(frozen=True)
class Line:
    row: int


def log_of(tmp_path: Path) -> ResumeLog[Line]:
    return ResumeLog(tmp_path / "turns", WORK, Line)


def begun(tmp_path: Path) -> Path:
    """Leave a resume log with an entry, as a killed stage does."""
    log = log_of(tmp_path)
    log.append(Line(0))
    return log.folder


def test_a_resume_log_is_gone_on_with(tmp_path):
    begun(tmp_path)
    assert log_of(tmp_path).found == [Line(0)]


def test_a_resume_log_behind_a_link_is_not_gone_on_with(tmp_path):
    folder = begun(tmp_path)
    before = (folder / "0.jsonl").read_bytes()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    log = log_of(tmp_path)
    log.append(Line(1))
    assert log.found == [] and not folder.is_symlink()
    assert (tmp_path / "elsewhere" / "0.jsonl").read_bytes() == before
    log.remove()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["0.jsonl", "work"]


@pytest.mark.parametrize("kind", ["symlink", "hard link", "link deep in it", "pipe"])
def test_a_resume_log_with_links_in_it_writes_through_none(tmp_path, kind):
    folder = begun(tmp_path)
    (tmp_path / "victim").mkdir()
    victim = tmp_path / "victim" / "a.txt"
    victim.write_text("precious, without an end of line")
    (folder / "0.jsonl").unlink()
    if kind == "symlink":
        (folder / "0.jsonl").symlink_to(victim)
    if kind == "hard link":
        os.link(victim, folder / "0.jsonl")
    if kind == "link deep in it":
        (folder / "images").symlink_to(victim.parent)
    if kind == "pipe":
        os.mkfifo(folder / "0.jsonl")
    log = log_of(tmp_path)
    log.append(Line(1))
    save_image(log.folder, np.zeros((2, 2, 3), np.uint8))
    log.remove()
    assert victim.read_text() == "precious, without an end of line"
    assert [path.name for path in victim.parent.iterdir()] == ["a.txt"]


def test_links_are_told_from_files_and_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    assert holds_no_links(tmp_path / "a")
    assert not holds_no_links(tmp_path / "nothing") and not holds_no_links(tmp_path / "a" / "b" / "c")


# Artifacts stay as they are


@pytest.mark.parametrize("inside", ["sub", "deep/er/sub", "images/../sub"])
def test_nothing_is_written_into_an_artifact_whichever_way_leads_there(tmp_path, inside):
    write(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    for work in WRITERS.values():
        for folder in ("a", "link"):
            with pytest.raises(GtrTurboError, match=r"lies in the artifact .*a, which stays as it is"):
                work(tmp_path / folder / inside)
    assert sorted(tmp_path.rglob("*")) == before


def test_beside_an_artifact_all_may_be_written(tmp_path):
    write(tmp_path / "a")
    require_outside_artifacts(tmp_path / "a")
    require_outside_artifacts(tmp_path / "b" / "c.html")


def test_a_file_of_tensors_is_made_anew(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    os.link(tmp_path / "victim", tmp_path / "hard")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "hard", "dangling"):
        with pytest.raises(FileExistsError):
            Files().create(tmp_path / name, b"header", 6)
    assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / "nowhere").exists()
