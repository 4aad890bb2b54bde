"""The probe without the checkpoint's weights: what a server finds likely against turns that the checkpoint played elsewhere."""

from dataclasses import replace

import pytest
from fake_server import Fake, serving

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import proving, wire
from gtrturbo.stages import execute
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


@pytest.fixture
def config(warm, turns, tmp_path) -> RolloutConfig:
    play = {"episodes": 2, "max_new_tokens": 32, "num_envs": 2, "temperature": 0.6}
    return RolloutConfig(out=tmp_path / "turns", checkpoint=warm, probe_turns=turns, **TASK, **play)


def play(config, fake, **settings):
    return read_manifest(execute(replace(config, engine=f"{fake.kind}:{fake.url}", **settings)).out)


def test_a_server_of_the_checkpoint_is_proved_and_no_weights_are_loaded(config, served, turns, monkeypatch):
    monkeypatch.setattr(proving, "load_policy", None)
    with serving(served) as fake:
        manifest = play(config, fake)
    metrics = manifest.metrics
    assert manifest.inputs["probe_turns"] == artifact_id(turns)
    assert 0 < metrics["probe_gap_mean"] < metrics["probe_warns_above"] == 1e-5 and metrics["probe_tokens"] > 30
    # The recorded turns were sampled at 0.9, a token a request; then the rollout at its own, and the recorded ones again.
    looked_at = [body for body in fake.requests if "continue_final_message" in body]
    assert {body["temperature"] for body in looked_at} == {0.9} and len(looked_at) <= 2 * 4 * 16
    assert len(fake.requests) == len(looked_at) + metrics["turns"]


def test_a_server_of_another_checkpoint_is_refused(config, init, ppo, turns):
    for other in (init, ppo):  # One update changes enough.
        with serving(load_policy(other, device="cpu")) as fake, pytest.raises(GtrTurboError, match=f"from those in {turns}"):
            play(config, fake)
    assert not config.out.exists()


def test_log_probs_before_temperature_are_refused_by_the_flag(config, served, monkeypatch):
    likely = Fake.likely
    monkeypatch.setattr(Fake, "likely", lambda self, body, *given: likely(self, body | {"temperature": 1.0}, *given))
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"does not serve(.|\n)*--logprobs-mode processed_logprobs"):
        play(config, fake)


def test_a_token_that_is_not_among_the_likeliest_counts_as_no_likelier_than_the_least(config, served, monkeypatch):
    from gtrturbo.play import server

    monkeypatch.setattr(server, "LIKELIEST", 1)  # Of the likeliest alone a gap can be told below 0.
    with serving(served) as fake:
        assert play(config, fake).metrics["probe_gap_mean"] < 1e-5


def test_beginnings_that_a_server_reads_otherwise_are_passed_over(config, served, monkeypatch):
    likely = Fake.likely

    def other(self, *given):
        answer = likely(self, *given)
        return answer | {"prompt_token_ids": answer["prompt_token_ids"][1:]}

    monkeypatch.setattr(Fake, "likely", other)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"no beginning of a reply .* is read as it was written"):
        play(config, fake)


def test_turns_of_another_checkpoint_prove_nothing(config, served, init):
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"was not played by .*init"):
        play(config, fake, checkpoint=init)


def test_turns_of_a_server_that_was_not_proved_prove_nothing(config, served, tmp_path):
    with serving(served) as fake:
        unproved = replace(config, out=tmp_path / "unproved", probe=False, probe_turns=None)
        play(unproved, fake)
        with pytest.raises(GtrTurboError, match="by a server of which nothing was proved"):
            play(config, fake, probe_turns=unproved.out)


def test_only_vllm_tells_what_it_finds_likely(config, served):
    with serving(served, kind="sglang") as fake, pytest.raises(GtrTurboError, match=r"asks vLLM, and .* is of kind sglang"):
        play(config, fake)
