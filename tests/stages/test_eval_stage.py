"""eval: the same deals for every checkpoint, and the same answer twice."""

import json
from dataclasses import replace

import pytest

from gtrturbo.analysis.summary import by_episode, summarize
from gtrturbo.config import EvalConfig
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task


@pytest.fixture(scope="module", autouse=True)
def few_chance_episodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_stage, "CHANCE_EPISODES", 50)
        yield


@pytest.fixture(scope="module")
def config(root, warm):
    return EvalConfig(
        out=root / "eval", checkpoint=warm, task="numberline", env=("image=tiny",), episodes=5, max_new_tokens=48, num_envs=5
    )


@pytest.fixture(scope="module")
def evaluated(config):
    return execute(config)


def deals(path):
    return [(turns[0].seed, turns[0].info) for turns in by_episode(read_turns(path))]


def test_two_checkpoints_are_dealt_the_same_episodes(config, evaluated, ppo, tmp_path):
    other = execute(replace(config, out=tmp_path / "other", checkpoint=ppo)).out
    assert deals(other) == deals(evaluated.out)
    assert len(set(seed for seed, _ in deals(other))) == 5


def test_another_seed_deals_other_episodes(config, evaluated, tmp_path):
    assert deals(execute(replace(config, out=tmp_path / "other", seed=1)).out) != deals(evaluated.out)


def test_a_greedy_evaluation_repeats_byte_by_byte(config, evaluated, tmp_path):
    assert execute(replace(config, out=tmp_path / "again")).id == evaluated.id


def test_how_many_are_played_side_by_side_does_not_matter(config, evaluated, tmp_path):
    one = execute(replace(config, out=tmp_path / "one", num_envs=2)).out
    assert (one / "turns.jsonl").read_bytes() == (evaluated.out / "turns.jsonl").read_bytes()


def test_a_sampled_evaluation_differs_from_a_greedy_one_and_repeats_too(config, evaluated, tmp_path):
    first, again = (execute(replace(config, out=tmp_path / name, temperature=1.0)) for name in "ab")
    assert first.id == again.id
    assert (first.out / "turns.jsonl").read_bytes() != (evaluated.out / "turns.jsonl").read_bytes()


def test_the_metrics_are_those_of_the_turns_beside_the_chance_levels(evaluated):
    written = json.loads((evaluated.out / "metrics.json").read_text())
    assert written == evaluated.metrics == read_manifest(evaluated.out).metrics
    levels = chance(load_task("numberline", ["image=tiny"]), episodes=50, seed=1_000_000)
    expected = summarize(read_turns(evaluated.out), knows_truth=True, own_parser=False)
    expected |= {f"chance_{name}": value for name, value in levels.items()}
    thoughts = {"thought_entropy", "thought_information", "thought_information_bound"}
    assert {name: value for name, value in written.items() if name not in thoughts} == pytest.approx(expected)
    assert thoughts <= written.keys()
    assert written["episodes"] == 5


def test_an_evaluation_is_of_its_own_kind(evaluated):
    assert read_manifest(evaluated.out).kind == "evaluation"
