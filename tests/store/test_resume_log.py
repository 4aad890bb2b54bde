"""The journal: entries outlive their process, and belong to one piece of work."""

from dataclasses import dataclass

import pytest

from gtrturbo.distributed.processes import World, working_in
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.resume_log import ResumeLog
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
    whole = len(b'{"row":0,"text":"whole"}\n')
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


def test_a_whole_line_that_is_no_entry_is_an_error_that_names_the_folder(tmp_path):
    open_(tmp_path)
    (tmp_path / ".demos.journal" / "0.jsonl").write_text('{"row": "x", "text": ""}\n')
    with pytest.raises(GtrTurboError, match=r"0.jsonl is damaged: .*\nstart anew: rm -r .*\.demos\.journal"):
        open_(tmp_path)


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
