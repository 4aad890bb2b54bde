"""The loop: what a plan lists, that its shell script gives the same bytes, and that a killed run goes on."""

import dataclasses
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parsed import parsed
from typer.testing import CliRunner

from gtrturbo.analysis.history import read_history
from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, MergeConfig, PpoStepConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.estimate import disk_of, sample, shape_of
from gtrturbo.runs.loop import Step, command, distill, plan, run
from gtrturbo.stages import execute
from gtrturbo.store.artifacts import artifact_id, damaged_files, read_manifest
from gtrturbo.tasks.loading import load_task

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


# The plan


def outline(**settings) -> list[str]:
    """Write a plan as `stage output: field=input …`, without the run's folder."""
    return [f"{step.stage} {_short(step.config.out)}: {' '.join(_inputs(step.config))}" for step in plan(_config(**settings))]


def _config(**settings) -> RunConfig:
    return RunConfig(**({"out": Path("r"), "iterations": 2} | settings))


def _inputs(config) -> list[str]:
    paths = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("out", "cache")}
    lists = {name: value if isinstance(value, tuple) else (value,) for name, value in paths.items()}
    return [
        f"{name}={','.join(map(_short, value))}"
        for name, value in lists.items()
        if value and all(isinstance(v, Path) for v in value)
    ]


def _short(path: Path) -> str:
    return str(path).removeprefix("r/")


WARM_START = [
    "init init: ",
    "rollout expert: ",
    "sft checkpoints/0000: data=expert checkpoint=init",
    "eval evals/0000: checkpoint=checkpoints/0000",
]


