"""How far runs are: the page that is written anew while they go on."""

import os

import pytest
from made_runs import empty, evaluation, make_run

from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.record import Collapsed, record_run
from gtrturbo.config import ReportConfig, RunConfig
from gtrturbo.report import progress, report
from gtrturbo.report.progress import progress_of

TAKEN = {"rollouts": 3.0, "checkpoints": 5.0, "teachers": 1.0, "guidance": 1.0}
DEALS = {"task": "numberline", "env": [], "seed": 7, "temperature": 0.0, "max_new_tokens": 9, "illegal": "random"}


@pytest.fixture
def going(tmp_path):
    """A run of four updates, of which one is there."""
    return make_run(tmp_path / "run", "turbo-kl", 1, {0: [0, 1]}, seconds=TAKEN, iterations=4)


def test_what_is_left_is_what_an_update_took_so_often(going):
    written = max(file.stat().st_mtime for file in going.rglob("stage.json"))
    found = progress_of(read_history(going), now=written + 40)
    assert (found.updates, found.planned, found.ended) == (1, 4, False)
    assert found.seconds == 3 + 5 + 1 + 1 and found.left == 30
    assert found.quiet == pytest.approx(40)


def test_thoughts_that_are_imitated_beside_a_kl_are_part_of_an_update(tmp_path):
    run = make_run(tmp_path / "run", "turbo-kl", 1, {0: [0, 1]}, seconds=TAKEN | {"demos": 6.0}, iterations=4)
    found = progress_of(read_history(run), now=0)
    assert found.seconds == 3 + 5 + 1 + 1 + 6 and found.left == 3 * 16


def test_a_run_has_ended_when_its_last_checkpoint_is_evaluated_or_it_collapsed(going):
    for number in (2, 3, 4):
        empty(going / "checkpoints" / f"{number:04d}", "ppo-step", 5.0)
    assert not progress_of(read_history(going), now=0).ended
    evaluation(going / "evals" / "0004", [1, 1], "last", DEALS)
    assert progress_of(read_history(going), now=0).ended and progress_of(read_history(going), now=0).left is None


def test_a_collapsed_run_has_ended(going):
    config = RunConfig(out=going, method="turbo-kl", seed=1, iterations=4)
    record_run(config, replace=True, collapsed=Collapsed(1, "ppo-step", "every reply is illegal"))
    assert progress_of(read_history(going), now=0).ended


def test_a_page_is_written_anew_until_its_runs_have_ended_and_then_reloads_no_more(going, tmp_path, monkeypatch, capsys):
    out, pages = tmp_path / "page.html", []

    def later(seconds):
        assert seconds == 7
        pages.append(out.read_text())
        number = len(pages) + 1
        empty(going / "checkpoints" / f"{number:04d}", "ppo-step", 5.0)
        if number == 4:
            evaluation(going / "evals" / "0004", [1, 1], "last", DEALS)

    monkeypatch.setattr(progress.time, "sleep", later)
    assert report(ReportConfig(runs=(going,), out=out, watch=7, samples=0)) == out
    assert [f"{number} of 4" in text for number, text in zip((1, 2, 3), pages, strict=True)] == [True] * 3
    assert all('<meta http-equiv="refresh" content="7">' in text for text in pages)
    last = out.read_text()
    assert "refresh" not in last and "How far they are" not in last and "1.000" in last
    told = capsys.readouterr().err.replace("\n", " ")
    assert "1 of 4 updates" in told and "4 of 4 updates ended" in told


def test_a_page_waits_for_the_first_evaluation(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run", "ppo", 1, {}, iterations=0)
    out = tmp_path / "page.html"

    def later(seconds):
        assert not out.exists()
        evaluation(run / "evals" / "0000", [1, 1], "start", DEALS)

    monkeypatch.setattr(progress.time, "sleep", later)
    report(ReportConfig(runs=(run,), out=out, watch=1, samples=0))
    assert os.path.exists(out) and "waits for its first evaluation" in capsys.readouterr().err
