"""Right samples that are the same whatever the seed: refused by the probe, at the end of a stage, or by the update."""

import shutil
from dataclasses import replace

import pytest
from fake_server import serving

from gtrturbo.config import EvalConfig, PpoStepConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import policy_agent, proving
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

PLAY = {"task": "numberline", "env": ("image=tiny", "horizon=5"), "max_new_tokens": 48, "num_envs": 8}
WAYS = pytest.mark.parametrize(("config", "way"), [(RolloutConfig, {"seed": 7}), (EvalConfig, {"cached": True})])
REPEAT = r"repeat earlier ones whatever the seed: \d+% .*\nlet each reply be sampled by the seed"


@pytest.fixture(autouse=True)
def few_chances(monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)


@pytest.fixture
def player(warm):
    return load_policy(warm, device="cpu")


@WAYS
def test_a_server_that_repeats_its_replies_is_refused_at_the_probe(init, tmp_path, config, way):
    with serving(load_policy(init, device="cpu"), **way) as fake:
        stage = config(out=tmp_path / "x", checkpoint=init, **PLAY, episodes=4, temperature=0.7, engine=f"vllm:{fake.url}")
        with pytest.raises(GtrTurboError, match=f"the replies of http.* {REPEAT}"):
            execute(stage)
    assert len(fake.requests) <= 2 * 4 + 7 and not (tmp_path / "x").exists()


def test_a_greedy_evaluation_may_repeat_itself(init, tmp_path):
    with serving(load_policy(init, device="cpu"), cached=True) as fake:
        stage = EvalConfig(out=tmp_path / "x", checkpoint=init, **PLAY, episodes=2, engine=f"vllm:{fake.url}")
        metrics = read_manifest(execute(stage).out).metrics
    assert "probe_repeats_evidence" not in metrics and "repeats_evidence" not in metrics


@pytest.mark.parametrize("config", [RolloutConfig, EvalConfig])
def test_a_server_that_samples_each_reply_plays_with_little_evidence_against_it(player, warm, tmp_path, config):
    with serving(player) as fake:
        stage = config(out=tmp_path / "x", checkpoint=warm, **PLAY, episodes=6, temperature=1.3, engine=f"vllm:{fake.url}")
        metrics = read_manifest(execute(stage).out).metrics
    assert metrics["probe_repeats_evidence"] < 5 and metrics["repeats_evidence"] < 5
    assert 0 <= metrics["repeat_rate"] < 1


@WAYS
def test_what_the_probe_cannot_tell_is_refused_at_the_end_and_nothing_is_kept(player, warm, tmp_path, monkeypatch, config, way):
    monkeypatch.setattr(proving, "ASKED_ANEW", 1)
    with serving(player, **way) as fake:
        stage = config(out=tmp_path / "x", checkpoint=warm, **PLAY, episodes=12, temperature=1.3, engine=f"vllm:{fake.url}")
        with pytest.raises(GtrTurboError, match=f"the replies of this stage {REPEAT}"):
            execute(stage)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_by_log_probs_before_temperature_is_not_judged_by_them(player, warm, tmp_path, monkeypatch):
    """Of samples at 0.3 replies come back often, as their own log-probs say and those of temperature 1 do not."""
    told = proving.prove
    monkeypatch.setattr(proving, "prove", lambda *given, **named: replace(told(*given, **named), raw=True))
    with serving(player) as fake:
        stage = EvalConfig(out=tmp_path / "x", checkpoint=warm, **PLAY, episodes=4, temperature=0.3, engine=f"vllm:{fake.url}")
        assert "repeats_evidence" not in read_manifest(execute(stage).out).metrics


@pytest.mark.parametrize("few_seeds", [False, True])
def test_turns_of_this_process_whose_replies_are_repeated_are_not_learned_from(warm, tmp_path, monkeypatch, few_seeds):
    """What draws the numbers of one of eight seeds for each reply; the stage's own test is passed by, as in turns of before."""
    drawn = policy_agent.uniforms
    monkeypatch.setattr(
        policy_agent, "uniforms", lambda keys, count: drawn([key % 8 if few_seeds else key for key in keys], count)
    )
    monkeypatch.setattr("gtrturbo.stages.rollout.require_played_anew", lambda *_, **__: {})
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **PLAY, episodes=24, temperature=1.0, group_size=4)
    turns = execute(play).out
    config = PpoStepConfig(
        out=tmp_path / "next", checkpoint=warm, rollouts=turns, epochs=1, minibatch_size=10_000, credit="group"
    )
    if not few_seeds:
        metrics = read_manifest(execute(config).out).metrics
        assert metrics["repeats_evidence"] < 5 and metrics["repeat_rate"] < 1
        return
    with pytest.raises(GtrTurboError, match=f"the replies in .*turns {REPEAT}"):
        execute(config)
    assert not config.out.exists()


def test_recorded_turns_prove_nothing_of_seeds_so_that_these_are_tried_as_well(warm, player, tmp_path, monkeypatch):
    monkeypatch.setattr(proving, "ASKED_ANEW", 30)
    turns = execute(RolloutConfig(out=tmp_path / "own", checkpoint=warm, **PLAY, episodes=4)).out
    play = RolloutConfig(out=tmp_path / "x", checkpoint=warm, **PLAY, episodes=2, probe_turns=turns)
    with serving(player) as fake:
        assert read_manifest(execute(replace(play, engine=f"vllm:{fake.url}")).out).metrics["probe_repeats_evidence"] < 5
    shutil.rmtree(tmp_path / "x")
    with serving(player, seed=7) as fake, pytest.raises(GtrTurboError, match=f"the replies of http.* {REPEAT}"):
        execute(replace(play, engine=f"vllm:{fake.url}"))