def test_plan_of_ppo_has_no_teacher():
    assert outline(method="ppo") == [
        *WARM_START,
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


def test_plan_of_turbo_kl_merges_its_own_checkpoints_and_scores_the_turns():
    assert outline(method="turbo-kl") == [
        *WARM_START,
        # No checkpoint of its own yet: the teacher is the base.
        "merge teachers/0000: base=checkpoints/0000",
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 scores=guidance/0000",
        "merge teachers/0001: checkpoints=checkpoints/0001 base=checkpoints/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=teachers/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 scores=guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


def test_plan_of_turbo_sft_imitates_all_demos_since_the_start():
    assert outline(method="turbo-sft")[4:] == [
        "merge teachers/0000: base=checkpoints/0000",
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 demos=guidance/0000",
        "merge teachers/0001: checkpoints=checkpoints/0001 base=checkpoints/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=teachers/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 demos=guidance/0000,guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


GTR = [
    "rollout rollouts/0000: checkpoint=checkpoints/0000",
    "distill guidance/0000: rollouts=rollouts/0000",
    "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 demos=guidance/0000",
    "rollout rollouts/0001: checkpoint=checkpoints/0001",
    "distill guidance/0001: rollouts=rollouts/0001",
    "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 demos=guidance/0000,guidance/0001",
    "eval evals/0002: checkpoint=checkpoints/0002",
]


def test_plan_of_gtr_asks_the_expert():
    assert outline(method="gtr")[4:] == GTR
    assert [step.config.expert for step in plan(_config(method="gtr")) if step.stage == "distill"] == [True, True]


def test_plan_of_gtr_asks_the_teacher_that_is_given():
    taught = [line + " teacher=big" if line.startswith("distill") else line for line in GTR]
    assert outline(method="gtr", teacher=Path("big"))[4:] == taught
    steps = plan(_config(method="gtr", teacher=Path("big")))
    assert [step.config.expert for step in steps if step.stage == "distill"] == [False, False]


def test_plan_of_opd_scores_with_the_outer_teacher():
    assert outline(method="opd", teacher=Path("big"))[4:] == [
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=big",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 scores=guidance/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=big",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 scores=guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


def test_plan_of_static_kl_scores_with_the_first_checkpoint_throughout():
    assert outline(method="static-kl")[4:] == [
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=checkpoints/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 scores=guidance/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=checkpoints/0000",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 scores=guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


@pytest.mark.parametrize(
    ("settings", "teacher"),
    [
        ({"start": Path("given")}, "given"),
        ({"teacher": Path("big")}, "big"),
        ({"start": Path("given"), "teacher": Path("big")}, "big"),
    ],
)
def test_static_kl_starts_from_and_is_taught_by_what_is_given(settings, teacher):
    steps = plan(_config(method="static-kl", **settings))
    assert {step.config.teacher for step in steps if step.stage == "distill"} == {Path(teacher)}
    assert "merge" not in {step.stage for step in steps}


def test_with_a_merge_interval_a_teacher_of_every_second_checkpoint_serves_twice():
    steps = outline(method="turbo-kl", merge_every=2, iterations=6)
    assert [line for line in steps if line.startswith(("merge", "distill"))] == [
        "merge teachers/0000: base=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=teachers/0000",
        "merge teachers/0002: checkpoints=checkpoints/0002 base=checkpoints/0000",
        "distill guidance/0002: rollouts=rollouts/0002 teacher=teachers/0002",
        "distill guidance/0003: rollouts=rollouts/0003 teacher=teachers/0002",
        "merge teachers/0004: checkpoints=checkpoints/0002,checkpoints/0004 base=checkpoints/0000",
        "distill guidance/0004: rollouts=rollouts/0004 teacher=teachers/0004",
        "distill guidance/0005: rollouts=rollouts/0005 teacher=teachers/0004",
    ]
    # A merge comes right before the first rollout that its teacher scores, and nothing else differs from merging always.
    assert steps.index("merge teachers/0002: checkpoints=checkpoints/0002 base=checkpoints/0000") + 1 == steps.index(
        "rollout rollouts/0002: checkpoint=checkpoints/0002"
    )
    always = outline(method="turbo-kl", iterations=6)
    assert [line for line in steps if not line.startswith(("merge", "distill"))] == [
        line for line in always if not line.startswith(("merge", "distill"))
    ]


def test_demos_too_come_from_the_teacher_that_serves():
    steps = plan(_config(method="turbo-sft", merge_every=3, iterations=5))
    assert [step.config.teacher.name for step in steps if step.stage == "distill"] == ["0000"] * 3 + ["0003"] * 2


def test_an_interval_longer_than_the_run_leaves_the_base_as_its_teacher():
    steps = plan(_config(merge_every=9))
    assert [step.config.checkpoints for step in steps if step.stage == "merge"] == [()]


@pytest.mark.parametrize("method", ["ppo", "gtr", "static-kl"])
def test_an_interval_where_nothing_is_merged_is_refused(method):
    with pytest.raises(GtrTurboError, match=f"--method {method} merges no teachers"):
        plan(_config(method=method, merge_every=2))


METHODS = {
    "ppo": {"method": "ppo"},
    "turbo-kl": {"method": "turbo-kl"},
    "turbo-sft": {"method": "turbo-sft"},
    "gtr": {"method": "gtr"},
    "gtr with a teacher": {"method": "gtr", "teacher": Path("big teacher")},
    "opd": {"method": "opd", "teacher": Path("big teacher")},
    "static-kl": {"method": "static-kl"},
    "turbo-kl with an interval": {"method": "turbo-kl", "merge_every": 2, "iterations": 3},
}


@pytest.mark.parametrize(
    ("method", "mode", "environment"),
    [
        ("turbo-kl", "kl", 1.0),
        ("turbo-sft", "thoughts", 1.0),
        ("gtr", "thoughts", 1.0),
        ("opd", "kl", 0.0),
        ("static-kl", "kl", 1.0),
    ],
)
def test_mode_of_guidance_and_weight_of_the_environment_follow_from_the_method(method, mode, environment):
    steps = plan(_config(**METHODS[method]))
    assert {step.config.mode for step in steps if step.stage == "distill"} == {mode}
    assert {step.config.environment_coef for step in steps if step.stage == "ppo-step"} == {environment}


def test_a_run_from_a_checkpoint_has_no_warm_start():
    assert outline(start=Path("given"), iterations=1) == [
        "eval evals/0000: checkpoint=given",
        "merge teachers/0000: base=given",
        "rollout rollouts/0000: checkpoint=given",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=given rollouts=rollouts/0000 scores=guidance/0000",
        "eval evals/0001: checkpoint=checkpoints/0001",
    ]


def test_an_adapter_of_the_tiny_model_comes_after_the_warm_start():
    steps = plan(_config(lora_rank=4, iterations=0))
    assert [step.stage for step in steps] == ["init", "rollout", "sft", "init", "eval"]
    assert [step.config.lora_rank for step in steps if step.stage == "init"] == [0, 4]
    assert steps[3].config.model == str(steps[2].config.out) == "r/sft"
    assert steps[3].config.out == steps[4].config.checkpoint == Path("r/checkpoints/0000")


def test_an_adapter_of_another_model_comes_first():
    steps = plan(_config(model="org/model", lora_rank=4, iterations=0))
    assert [(step.stage, getattr(step.config, "lora_rank", None)) for step in steps][:3] == [
        ("init", 4),
        ("rollout", None),
        ("sft", None),
    ]


@pytest.mark.parametrize(("every", "evaluated"), [(0, [0, 5]), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5])])
def test_evaluations_come_at_the_start_at_the_end_and_every_so_often(every, evaluated):
    steps = plan(_config(iterations=5, eval_every=every))
    assert [step.config.out.name for step in steps if step.stage == "eval"] == [f"{k:04d}" for k in evaluated]


def test_teachers_are_evaluated_where_their_newest_student_is():
    steps = outline(method="turbo-kl", iterations=5, eval_every=2, eval_teachers=True)
    assert [line for line in steps if line.startswith("eval")] == [
        "eval evals/0000: checkpoint=checkpoints/0000",
        "eval evals/0002: checkpoint=checkpoints/0002",
        "eval teacher-evals/0002: checkpoint=teachers/0002",
        "eval evals/0004: checkpoint=checkpoints/0004",
        "eval teacher-evals/0004: checkpoint=teachers/0004",
        "eval evals/0005: checkpoint=checkpoints/0005",
    ]
    assert steps.index("eval teacher-evals/0002: checkpoint=teachers/0002") == 1 + next(
        place for place, line in enumerate(steps) if line.startswith("merge teachers/0002")
    )
    assert [line for line in steps if "teacher-evals" not in line] == outline(method="turbo-kl", iterations=5, eval_every=2)


def test_with_a_merge_interval_only_teachers_that_are_merged_where_a_student_is_evaluated_are():
    steps = outline(iterations=7, merge_every=2, eval_every=3, eval_teachers=True)
    assert [line for line in steps if "teacher-evals" in line] == ["eval teacher-evals/0006: checkpoint=teachers/0006"]
    steps = outline(iterations=5, merge_every=2, eval_every=1, eval_teachers=True)
    assert [line for line in steps if "teacher-evals" in line] == [
        "eval teacher-evals/0002: checkpoint=teachers/0002",
        "eval teacher-evals/0004: checkpoint=teachers/0004",
    ]


def test_teachers_play_the_deals_of_their_students():
    steps = plan(_config(iterations=3, eval_every=1, eval_teachers=True, eval_episodes=7, env=("horizon=4",)))
    evaluations = [replace(step.config, out=Path(), checkpoint=Path()) for step in steps if step.stage == "eval"]
    assert len(evaluations) == 4 + 2 and len(set(evaluations)) == 1


@pytest.mark.parametrize("settings", [{"method": "ppo", "eval_every": 1}, {"method": "gtr", "eval_every": 1}, {"eval_every": 0}])
def test_teachers_that_nothing_would_be_compared_with_are_not_evaluated(settings):
    with pytest.raises(GtrTurboError, match=r"merges no teachers|none on the way"):
        plan(_config(eval_teachers=True, **settings))


def test_a_run_of_no_iterations_is_the_warm_start():
    assert outline(iterations=0) == WARM_START


def test_a_longer_run_begins_with_the_shorter_one():
    shorter, longer = plan(_config(iterations=1, eval_every=1)), plan(_config(iterations=3, eval_every=1))
    assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize("name", METHODS)
def test_plan_touches_no_disk(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o500)
    watched: list[str] = []
    monkeypatch.setattr(os, "stat", lambda path, **_: watched.append(str(path)))
    plan(_config(**METHODS[name], start=Path("nowhere")))
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert (watched, list(tmp_path.iterdir())) == ([], [])


# Seeds and settings


def test_seeds_differ_between_stages_iterations_and_runs():
    def seeds(seed: int) -> list[int]:
        steps = plan(_config(method="turbo-sft", seed=seed, iterations=3))
        return [step.config.seed for step in steps if hasattr(step.config, "seed") and step.stage not in ("eval", "merge")]

    both = seeds(0) + seeds(1)
    assert len(both) == 2 * (3 + 3 * 3)  # init, expert, sft; and per iteration rollout, distill, ppo-step
    assert len(set(both)) == len(both)
    assert seeds(0) == seeds(0)


def test_all_evaluations_of_all_runs_play_the_same_deals():
    steps = [*plan(_config(seed=0, eval_every=1)), *plan(_config(seed=9, method="ppo"))]
    deals = {(s.config.seed, s.config.episodes, s.config.env, s.config.task) for s in steps if s.stage == "eval"}
    assert deals == {(1_000_000, 200, ("image=tiny",), "numberline")}


def steps_with(*settings: str, **more) -> dict[str, list]:
    found: dict[str, list] = {}
    for step in plan(_config(set=settings, **more)):
        found.setdefault("expert" if getattr(step.config, "expert", False) else step.stage, []).append(step.config)
    return found


def test_set_reaches_every_step_of_its_stage_and_no_other():
    changed = steps_with("ppo-step.clip-range=0.33", "merge.weights=ema:0.5", "rollout.temperature=0.7", "eval.num-envs=3")
    assert [config.clip_range for config in changed["ppo-step"]] == [0.33, 0.33]
    assert [config.weights for config in changed["merge"]] == ["ema:0.5", "ema:0.5"]
    assert [config.temperature for config in changed["rollout"]] == [0.7, 0.7]
    assert [config.num_envs for config in changed["eval"]] == [3, 3]
    assert [config.temperature for config in changed["distill"]] == [0.6, 0.6]
    assert changed["expert"] == steps_with()["expert"]


def test_set_wins_over_the_preset_and_over_the_run():
    changed = steps_with("expert.episodes=9", "rollout.episodes=7", "ppo-step.epochs=5", "init.seed=3")
    assert [config.episodes for config in changed["expert"]] == [9]
    assert [config.episodes for config in changed["rollout"]] == [7, 7]
    assert [config.epochs for config in changed["ppo-step"]] == [5, 5]
    assert [config.seed for config in changed["init"]] == [3]


def test_set_takes_underscores_and_dashes_alike():
    assert steps_with("ppo-step.clip_range=0.33") == steps_with("ppo-step.clip-range=0.33")


def test_set_of_a_list_collects_and_of_a_number_takes_the_last():
    changed = steps_with("init.lora-target=q_proj", "init.lora-target=v_proj", "sft.steps=4", "sft.steps=5")
    assert changed["init"][0].lora_target == ("q_proj", "v_proj")
    assert changed["sft"][0].steps == 5


@pytest.mark.parametrize("setting", ["foo", "foo.steps=1", "sft.steps", "steps=1", "report.x=1", ".=", "sft=1"])
def test_set_of_no_such_stage_names_the_stages(setting):
    with pytest.raises(GtrTurboError) as error:
        steps_with(setting)
    assert error.value.what == f"--set {setting} is not STAGE.OPTION=VALUE."
    assert "init, sft, rollout, distill, ppo-step, merge, eval, expert" in error.value.fix


def test_set_of_no_such_option_names_the_help():
    with pytest.raises(GtrTurboError) as error:
        steps_with("ppo-step.clip=0.2")
    assert "clip" in error.value.what
    assert error.value.fix == "see: gtrturbo ppo-step --help"


@pytest.mark.parametrize("setting", ["sft.out=x", "ppo-step.checkpoint=x", "distill.rollouts=x", "merge.checkpoints=x"])
def test_set_cannot_rewire_the_run(setting):
    with pytest.raises(GtrTurboError) as error:
        steps_with(setting)
    assert error.value.what == f"--set {setting[:-2]} cannot be set: the run decides what its stages read and write."


@pytest.mark.parametrize(("setting", "told"), [("sft.steps=many", "many"), ("ppo-step.gamma=2", r"gamma must be in \[0, 1\]")])
def test_set_to_a_bad_value_is_refused_before_anything_runs(setting, told):
    with pytest.raises(GtrTurboError, match=told):
        steps_with(setting)


@pytest.mark.parametrize("method", ["ppo", "turbo-kl", "turbo-sft"])
def test_a_method_that_merges_its_own_teacher_takes_none(method):
    with pytest.raises(GtrTurboError, match=f"--method {method}"):
        plan(_config(method=method, teacher=Path("big")))


def test_a_method_without_a_teacher_is_not_said_to_merge_one():
    with pytest.raises(GtrTurboError, match="--method ppo has no teacher"):
        plan(_config(method="ppo", teacher=Path("big")))


def test_opd_needs_a_teacher():
    with pytest.raises(GtrTurboError, match="none is given"):
        plan(_config(method="opd"))


def test_settings_of_the_run_reach_its_stages():
    steps = plan(_config(device="cpu", episodes=5, eval_episodes=6, task="blackjack", env=("deck=short",), overwrite=True))
    assert {step.config.device for step in steps if hasattr(step.config, "device")} == {"cpu"}
    assert {step.config.overwrite for step in steps} == {True}
    plays = [step.config for step in steps if step.stage in ("rollout", "eval")]
    assert {(config.task, config.env) for config in plays} == {("blackjack", ("image=tiny", "deck=short"))}
    assert [config.episodes for config in plays] == [4000, 6, 5, 5, 6]  # 4000: the expert's, of the tiny preset of the task


def test_a_picture_that_is_chosen_is_kept():
    assert plan(_config(env=("image=large",)))[1].config.env == ("image=large",)


def test_evaluations_may_play_other_deals():
    steps = plan(_config(env=("deals=train",), eval_env=("deals=held-out",), method="turbo-kl", eval_every=1, eval_teachers=True))
    played: dict[str, set[object]] = {"rollout": set(), "eval": set()}
    for step in steps:
        if step.stage in played:
            played[step.stage].add(step.config.env)
    assert played == {
        "rollout": {("image=tiny", "deals=train")},
        "eval": {("image=tiny", "deals=train", "deals=held-out")},  # The last one counts.
    }


@pytest.mark.parametrize("task", ["ezpoints", "EZPoints", "gtrturbo/EZPoints-v0"])
def test_a_task_may_change_the_tiny_presets_and_set_wins_over_both(task):
    plain, changed = steps_with(), steps_with("ppo-step.gamma=0.5", task=task)
    assert (plain["sft"][0].stop_loss, changed["sft"][0].stop_loss) == (0.06, 0.0)
    assert plain["sft"][0].learning_rate == changed["sft"][0].learning_rate == 3e-3
    step = changed["ppo-step"][0]
    assert (step.learning_rate, step.format_invalid, step.detach_value, step.max_grad_norm) == (1e-4, -10.0, True, 0.5)
    assert (plain["ppo-step"][0].gamma, step.gamma) == (0.9, 0.5)
    assert steps_with(model="folder")["ppo-step"] == steps_with(model="folder", task=task)["ppo-step"]


def test_blackjack_plays_and_is_evaluated_at_one_temperature():
    changed = steps_with(task="blackjack")
    assert {step.temperature for step in changed["eval"]} == {0.6}
    assert (changed["sft"][0].steps, changed["ppo-step"][0].epochs, changed["ppo-step"][0].format_invalid) == (1200, 1, -3.0)


def test_only_the_tiny_model_has_presets():
    steps = plan(_config(model="org/model", method="turbo-sft"))
    (sft,) = [step.config for step in steps if step.stage == "sft"]
    update = next(step.config for step in steps if step.stage == "ppo-step")
    default = PpoStepConfig(out=update.out, checkpoint=update.checkpoint, rollouts=update.rollouts, demos=update.demos)
    default = replace(default, schedule_updates=2)  # The paper's cosine, over the run's two iterations.
    assert (sft.steps, sft.learning_rate) == (200, 1e-5)
    assert replace(update, seed=0) == default
    assert steps[1].config.env == ()


# The shell script

ODD = (  # Values whose text a shell, or an option parser, could misread.
    "ppo-step.format-invalid=-2",
    "ppo-step.learning-rate=1.23456789e-05",
    "ppo-step.detach-value=false",
    "eval.temperature=0",
    "merge.weights=0.2,0.8",
    "init.revision=a b'c",
    "init.lora-target=q_proj",
    "init.lora-target=v proj",
    "sft.dtype=bfloat16",
)


@pytest.mark.parametrize("odd", [(), ODD], ids=["plain", "odd values"])
@pytest.mark.parametrize("name", METHODS)
def test_a_printed_line_says_the_whole_step(name, odd):
    steps = plan(_config(**METHODS[name], out=Path("a run/$HOME"), set=odd, overwrite=bool(odd), lora_rank=len(odd)))
    for step in steps:
        assert parsed(command(step)) == step.config


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "--out", "r", "--iterations", "2", "--dry-run"])
    assert (result.exit_code, result.stderr) == (0, "")
    head, options, *lines = [line for line in result.stdout.splitlines() if not line.startswith("# ")]
    assert (head, options) == ("#!/usr/bin/env bash", "set -euo pipefail")
    assert [parsed(line) for line in lines] == [step.config for step in plan(_config())]
    assert list(tmp_path.iterdir()) == []


# A small run, as bytes

SMALL = "--env horizon=3 --episodes 4 --eval-episodes 4 --eval-every 1 --device cpu"
SMALL += " --set expert.episodes=30 --set sft.steps=40 --set sft.stop-loss=0 --set sft.batch-size=8"
SMALL += " --set rollout.max-new-tokens=40 --set eval.max-new-tokens=40"


def small(iterations: int, *more: str) -> list[str]:
    return ["run", "--out", "runs/small", "--iterations", str(iterations), *SMALL.split(), *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of the artifacts but the timing, hidden ones included."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("timing.json", "run.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of two iterations in this process, never interrupted; its working folder."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        result = CliRunner().invoke(app, small(2))
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/small/checkpoints/0002\n"
    return folder


def test_a_run_leaves_whole_artifacts_and_nothing_else(whole):
    run = whole / "runs" / "small"
    made = sorted(str(path.parent.relative_to(run)) for path in run.rglob("stage.json"))
    assert made == [
        *("checkpoints/0000", "checkpoints/0001", "checkpoints/0002", "evals/0000", "evals/0001", "evals/0002", "expert"),
        *("guidance/0000", "guidance/0001", "init", "rollouts/0000", "rollouts/0001", "teachers/0000", "teachers/0001"),
    ]
    assert {name: damaged_files(run / name) for name in made} == {name: [] for name in made}
    assert not [path for path in run.rglob(".*")]


def test_a_run_records_what_it_was_asked_and_the_record_is_part_of_no_artifact(whole):
    run = read_history(whole / "runs" / "small")
    assert (run.method, run.task, run.seed) == ("turbo-kl", "numberline horizon=3", 0)
    assert run.settings["set"][:2] == ["expert.episodes=30", "sft.steps=40"]
    assert not {"out", "device", "overwrite", "dry_run"} & run.settings.keys()
    assert sorted(run.at("student")) == [0, 1, 2] and [entry.iteration for entry in run.updates()] == [1, 2]
    assert run.teacher_seconds < run.training_seconds


def test_another_run_into_the_folder_fails_and_leaves_the_record_as_it_was(whole):
    record = whole / "runs" / "small" / "run.json"
    before = record.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole)
        assert CliRunner().invoke(app, small(2, "--seed", "1")).exit_code == 1
    assert record.read_bytes() == before


def test_every_update_moves_the_weights_and_the_teacher(whole):
    run = whole / "runs" / "small"
    weights = [(run / "checkpoints" / f"000{k}" / "model.safetensors").read_bytes() for k in range(3)]
    teachers = [(run / "teachers" / f"000{k}" / "model.safetensors").read_bytes() for k in range(2)]
    assert len({*weights, *teachers}) == 4  # teacher 0 is checkpoint 0
    assert teachers[0] == weights[0]


def test_printed_script_gives_the_same_bytes(whole, tmp_path):
    script = CliRunner().invoke(app, small(1, "--dry-run")).stdout
    home = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    home.pop("HF_HUB_OFFLINE", None)
    for done in ("init", "expert", "evals/0000"):  # Seconds saved: a script, too, goes on where a run was.
        shutil.copytree(whole / "runs" / "small" / done, tmp_path / "runs" / "small" / done)
    process = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = [shlex.split(line) for line in script.splitlines() if line.startswith("gtrturbo")]
    assert process.stdout.splitlines() == [words[words.index("--out") + 1] for words in lines]
    # The script of one iteration is the beginning of the one of two: compare what it made.
    expected = {name: content for name, content in contents(whole).items() if not _of_second_iteration(name)}
    assert_same(contents(tmp_path), expected)


def _of_second_iteration(name: str) -> bool:
    folder, number = Path(name).parts[2:4]
    return folder == "thresholds" or number == "0002" or (number == "0001" and folder in ("teachers", "rollouts", "guidance"))


def test_disk_that_a_run_took_was_estimated(whole):
    config = parsed(small(2))
    steps = plan(config)
    shape = shape_of(config, [step.config for step in steps])
    assert shape is not None
    estimated = disk_of(config, steps, shape, sample(load_task("numberline", steps[-1].config.env)))
    sizes = {path: path.stat().st_size for path in (whole / "runs" / "small").rglob("*") if path.is_file()}
    weights = {
        "optimizers": sum(size for path, size in sizes.items() if path.name == "optimizer.safetensors"),
        "teachers": sum(size for path, size in sizes.items() if path.name == "model.safetensors" and "teachers" in path.parts),
        "checkpoints": sum(
            size for path, size in sizes.items() if path.name.endswith("l.safetensors") and "teachers" not in path.parts
        )
        + sum(size for path, size in sizes.items() if path.name == "value_head.safetensors"),
    }
    assert {part: estimated.parts[part] for part in weights} == pytest.approx(weights, rel=0.02)
    assert estimated.end == pytest.approx(sum(sizes.values()), rel=0.3)


# A run that is killed

# Where it dies: as the stage's file is about to be opened, so that some of the artifact is written and some is not.
DEATHS = (
    ("init", "stage.json"),
    ("expert", "turns.jsonl"),
    ("checkpoints/0000", "metrics.jsonl"),
    ("evals/0000", "metrics.json"),
    ("teachers/0000", "stage.json"),
    ("rollouts/0000", "turns.jsonl"),
    ("guidance/0000", "timing.json"),
    ("checkpoints/0001", "metrics.jsonl"),
    ("checkpoints/0001", "stage.json"),
    ("teachers/0001", "timing.json"),
    ("checkpoints/0002", "timing.json"),
)


def run_until(words: list[str], folder: Path, deadly: str | None, deed: str = "open") -> None:
    """Run a command; die without a word when it opens, or else does the deed to, the file named."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"

    def die(event: str, details: tuple) -> None:
        if event == deed and deadly and str(details[0]).endswith(deadly):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    app(words)


@pytest.fixture(scope="module")
def processes():
    """Make processes that start with the imports done."""
    context = multiprocessing.get_context("forkserver")
    stages = ["init", "sft", "rollout", "distill", "ppo_step", "merge", "eval"]
    context.set_forkserver_preload(["pytest", "typer.testing", *(f"gtrturbo.stages.{stage}" for stage in stages)])
    return context


def test_a_run_that_is_killed_goes_on_to_the_same_end(whole, tmp_path, processes):
    run = tmp_path / "runs" / "small"
    made: dict[Path, int] = {}
    for name, file in DEATHS:
        out = run / name
        exitcode = _start(processes, tmp_path, f"{out.parent.name}/.{out.name}.partial/{file}")
        assert exitcode == -signal.SIGKILL
        assert not out.exists()
        visible = sorted(path.parent for path in run.rglob("stage.json") if ".partial" not in str(path))
        assert [path for path in visible if damaged_files(path)] == []
        # What was there before the kill was not made again.
        assert {path: (path / "stage.json").stat().st_mtime_ns for path in made} == made
        made = {path: (path / "stage.json").stat().st_mtime_ns for path in visible}
    assert _start(processes, tmp_path, None) == 0
    assert_same(contents(tmp_path), contents(whole))


def _start(processes, folder: Path, deadly: str | None) -> int | None:
    process = processes.Process(target=run_until, args=(small(2), folder, deadly))
    process.start()
    process.join()
    return process.exitcode


def test_a_run_that_is_done_does_nothing_again(whole, monkeypatch):
    monkeypatch.chdir(whole)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    results = run(parsed(small(2)))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert [result.id for result in results] == [artifact_id(result.out) for result in results]


def test_a_run_may_be_made_longer(whole):
    steps = [step.config.out for step in plan(parsed(small(2)))]
    longer = [step.config.out for step in plan(parsed(small(3)))]
    new = ("teachers/0002", "rollouts/0002", "guidance/0002", "checkpoints/0003", "evals/0003")
    assert [out for out in longer if out not in steps] == [Path("runs/small") / name for name in new]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--set sft.steps=41", "runs/small/checkpoints/0000 exists and was made with --steps 40, not 41."),
        ("--set ppo-step.clip-range=0.3", "runs/small/checkpoints/0001 exists and was made with --clip-range 0.2, not 0.3."),
        ("--episodes 5", "runs/small/rollouts/0000 exists and was made with --episodes 4, not 5."),
        (
            "--env line=9",
            "runs/small/expert exists and was made with --env image=tiny,horizon=3, not image=tiny,",
        ),
        ("--method turbo-sft", "runs/small/guidance/0000 exists and was made with --mode kl, not thoughts."),
        ("--method ppo", "runs/small/checkpoints/0001 exists and was made from another --scores ("),
    ],
)
def test_a_run_that_is_started_again_with_another_setting_names_it(whole, monkeypatch, more, told):
    monkeypatch.chdir(whole)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = contents(whole)
    result = CliRunner().invoke(app, [*small(2), *more.split()])
    assert (result.exit_code, result.stdout) == (1, "")
    what, fix = result.stderr.splitlines()[-2:]
    assert what.startswith(told)
    assert fix == "choose another --out, or add --overwrite."
    assert contents(whole) == before


# Retention


@pytest.fixture
def copy(whole, tmp_path, monkeypatch) -> Path:
    """The whole run in a working folder of its own."""
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "copy" / "runs" / "small"


FRUGAL = ("--keep-teachers", "1", "--keep-optimizers", "1")
GONE = ["runs/small/checkpoints/0001/optimizer.safetensors", "runs/small/teachers/0000/model.safetensors"]


def records(files: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files if name.endswith("pruned.json"))


def assert_only_pruned(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Compare with a run that kept everything: what is missing is what was to go, and each is on record."""
    assert records(found) == ["runs/small/checkpoints/0001/pruned.json", "runs/small/teachers/0000/pruned.json"]
    assert sorted(expected.keys() - found.keys()) == GONE
    rest = {name: content for name, content in found.items() if name not in records(found)}
    assert_same(rest, {name: content for name, content in expected.items() if name not in GONE})


def test_a_run_with_retention_makes_the_same_but_for_what_it_prunes(whole, copy):
    for name in ("evals/0002", "checkpoints/0002", "guidance/0001", "teachers/0001"):
        shutil.rmtree(copy / name)
    run(parsed(small(2, *FRUGAL)))
    assert_only_pruned(contents(copy.parent.parent), contents(whole))
    run(parsed(small(2)))  # which finds all of its stages finished, and needs nothing that is gone
    assert_only_pruned(contents(copy.parent.parent), contents(whole))


def test_a_run_that_is_killed_while_it_prunes_goes_on(whole, copy, processes):
    words = small(2, *FRUGAL)
    for deadly in ("teachers/0000/model.safetensors", "checkpoints/0001/optimizer.safetensors"):
        process = processes.Process(target=run_until, args=(words, copy.parent.parent, deadly, "os.remove"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert (copy / deadly).is_file()
        assert [path for path in copy.rglob("stage.json") if damaged_files(path.parent)] == []
    run(parsed(words))
    assert_only_pruned(contents(copy.parent.parent), contents(whole))


def test_a_stage_that_has_lost_its_pruned_teacher_names_the_command_that_makes_it_again(whole, copy):
    run(parsed(small(2, *FRUGAL)))
    shutil.rmtree(copy / "guidance" / "0000")
    with pytest.raises(GtrTurboError) as error:
        run(parsed(small(2)))
    assert error.value.what == "model.safetensors of runs/small/teachers/0000 was pruned, and distill reads it."
    remake = error.value.fix.removeprefix("make it again with: ")
    before = artifact_id(copy / "teachers/0000")
    assert execute(parsed(remake)).id == before
    run(parsed(small(2)))
    expected = contents(whole)
    del expected[GONE[0]]
    found = contents(copy.parent.parent)
    assert_same({name: content for name, content in found.items() if name not in records(found)}, expected)


def test_an_update_does_not_start_adam_anew_where_its_state_was_pruned(copy):
    run(parsed(small(2, *FRUGAL)))
    shutil.rmtree(copy / "checkpoints" / "0002")
    with pytest.raises(GtrTurboError, match=r"optimizer\.safetensors of runs/small/checkpoints/0001 was pruned, and ppo-step"):
        run(parsed(small(2)))


# What stays in memory


def test_a_lora_run_reads_its_base_once_and_its_stages_alone_give_the_same_bytes(tmp_path, monkeypatch):
    from gtrturbo.models import checkpoint

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    read: list[str] = []
    load = checkpoint._load_full
    monkeypatch.setattr(checkpoint, "_load_full", lambda model, **more: (read.append(Path(model).name), load(model, **more))[1])
    config = parsed(small(1, "--lora-rank", "4", "--set", "sft.steps=25"))
    run(config)
    # The model as born is read by sft; from then on the model after sft lies under every adapter.
    assert read == ["init", "sft"]
    for step in plan(config)[4:]:
        alone = execute(replace(step.config, out=Path("runs/small/again") / f"{step.stage}{step.iteration}")).out
        assert_same(contents(alone), contents(step.config.out))
    assert read[2:] == ["sft"] * 5  # evaluation, rollout, teacher, update, evaluation


# Stages as processes


def test_an_isolated_stage_is_a_process_of_its_own_with_the_same_bytes(whole, copy):
    shutil.rmtree(copy / "evals" / "0002")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(parsed(small(2, "--isolate")))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before
    assert_same(contents(copy.parent.parent), contents(whole))


@pytest.mark.parametrize(("code", "told"), [(1, "left with exit code 1"), (-9, "was killed by SIGKILL")])
def test_an_isolated_stage_that_fails_is_named_with_its_command(copy, monkeypatch, code, told):
    ran = []

    def fail(words, **_):
        ran.append(words)
        return subprocess.CompletedProcess(words, code)

    shutil.rmtree(copy / "rollouts" / "0001")
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(GtrTurboError) as error:
        run(parsed(small(2, "--isolate")))
    ((python, minus_m, *words),) = ran  # Finished stages start no process, and nothing goes on after a failed one.
    assert (python, minus_m) == (sys.executable, "-m")
    (step,) = [step for step in plan(parsed(small(2))) if step.config.out == Path("runs/small/rollouts/0001")]
    assert shlex.join(words) == command(step)
    assert error.value.what == f"rollout of iteration 2 {told}."
    assert error.value.fix == f"run it alone with: {command(step)}"


def test_isolated_stages_and_torchrun_do_not_go_together(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GtrTurboError, match="--isolate"):
        run(RunConfig(out=tmp_path / "r", isolate=True))


# distill --student


def test_distill_with_a_student_is_distill_and_ppo_step_without_the_game(tmp_path, warm, init, turns):
    settings = ("epochs=1", "minibatch-size=16", "learning_rate=1e-4", "detach-value=true")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=init, seed=3))
    by_hand = PpoStepConfig(
        out=tmp_path / "two",
        checkpoint=warm,
        rollouts=turns,
        scores=tmp_path / "scores",
        environment_coef=0.0,
        epochs=1,
        minibatch_size=16,
        learning_rate=1e-4,
        detach_value=True,
        seed=3,
    )
    assert execute(by_hand).id == result.id
    assert result.out == tmp_path / "one"
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "scores"))
    assert distill(one).id == result.id  # which is there already


