"""distill --task names the task of the turns again: it takes their options, and has none of its own."""

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app


@pytest.mark.parametrize(("task", "code"), [("numberline", 0), ("1", 1), ("no_such.module:NAME", 1)])
def test_a_task_of_distill_is_taken_or_refused_in_a_sentence(tmp_path, turns, task, code):
    words = ["distill", "--out", str(tmp_path / "out"), "--rollouts", str(turns), "--expert", "--mode", "thoughts"]
    ended = CliRunner().invoke(app, [*words, "--task", task])
    assert ended.exit_code in (code, 2 * code) and "unexpected error" not in ended.stderr, ended.stderr
    assert (tmp_path / "out").exists() is not bool(code)
