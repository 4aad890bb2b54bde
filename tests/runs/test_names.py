"""What later stages name is looked for before any work: hours into a run is late to learn that there is no such thing."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import run_config
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.plan import plan

WRONG = {
    "ppo-step.guard=dualclip": "there is no guard 'dualclip'",
    "ppo-step.guard=gone.py:GUARD": "there is no file gone.py to take a guard from",
    "ppo-step.credit=grop": "there is no credit 'grop'",
    "ppo-step.credit=no_such_module:CREDIT": "there is no module no_such_module to take a credit from",
    "ppo-step.kl-estimator=gone.py:KL": "there is no file gone.py to take a KL estimator from",
    "merge.method=tiess": "there is no merge rule 'tiess'",
    "merge.method=gone.py:RULE": "there is no file gone.py to take a merge rule from",
    "merge.gamma=0.3": "--gamma is for breadcrumbs",
    "merge.density=2": "density must be",
    "merge.parameters=epsilon=0.1": "ties has no parameter epsilon",
    "merge.trim=tensors": "trim must be",
    "merge.seed=3": "ties leaves nothing to chance",
    "merge.weights=0.2,0.8": "weights has 2 numbers for 1 checkpoints",
    "merge.recipe=recipe.yaml": "the run decides",
    "distill.mode=klx": "there is no mode 'klx'",
    "eval.engine=hg": "there is no engine 'hg'",
    "eval.engine=gone.py:ENGINE": "there is no file gone.py",
}


@pytest.mark.parametrize("setting", WRONG)
@pytest.mark.parametrize("method", ["turbo-kl", "turbo-gated"])
def test_a_plan_refuses_what_a_later_stage_would(setting, method):
    for iterations in (1, 3):
        with pytest.raises(GtrTurboError, match=WRONG[setting]):
            plan(run_config(method=method, set=(setting,), iterations=iterations))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry-run"])
@pytest.mark.parametrize("setting", ["ppo-step.guard=dualclip", "merge.method=tiess"])
def test_a_run_and_its_dry_run_refuse_them_before_any_work(setting, dry, tmp_path):
    result = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "r"), "--set", setting, *dry])
    assert (result.exit_code, result.stdout) == (2, "")
    assert WRONG[setting] in result.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [("guard", "not a Guard"), ("credit", "not a credit"), ("kl-estimator", "no KL estimator")],
)
def test_code_of_ones_own_that_is_something_else_is_refused_too(option, said, tmp_path):
    (tmp_path / "own.py").write_text("THING = 3\n")
    with pytest.raises(GtrTurboError, match=said):
        plan(run_config(method="turbo-kl", set=(f"ppo-step.{option}={tmp_path}/own.py:THING",)))


def test_a_teacher_of_ones_own_that_cannot_teach_is_refused_too(tmp_path):
    with pytest.raises(GtrTurboError, match=r"there is no file .*gone.py to take a teacher from"):
        plan(run_config(method="gtr", teacher=tmp_path / "gone.py:TEACHER"))


def test_a_model_on_a_server_is_no_code():
    assert plan(run_config(method="gtr", teacher=Path("openai:solver"), address="http://localhost:8000"))


def test_names_that_are_built_in_are_known_without_torch():
    words = ["--set", "ppo-step.guard=dual-clip", "--set", "merge.method=linear", "--set", "ppo-step.credit=token"]
    code = (
        "import sys\nfrom parsed import parsed\nfrom gtrturbo.runs.plan import plan\n"
        f"plan(parsed('run --out r --method turbo-kl ' + {' '.join(words)!r}))\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="tests")
    assert found.stdout.strip() == "False"


def test_a_rule_that_takes_so_many_checkpoints_as_there_are_is_planned():
    assert plan(run_config(method="turbo-kl", set=("merge.method=breadcrumbs", "merge.gamma=0.3"), iterations=3))


def test_a_panel_says_itself_how_many_episodes_it_has():
    config = run_config(eval_episodes=16, set=("eval.panel=fixed",))
    with pytest.raises(GtrTurboError, match=r"--eval-episodes is for deals, and --set eval\.panel has its own\.\nleave out"):
        plan(config)
    plan(replace(config, eval_episodes=RunConfig.eval_episodes))