def test_distill_with_a_student_imitates_demos_with_sft(tmp_path, warm, turns):
    settings = ("steps=2", "batch-size=4", "learning-rate=1e-4")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, expert=True, mode="thoughts", student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "demos", rollouts=turns, expert=True, mode="thoughts", seed=3))
    by_hand = SftConfig(
        out=tmp_path / "two", checkpoint=warm, data=(tmp_path / "demos",), steps=2, batch_size=4, learning_rate=1e-4, seed=3
    )
    assert execute(by_hand).id == result.id
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "demos"))
    assert read_manifest(tmp_path / "one").stage == "sft"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epochs", "--update epochs is not KEY=VALUE."),
        ("no-such=1", "--update no-such: ppo-step has no such option."),
        ("out=elsewhere", "--update out cannot be set: distill decides what its update reads and writes."),
        ("checkpoint=other", "--update checkpoint cannot be set: distill decides what its update reads and writes."),
    ],
)
def test_distill_refuses_an_update_that_it_cannot_hand_on(tmp_path, warm, init, turns, setting, told):
    config = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=(setting,))
    with pytest.raises(GtrTurboError) as error:
        distill(config)
    assert error.value.what == told
    assert list(tmp_path.iterdir()) == []  # found out before the teacher worked


# The examples

SPY = """#!/usr/bin/env bash
# Note the command, and pretend to have done it.
printf '%q ' "$@" >> "$NOTES"; echo >> "$NOTES"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"; touch "$2/stage.json"; echo "$2"
"""


