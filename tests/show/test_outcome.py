"""show RUN: what happened in a run, in lines that fit a terminal; its artifacts only where they are asked for."""

from collections.abc import Sequence

import pytest
from made_runs import make_run

from gtrturbo.analysis.record import Collapsed, record_run
from gtrturbo.config import RunConfig, ShowConfig
from gtrturbo.show.artifact import show
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing

WON: dict[int, Sequence[int]] = {0: [1, 0, 0, 0], 20: [1, 1, 1, 0]}


@pytest.fixture
def run(tmp_path):
    """Twenty updates; of the rollout that update k learned from (k − 1) / 20 were won, and its largest ratio was k."""
    made = make_run(tmp_path / "run", "ppo", 7, WON)
    for k in range(20):
        with writing(made / "rollouts" / f"{k:04d}", Provenance("rollout", "turns", {}, {})) as draft:
            draft.metrics = {"success_rate": k / 20, "illegal_rate": 0.25}
        with writing(made / "checkpoints" / f"{k + 1:04d}", Provenance("ppo-step", "checkpoint", {}, {})) as draft:
            draft.metrics = {"ratio_max": k + 1.0}
    return made


def told(capsys, run, **options) -> list[str]:
    show(ShowConfig(artifact=run, **options))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_run_is_told_in_lines_and_a_table_that_fit_a_terminal(run, capsys):
    out = told(capsys, run)
    assert out[:5] == [
        str(run),
        "run ppo on numberline, tiny, seed 7",
        "updates 20 of 20",
        "success 0.250 → 0.750 [0.301, 0.954] at update 20, 4 episodes, chance 0.250",
        "training success 0.100 → 0.850, illegal 0.250 → 0.250: first and last 5 rollouts",  # 0…4 and 15…19 of 20
    ]
    assert "update success illegal largest ratio" in out
    numbers = [line.split() for line in out if line[:1].isdigit()]
    assert [int(row[0]) for row in numbers] == [1, 3, 5, 7, 9, 11, 12, 14, 16, 18, 20]
    assert all(float(row[1]) == pytest.approx((int(row[0]) - 1) / 20) and float(row[3]) == int(row[0]) for row in numbers)
    assert len(out) < 24 and not any("rollouts/0003" in line for line in out)


def test_all_artifacts_are_listed_where_they_are_asked_for(run, capsys):
    out = told(capsys, run, artifacts=True)
    assert any(line.startswith("rollouts/0003 turns rollout ") for line in out)


def test_a_run_that_has_not_ended_says_so(tmp_path, capsys):
    run = make_run(tmp_path / "run", "ppo", 7, {0: [1, 0]}, iterations=9)
    assert "updates 0 of 9, not ended: the same gtrturbo run goes on with it" in told(capsys, run)


def test_a_run_that_collapsed_says_where_and_why(run, capsys):
    config = RunConfig(out=run, method="ppo", seed=7, iterations=20)
    record_run(config, replace=True, collapsed=Collapsed(19, "ppo-step", "every turn is illegal"))
    assert "updates 20 of 20; collapsed at iteration 19, ppo-step: every turn is illegal" in told(capsys, run)
