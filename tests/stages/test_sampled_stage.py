"""Replies that tell the right log-probs and are not sampled: refused by the probe, or by the update that would learn."""

from dataclasses import replace

import numpy as np
import pytest
from fake_server import serving

from gtrturbo.config import EvalConfig, PpoStepConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import policy_agent, probe, recorded_probe
from gtrturbo.play.completions import Likely
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}
PLAY = TASK | {"max_new_tokens": 48, "num_envs": 8}


@pytest.fixture
def untrained(init):
    return load_policy(init, device="cpu")


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_always_takes_the_likeliest_token_is_refused_at_the_probe(init, untrained, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    for config in (RolloutConfig, EvalConfig):
        with serving(untrained, kind=kind, likeliest=True) as fake:
            engine = f"{kind}:{fake.url}"
            stage = config(out=tmp_path / "x", checkpoint=init, **PLAY, episodes=4, temperature=0.7, engine=engine)
            with pytest.raises(GtrTurboError, match=r"not sampled from .* at temperature 0\.7: .* where likely tokens are pref"):
                execute(stage)
        assert len(fake.requests) == 8 and not (tmp_path / "x").exists()


def test_a_server_that_samples_is_told_to_do_so_in_the_manifest(init, untrained, tmp_path):
    with serving(untrained) as fake:
        out = execute(RolloutConfig(out=tmp_path / "x", checkpoint=init, **PLAY, episodes=4, engine=f"vllm:{fake.url}")).out
    metrics = read_manifest(out).metrics
    assert abs(metrics["probe_sampling_z"]) < 5 and metrics["probe_sampling_evidence"] < 5


@pytest.mark.parametrize("raw", [False, True])
def test_a_server_that_raises_the_temperature_is_refused_where_log_probs_before_temperature_hide_it(untrained, raw):
    """For an evaluation log-probs before temperature do: those of temperature 1, which is also what is played."""
    prompt = untrained.renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1"}]}], [])
    uniforms = np.random.default_rng(0).random((8, 64))
    samples = untrained.generate([prompt] * 8, uniforms, temperature=1.0 if raw else 0.5, max_new_tokens=64)
    replies = [probe.Replied(prompt, each.response_ids, 0.5, each.logprobs) for each in samples]
    if raw:
        replies = [replace(each, logprobs=probe._scored(untrained, [each], raw=True)) for each in replies]
        with pytest.raises(GtrTurboError, match=r"at temperature 0\.5: .* where unlikely tokens are preferred"):
            probe.prove(untrained, replies, who="it", path="c", exact=False)
    else:
        assert abs(probe.prove(untrained, replies, who="it", path="c", exact=False).drawn.z) < 5


def likely(rng, temperature=1.0):
    """What a server tells of a place: of 40 tokens the 20 likeliest, or the one that it sampled in place of the last."""
    logits = rng.normal(0, 2, 40)
    logprobs = logits - np.log(np.exp(logits).sum())
    p = np.exp(logits / (temperature or 1))
    sampled = int(rng.choice(40, p=p / p.sum())) if temperature else int(logits.argmax())
    listed = np.argsort(-logprobs)[:20].tolist()
    listed = listed if sampled in listed else [*listed[:19], sampled]
    return Likely(np.zeros(1, np.int32), {each: float(logprobs[each]) for each in listed}, float(logprobs[listed[-1]]), sampled)


@pytest.mark.parametrize(("temperature", "right"), [(1.0, True), (0.0, False), (6.0, False)])
def test_what_is_sampled_after_recorded_replies_is_tested_by_the_likeliest_tokens(temperature, right):
    rng = np.random.default_rng(0)
    found = [recorded_probe._drawn([likely(rng, temperature) for _ in range(64)]) for _ in range(20)]
    assert all((each.evidence < 20) == right for each in found)
    assert recorded_probe._drawn([replace(likely(rng), sampled=None)]) is None


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_turns_of_which_the_last_tenth_of_the_distribution_is_missing_are_not_learned_from(warm, tmp_path, monkeypatch, share):
    drawn = policy_agent.uniforms
    monkeypatch.setattr(policy_agent, "uniforms", lambda *given: share * drawn(*given))
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **PLAY, episodes=24, temperature=1.3)
    turns = execute(play).out
    config = PpoStepConfig(out=tmp_path / "next", checkpoint=warm, rollouts=turns, epochs=1, minibatch_size=10_000)
    if share == 1:
        metrics = read_manifest(execute(config).out).metrics
        assert abs(metrics["sampling_z"]) < 5 and metrics["sampling_evidence"] < 5
        assert metrics["first_ratio_error"] < 1e-5
        return
    with pytest.raises(GtrTurboError, match=r"the replies in .*turns are not sampled from .* at temperature 1\.3"):
        execute(config)
    assert not config.out.exists()


def test_guidance_of_whole_distributions_is_read_beside_whether_tokens_were_sampled(ppo_config, init, turns, tmp_path):
    from gtrturbo.config import DistillConfig

    scores = execute(DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=init, top_logprobs=8)).out
    guided = replace(ppo_config, out=tmp_path / "guided", scores=scores, kl_estimator="full")
    metrics = read_manifest(execute(guided).out).metrics
    assert metrics["kl_mean"] > 0 and abs(metrics["sampling_z"]) < 5
