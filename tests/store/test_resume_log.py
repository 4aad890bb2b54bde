"""The journal: entries outlive their process, and belong to one piece of work."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from gtrturbo.distributed.interrupts import Interrupted, exit_code
from gtrturbo.distributed.processes import World, working_in
from gtrturbo.errors import GtrTurboError
from gtrturbo.store import resume_log
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.resume_log import ResumeLog, is_log, remove_left
from gtrturbo.store.writing import finished, writing


@dataclass(frozen=True)
class Line:
    row: int
    text: str


WORK = Provenance(stage="distill", kind="demos", config={"seed": 1}, inputs={"rollouts": "aa"})
OTHER = Provenance(stage="distill", kind="demos", config={"seed": 2}, inputs={"rollouts": "aa"})


class Of:
    """A group whose processes take turns in this one."""

    def __init__(self, rank: int) -> None:
        self.world = World(rank, 2, rank)

    def barrier(self) -> None:
        pass

    def broadcast(self, value):
        return value

    def gather(self, value):
        return [value]


def open_(tmp_path, work=WORK):
    return ResumeLog(tmp_path / "demos", work, Line)


def test_entries_are_found_by_whoever_opens_the_journal_next(tmp_path):
    first = open_(tmp_path)
    assert first.found == []
    for row in range(3):
        first.append(Line(row, f"„{row}“\n"))
    assert open_(tmp_path).found == [Line(row, f"„{row}“\n") for row in range(3)]


@pytest.mark.parametrize("left", range(1, 20))
def test_an_entry_that_was_not_finished_is_cut_off_and_written_again(tmp_path, left):
    first = open_(tmp_path)
    first.append(Line(0, "whole"))
    first.append(Line(1, "torn"))
    file = tmp_path / ".demos.journal" / "0.jsonl"
    whole = file.read_bytes().index(b"\n") + 1
    file.write_bytes(file.read_bytes()[: whole + left])
    again = open_(tmp_path)
    assert again.found == [Line(0, "whole")]
    again.append(Line(2, "next"))
    assert open_(tmp_path).found == [Line(0, "whole"), Line(2, "next")]


def test_what_other_work_left_there_is_discarded_with_its_files(tmp_path):
    first = open_(tmp_path)
    first.append(Line(0, "old"))
    (first.folder / "picture.png").write_bytes(b"old")
    other = open_(tmp_path, OTHER)
    assert other.found == [] and sorted(path.name for path in other.folder.iterdir()) == ["work"]


@pytest.mark.parametrize("place", [0, 70, 100, -3])
def test_an_entry_that_was_changed_is_taken_out_and_the_others_stay(tmp_path, place):
    log = open_(tmp_path)
    for row in range(3):
        log.append(Line(row, "said"))
    file = log.folder / "0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    changed = bytearray(lines[1])
    changed[place] ^= 1
    file.write_bytes(lines[0] + bytes(changed) + lines[2])
    again = open_(tmp_path)
    assert again.found == [Line(0, "said"), Line(2, "said")] == again.read()


def test_an_entry_that_stands_twice_counts_once(tmp_path):
    log = open_(tmp_path)
    log.append(Line(0, "a"))
    for name in ("0.jsonl", "1.jsonl"):
        (log.folder / name).write_bytes(2 * (log.folder / "0.jsonl").read_bytes())
    assert open_(tmp_path).found == [Line(0, "a")]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other"), lambda path: path.write_bytes(b"")])
def test_an_entry_whose_files_are_missing_or_changed_is_taken_out_and_so_are_files_of_no_entry(tmp_path, damage):
    log = open_(tmp_path)
    for name in ("a", "b", "c"):
        (log.folder / name).write_bytes(b"picture")
    log.append(Line(0, "of a"), ["a"])
    log.append(Line(1, "of a and b"), ["a", "b"])
    damage(log.folder / "b")
    again = open_(tmp_path)
    assert again.found == [Line(0, "of a")]
    assert sorted(path.name for path in log.folder.iterdir()) == ["0.jsonl", "a", "work"]


def test_entries_of_other_work_and_entries_that_stand_twice_are_taken_out(tmp_path):
    mine, other = open_(tmp_path / "a"), open_(tmp_path / "b", OTHER)
    mine.append(Line(0, "mine"))
    other.append(Line(1, "other"))
    file = mine.folder / "0.jsonl"
    line = file.read_bytes()
    file.write_bytes(line + (other.folder / "0.jsonl").read_bytes() + line)
    assert open_(tmp_path / "a").found == [Line(0, "mine")]
    assert file.read_bytes() == line


def test_a_log_whose_removal_was_cut_short_belongs_to_no_work(tmp_path, monkeypatch):
    log = open_(tmp_path)
    log.append(Line(0, "old"))
    monkeypatch.setattr(resume_log, "remove_whole", lambda folder: None)  # As if the process was killed before.
    log.remove()
    monkeypatch.undo()
    assert (log.folder / "0.jsonl").exists() and is_log(log.folder) and open_(tmp_path).found == []


@pytest.mark.parametrize("name", ["mine.txt", "0.jsonl", "deep"])
def test_a_folder_of_others_in_the_place_of_a_log_stays_and_is_named(tmp_path, name):
    folder = tmp_path / ".demos.journal"
    folder.mkdir()
    (folder / name).mkdir() if name == "deep" else (folder / name).write_text("mine")
    with pytest.raises(GtrTurboError, match=r"\.demos\.journal is in the way"):
        open_(tmp_path)
    remove_left(tmp_path / "demos")
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_file_in_the_place_of_a_log_stays_and_is_named(tmp_path):
    (tmp_path / ".demos.journal").write_text("mine")
    with pytest.raises(GtrTurboError, match=r"\.demos\.journal is in the way"):
        open_(tmp_path)
    remove_left(tmp_path / "demos")
    assert (tmp_path / ".demos.journal").read_text() == "mine"


@pytest.mark.parametrize("there", [[], [".work.0123456789abcdef"], [".work.gone", "0.jsonl"]])
def test_a_log_that_was_not_begun_or_not_removed_to_its_end_begins_anew(tmp_path, there):
    folder = tmp_path / ".demos.journal"
    folder.mkdir()
    for name in there:
        (folder / name).touch()
    assert open_(tmp_path).found == []
    assert sorted(path.name for path in folder.iterdir()) == ["work"]


def test_each_process_writes_a_file_of_its_own_and_reads_all(tmp_path):
    for rank in (0, 1):
        with working_in(Of(rank)):
            open_(tmp_path).append(Line(rank, "mine"))
    assert sorted(path.name for path in (tmp_path / ".demos.journal").iterdir()) == ["0.jsonl", "1.jsonl", "work"]
    # Also where fewer processes go on than began.
    assert sorted(line.row for line in open_(tmp_path).found) == [0, 1]


def test_a_removed_journal_leaves_nothing(tmp_path):
    journal = open_(tmp_path)
    journal.append(Line(0, ""))
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_log_in_which_nothing_was_finished_does_not_outlive_an_error(tmp_path):
    with pytest.raises(KeyError), open_(tmp_path) as log:
        raise KeyError
    assert not log.folder.exists()
    with pytest.raises(KeyError), open_(tmp_path) as log:
        log.append(Line(0, "a"))
        raise KeyError
    assert open_(tmp_path).found == [Line(0, "a")]


def test_the_log_of_an_artifact_that_is_there_goes_unless_the_artifact_is_being_written_anew(tmp_path):
    with writing(tmp_path / "demos", WORK):
        log = open_(tmp_path)
        log.append(Line(0, "a"))
    with writing(tmp_path / "demos", WORK, overwrite=True):
        assert finished(tmp_path / "demos", WORK) and log.folder.exists()
    assert finished(tmp_path / "demos", WORK) and not log.folder.exists()


@pytest.mark.parametrize("kept", [False, True])
def test_who_is_interrupted_is_told_whether_anything_is_kept(tmp_path, capsys, kept):
    with pytest.raises(KeyboardInterrupt) as told, open_(tmp_path) as log:
        if kept:
            log.append(Line(0, "whole"))
        raise Interrupted(signal.SIGINT)
    assert exit_code(told.value, kept=True) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert ("goes on from what was finished" in said) == kept and ("nothing of this stage is kept yet" in said) != kept
