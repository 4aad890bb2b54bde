"""The tiny VLM on ALFWorld in TextWorld's engine, through every stage and a run of two iterations: `make test-alfworld`."""

import importlib.util
import json
import math

import pytest

from gtrturbo.config import (
    DistillConfig,
    EvalConfig,
    InitConfig,
    MergeConfig,
    PpoStepConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
)
from gtrturbo.runs.execute import run
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import read_turns
from gtrturbo.tasks.alf.written import KINDS

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("textworld") is None, reason="the package textworld is not installed"),
    pytest.mark.timeout(3600),
]
TASK = {"task": "alfworld", "env": ("games=written", "look=both", "image=tiny", "horizon=8", "history=4")}
PLAY = {**TASK, "max_new_tokens": 48, "temperature": 0.6, "num_envs": 4, "seed": 1}


@pytest.fixture(scope="module", autouse=True)
def no_data():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ALFWORLD_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every stage once, in the order of the method: expert, sft, rollout, merge, distill, ppo-step, eval."""
    root = tmp_path_factory.mktemp("alfworld")
    made = {"init": execute(InitConfig(out=root / "init", task=TASK["task"], env=TASK["env"])).out}
    made["expert"] = execute(RolloutConfig(out=root / "expert", **TASK, expert=True, episodes=24)).out
    how = {"data": (made["expert"],), "steps": 60, "learning_rate": 3e-3, "batch_size": 8}
    made["sft"] = execute(SftConfig(out=root / "sft", checkpoint=made["init"], **how)).out
    made["rollout"] = execute(RolloutConfig(out=root / "rollout", checkpoint=made["sft"], **PLAY, episodes=4)).out
    made["merge"] = execute(MergeConfig(out=root / "merge", base=made["init"], checkpoints=(made["sft"],))).out
    made["distill"] = execute(DistillConfig(out=root / "scores", rollouts=made["rollout"], teacher=made["merge"])).out
    update = {"rollouts": made["rollout"], "scores": made["distill"], "epochs": 1, "minibatch_size": 8, "thought_coef": 0.2}
    made["ppo-step"] = execute(PpoStepConfig(out=root / "ppo", checkpoint=made["sft"], **update)).out
    made["eval"] = execute(
        EvalConfig(out=root / "eval", checkpoint=made["ppo-step"], **PLAY, panel="unseen", chance_episodes=0)
    ).out
    for name, path in made.items():
        print(name, {key: round(value, 4) for key, value in read_manifest(path).metrics.items()})
    return made


def test_every_stage_takes_the_task(made):
    metrics = {name: read_manifest(path).metrics for name, path in made.items()}
    assert 0.5 < metrics["expert"]["success_rate"] < 1  # Some games take more than 8 turns.
    assert metrics["expert"]["illegal_rate"] == 0
    assert metrics["rollout"]["episodes"] == 4 and metrics["distill"]["tokens"] > 0 and metrics["eval"]["episodes"] == 24
    assert all(math.isfinite(value) for found in metrics.values() for value in found.values())


def test_an_evaluation_tells_success_of_each_type_as_the_turns_have_it(made):
    metrics, turns = read_manifest(made["eval"]).metrics, read_turns(made["eval"])
    last = {turn.episode: turn for turn in turns}
    for kind in KINDS:
        won = [turn.won for turn in last.values() if turn.info["type"] == kind]
        assert metrics[f"episodes_{kind}"] == len(won) == 4
        assert metrics[f"success_rate_{kind}"] == sum(won) / 4
    assert metrics["success_rate"] == sum(turn.won for turn in last.values()) / 24
    assert all(turn.truncated is not turn.won for turn in last.values())


def test_the_manifest_of_an_evaluation_names_engine_games_and_panel(made):
    stage = json.loads((made["eval"] / "stage.json").read_text())
    assert stage["plugins"]["task"]["version"].startswith("textworld 1.") and stage["plugins"]["task"]["games"] == "written 1"
    assert stage["plugins"]["panel"]["name"] == "unseen" and len(stage["plugins"]["panel"]["sha256"]) == 64


def test_a_run_of_two_iterations_ends(made, tmp_path):
    how = {"method": "turbo-kl", "start": made["sft"], "iterations": 2, "episodes": 3, "eval_episodes": 4}
    sizes = ("rollout.num-envs=4", "eval.num-envs=4", "eval.chance-episodes=0", "ppo-step.epochs=1", "ppo-step.thought-coef=0.2")
    stages = [read_manifest(result.out).stage for result in run(RunConfig(out=tmp_path / "run", **TASK, **how, set=sizes))]
    assert stages.count("ppo-step") == stages.count("merge") == stages.count("distill") == 2 and stages.count("eval") >= 2
