"""Settings of a run that nothing would come of are refused; what a preset says for others is left out."""

from pathlib import Path

import pytest
from parsed import parsed
from small_runs import run_config

from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.plan import plan
from gtrturbo.runs.script import command
from gtrturbo.stages import existing, provenance
from gtrturbo.stages.idle import idle_options
from gtrturbo.stages.resolve import with_penalty
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.provenance import difference

NOTHING = [
    ({"method": "ppo", "set": ("merge.density=0.5",)}, "--set merge.… is of a stage that this run has not"),
    ({"method": "grpo", "episodes": 8, "set": ("distill.seed=3",)}, "--set distill.… is of a stage"),
    ({"method": "gtr", "set": ("merge.density=0.5",)}, "--set merge.… is of a stage"),
    ({"start": Path("c"), "set": ("sft.steps=3",)}, "--set sft.… is of a stage"),
    ({"start": Path("c"), "iterations": 0, "set": ("expert.episodes=3",)}, "--set expert.… is of a stage"),
    ({"set": ("adapter.seed=3",)}, "--set adapter.… is of a stage"),
    ({"method": "ppo", "keep_teachers": 1}, "--method ppo merges no teachers to keep"),
    ({"method": "static-kl", "keep_teachers": 1}, "--method static-kl merges no teachers to keep"),
    ({"method": "ppo", "keep_guidance": 1}, "--method ppo has no teacher's log-probs to keep"),
    ({"method": "turbo-sft", "keep_guidance": 1}, "--method turbo-sft has no teacher's log-probs to keep"),
    ({"start": Path("c"), "lora_rank": 4}, "--lora-rank is of a checkpoint that init makes"),
    ({"method": "opd", "teacher": Path("t"), "teacher_weights": "1"}, "--teacher-weights is for several teachers"),
    ({"method": "grpo", "episodes": 8, "set": ("ppo-step.value-coef=1",)}, "--value-coef is of values"),
    ({"set": ("distill.temperature=0.5",)}, "--temperature has no part in --mode kl"),
    ({"set": ("expert.temperature=0.5",)}, "--temperature is for a checkpoint that plays"),
    ({"set": ("ppo-step.final-learning-rate=1e-6",)}, "--final-learning-rate is where a schedule ends"),
]


@pytest.mark.parametrize(("settings", "said"), NOTHING)
def test_a_setting_that_nothing_comes_of_is_refused(settings, said):
    with pytest.raises(GtrTurboError, match=said):
        plan(run_config(**settings))


def test_settings_of_updates_that_come_later_are_not():
    assert plan(run_config(iterations=0, set=("ppo-step.epochs=3", "merge.density=0.5")))
    assert plan(run_config(keep_teachers=1, keep_guidance=1, set=("merge.density=0.5", "distill.seed=3")))


def test_running_sums_begin_with_the_first_checkpoint():
    merges = [step.config for step in plan(run_config(iterations=3, set=("merge.state=sums",))) if step.stage == "merge"]
    assert [(len(merge.checkpoints), merge.state) for merge in merges] == [(0, None), (1, Path("sums")), (2, Path("sums"))]


@pytest.mark.parametrize("task", ["numberline", "ezpoints"])
@pytest.mark.parametrize("method", ["grpo", "gigpo", "turbo-kl", "gtr", "ppo"])
def test_what_a_preset_says_for_others_is_no_part_of_a_step(method, task):
    steps = plan(run_config(method=method, task=task, episodes=8))
    for step in steps:
        idle = idle_options(step.config)
        assert not [word for word in command(step).split() if word.startswith("--") and word[2:].replace("-", "_") in idle]
        assert parsed(command(step)) == step.config


def test_the_preset_counts_where_it_has_a_part():
    (update,) = [step.config for step in plan(run_config(method="ppo", iterations=1)) if step.stage == "ppo-step"]
    assert (update.value_learning_rate, update.value_clip_range) == (2e-3, 10.0)


def test_an_artifact_of_before_is_found_whatever_it_says_of_what_has_no_part(ppo_config, ppo):
    assert existing(ppo_config)
    asked = provenance(with_penalty(ppo_config))
    assert asked.idle == ("final_learning_rate", "schedule_start")
    was = read_manifest(ppo_config.out)
    was.config["final_learning_rate"] = 1e-5
    assert difference(was, asked) is None
    was.config["epochs"] = 77
    assert "with --epochs 77" in (difference(was, asked) or "")
