"""What a plan lists."""

import dataclasses
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import ASKED, run_config

from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.plan import Step, plan


def outline(**settings) -> list[str]:
    """Write a plan as `stage output: field=input …`, without the run's folder."""
    return [f"{step.stage} {_short(step.config.out)}: {' '.join(_inputs(step.config))}" for step in plan(run_config(**settings))]


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
    assert [step.config.expert for step in plan(run_config(method="gtr")) if step.stage == "distill"] == [True, True]


def test_plan_of_gtr_asks_the_teacher_that_is_given():
    taught = [line + " teacher=big" if line.startswith("distill") else line for line in GTR]
    assert outline(method="gtr", teacher=Path("big"))[4:] == taught
    steps = plan(run_config(method="gtr", teacher=Path("big")))
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
    steps = plan(run_config(method="static-kl", **settings))
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
    steps = plan(run_config(method="turbo-sft", merge_every=3, iterations=5))
    assert [step.config.teacher.name for step in steps if step.stage == "distill"] == ["0000"] * 3 + ["0003"] * 2


def test_an_interval_longer_than_the_run_leaves_the_base_as_its_teacher():
    steps = plan(run_config(merge_every=9))
    assert [step.config.checkpoints for step in steps if step.stage == "merge"] == [()]


@pytest.mark.parametrize("method", ["ppo", "gtr", "static-kl"])
def test_an_interval_where_nothing_is_merged_is_refused(method):
    with pytest.raises(GtrTurboError, match=f"--method {method} merges no teachers"):
        plan(run_config(method=method, merge_every=2))


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
    steps = plan(run_config(**ASKED[method]))
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
    steps = plan(run_config(lora_rank=4, iterations=0))
    assert [step.stage for step in steps] == ["init", "rollout", "sft", "init", "eval"]
    assert [step.config.lora_rank for step in steps if step.stage == "init"] == [0, 4]
    assert steps[3].config.model == str(steps[2].config.out) == "r/sft"
    assert steps[3].config.out == steps[4].config.checkpoint == Path("r/checkpoints/0000")


def test_an_adapter_of_another_model_comes_first():
    steps = plan(run_config(model="org/model", lora_rank=4, iterations=0))
    assert [(step.stage, getattr(step.config, "lora_rank", None)) for step in steps][:3] == [
        ("init", 4),
        ("rollout", None),
        ("sft", None),
    ]


@pytest.mark.parametrize(("every", "evaluated"), [(0, [0, 5]), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5])])
def test_evaluations_come_at_the_start_at_the_end_and_every_so_often(every, evaluated):
    steps = plan(run_config(iterations=5, eval_every=every))
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
    steps = plan(run_config(iterations=3, eval_every=1, eval_teachers=True, eval_episodes=7, env=("horizon=4",)))
    evaluations = [replace(step.config, out=Path(), checkpoint=Path()) for step in steps if step.stage == "eval"]
    assert len(evaluations) == 4 + 2 and len(set(evaluations)) == 1


@pytest.mark.parametrize("settings", [{"method": "ppo", "eval_every": 1}, {"method": "gtr", "eval_every": 1}, {"eval_every": 0}])
def test_teachers_that_nothing_would_be_compared_with_are_not_evaluated(settings):
    with pytest.raises(GtrTurboError, match=r"merges no teachers|none on the way"):
        plan(run_config(eval_teachers=True, **settings))


def test_a_run_of_no_iterations_is_the_warm_start():
    assert outline(iterations=0) == WARM_START


def test_a_longer_run_begins_with_the_shorter_one():
    shorter, longer = plan(run_config(iterations=1, eval_every=1)), plan(run_config(iterations=3, eval_every=1))
    assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize("name", ASKED)
def test_plan_touches_no_disk(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o500)
    watched: list[str] = []
    monkeypatch.setattr(os, "stat", lambda path, **_: watched.append(str(path)))
    plan(run_config(**ASKED[name], start=Path("nowhere")))
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert (watched, list(tmp_path.iterdir())) == ([], [])


def test_steps_know_their_iteration():
    steps = plan(run_config(method="ppo"))
    assert [(step.stage, step.iteration) for step in steps][-3:] == [("rollout", 2), ("ppo-step", 2), ("eval", 2)]
    assert Step("init", steps[0].config) == steps[0]