@pytest.fixture
def spy(tmp_path):
    """Run a program with a gtrturbo that only notes its commands; return the configs that they stand for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gtrturbo").write_text(SPY)
    (tmp_path / "bin" / "gtrturbo").chmod(0o755)
    notes = tmp_path / "notes"

    def watch(*words: str, **settings: str) -> list:
        notes.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        home = os.environ | {"PATH": path, "NOTES": str(notes), "OUT": str(tmp_path / "r")} | settings
        process = subprocess.run(words, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return [parsed(line) for line in notes.read_text().splitlines()]

    return watch


def essence(config):
    """Leave out what may differ between a loop by hand and a plan: seeds, and what the stage does not look at."""
    if isinstance(config, MergeConfig):
        return replace(config, checkpoints=tuple(path for path in config.checkpoints if path != config.base))
    if isinstance(config, DistillConfig) and config.mode == "kl":  # which samples nothing
        config = replace(config, temperature=0.2, max_new_tokens=256)
    return replace(config, seed=0)


def essences(configs: list) -> list:
    return sorted(map(essence, configs), key=lambda config: str(config.out))


LOOP = ("examples/loop.sh",)
MAKE = ("make", "-C", "examples", "GTRTURBO=gtrturbo")


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_is_the_run_by_hand(words, spy, tmp_path):
    found = spy(*words, ITERATIONS="3")
    expected = [step.config for step in plan(RunConfig(out=tmp_path / "r", iterations=3, env=("horizon=5",)))]
    assert essences(found) == essences(expected)
    made: set[Path] = set()
    for config in found:  # each step comes after what it reads
        assert set(_paths(config)) <= made
        made.add(config.out)


def _paths(config) -> list[Path]:
    values = [getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("out", "cache")]
    lists = [value if isinstance(value, tuple) else (value,) for value in values]
    return [value for values in lists for value in values if isinstance(value, Path)]


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_plays_other_episodes_in_each_iteration(words, spy):
    found = spy(*words, ITERATIONS="3")
    for kind in ("RolloutConfig", "PpoStepConfig"):
        seeds = [config.seed for config in found if type(config).__name__ == kind]
        assert len(set(seeds)) == len(seeds) >= 3


def test_examples_are_the_same_run(spy, tmp_path):
    by_bash = spy(*LOOP, ITERATIONS="2")
    shutil.rmtree(tmp_path / "r")
    by_make = spy(*MAKE, ITERATIONS="2")
    assert sorted(map(repr, by_bash)) == sorted(map(repr, by_make))


def test_make_goes_on_where_it_was(spy):
    assert len(spy(*MAKE, ITERATIONS="1")) == 9
    assert spy(*MAKE, ITERATIONS="1") == []
    # One more iteration: teacher, turns, guidance, checkpoint, and the last evaluation.
    assert [config.out.parent.name for config in spy(*MAKE, ITERATIONS="2")] == [
        *("teachers", "rollouts", "guidance", "checkpoints", "evals"),
    ]


def test_examples_parse():
    subprocess.run(["bash", "-n", "examples/loop.sh"], cwd=ROOT, check=True)
    # Among that many prerequisites make can take exponential time; .SECONDARY without names did.
    long = ["make", "-n", "-C", "examples", "OUT=/nonexistent/run", "ITERATIONS=40"]
    subprocess.run(long, check=True, cwd=ROOT, capture_output=True, timeout=60)


def test_steps_know_their_iteration():
    steps = plan(_config(method="ppo"))
    assert [(step.stage, step.iteration) for step in steps][-3:] == [("rollout", 2), ("ppo-step", 2), ("eval", 2)]
    assert Step("init", steps[0].config) == steps[0]
