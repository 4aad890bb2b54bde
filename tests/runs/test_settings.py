"""Where the settings of a run's steps come from: seeds, presets, the run's own options, and --set over all."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import run_config

from gtrturbo.config import PpoStepConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.plan import plan
from gtrturbo.runs.script import command


def test_seeds_differ_between_stages_iterations_and_runs():
    def seeds(seed: int) -> list[int]:
        steps = plan(run_config(method="turbo-sft", seed=seed, iterations=3))
        return [step.config.seed for step in steps if hasattr(step.config, "seed") and step.stage not in ("eval", "merge")]

    both = seeds(0) + seeds(1)
    assert len(both) == 2 * (3 + 3 * 3)  # init, expert, sft; and per iteration rollout, distill, ppo-step
    assert len(set(both)) == len(both)
    assert seeds(0) == seeds(0)


def test_all_evaluations_of_all_runs_play_the_same_deals():
    steps = [*plan(run_config(seed=0, eval_every=1)), *plan(run_config(seed=9, method="ppo"))]
    deals = {(s.config.seed, s.config.episodes, s.config.env, s.config.task) for s in steps if s.stage == "eval"}
    assert deals == {(1_000_000, 200, ("image=tiny",), "numberline")}


def steps_with(*settings: str, **more) -> dict[str, list]:
    found: dict[str, list] = {}
    for step in plan(run_config(set=settings, **more)):
        found.setdefault("expert" if getattr(step.config, "expert", False) else step.stage, []).append(step.config)
    return found


def test_set_reaches_every_step_of_its_stage_and_no_other():
    changed = steps_with("ppo-step.clip-range=0.33", "merge.weights=ema:0.5", "rollout.temperature=0.7", "eval.num-envs=3")
    assert [config.clip_range for config in changed["ppo-step"]] == [0.33, 0.33]
    assert [config.weights for config in changed["merge"]] == ["ema:0.5", "ema:0.5"]
    assert [config.temperature for config in changed["rollout"]] == [0.7, 0.7]
    assert [config.num_envs for config in changed["eval"]] == [3, 3]
    assert [config.temperature for config in steps_with(method="turbo-sft")["distill"]] == [0.6, 0.6]
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
    targets = ("adapter.lora-target=q_proj", "adapter.lora-target=v_proj")
    changed = steps_with(*targets, "sft.steps=4", "sft.steps=5", lora_rank=4)
    assert changed["init"][1].lora_target == ("q_proj", "v_proj")
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


def test_a_model_is_the_runs_and_so_are_the_settings_measured_for_it():
    with pytest.raises(GtrTurboError, match=r"--set init\.model cannot be set") as error:
        steps_with("init.model=small")
    assert error.value.fix == "give: --model"


@pytest.mark.parametrize(("setting", "told"), [("sft.steps=many", "many"), ("ppo-step.gamma=2", r"gamma must be in \[0, 1\]")])
def test_set_to_a_bad_value_is_refused_before_anything_runs(setting, told):
    with pytest.raises(GtrTurboError, match=told):
        steps_with(setting)


@pytest.mark.parametrize("method", ["ppo", "turbo-kl", "turbo-sft"])
def test_a_method_that_merges_its_own_teacher_takes_none(method):
    with pytest.raises(GtrTurboError, match=f"--method {method}"):
        plan(run_config(method=method, teacher=Path("big")))


def test_a_method_without_a_teacher_is_not_said_to_merge_one():
    with pytest.raises(GtrTurboError, match="--method ppo has no teacher"):
        plan(run_config(method="ppo", teacher=Path("big")))


def test_opd_needs_a_teacher():
    with pytest.raises(GtrTurboError, match="none is given"):
        plan(run_config(method="opd"))


def test_settings_of_the_run_reach_its_stages():
    steps = plan(run_config(device="cpu", episodes=5, eval_episodes=6, task="blackjack", env=("deck=short",), overwrite=True))
    assert {step.config.device for step in steps if hasattr(step.config, "device")} == {"cpu"}
    assert {step.config.overwrite for step in steps} == {True}
    plays = [step.config for step in steps if step.stage in ("rollout", "eval")]
    assert {(config.task, config.env) for config in plays} == {("blackjack", ("image=tiny", "deck=short"))}
    assert [config.episodes for config in plays] == [4000, 6, 5, 5, 6]  # 4000: the expert's, of the tiny preset of the task


def test_a_picture_that_is_chosen_is_kept():
    assert plan(run_config(env=("image=large",)))[1].config.env == ("image=large",)


def test_evaluations_may_play_other_deals():
    steps = plan(
        run_config(env=("deals=train",), eval_env=("deals=held-out",), method="turbo-kl", eval_every=1, eval_teachers=True)
    )
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


@pytest.mark.parametrize(
    ("model", "task", "cost"),
    [("tiny", "numberline", -1.0), ("tiny", "points24", None), ("small", "numberline", None), ("small", "sokoban", None)],
)
def test_what_an_unreadable_reply_costs_follows_from_the_task_but_where_a_game_was_measured(model, task, cost):
    assert steps_with(model=model, task=task)["ppo-step"][0].format_invalid == cost


def test_only_the_tiny_model_has_presets():
    steps = plan(run_config(model="org/model", method="turbo-sft"))
    (sft,) = [step.config for step in steps if step.stage == "sft"]
    update = next(step.config for step in steps if step.stage == "ppo-step")
    default = PpoStepConfig(out=update.out, checkpoint=update.checkpoint, rollouts=update.rollouts, demos=update.demos)
    default = replace(default, schedule_updates=2)  # The paper's cosine, over the run's two iterations.
    assert (sft.steps, sft.learning_rate) == (200, 1e-5)
    assert replace(update, seed=0) == default
    assert steps[1].config.env == ()


def test_every_step_tells_the_runs_trackers():
    steps = plan(run_config(log=("a.py:A", "b.py:B")))
    assert {step.config.log for step in steps} == {("a.py:A", "b.py:B")}
    assert all("--log a.py:A --log b.py:B" in command(step) for step in steps)
