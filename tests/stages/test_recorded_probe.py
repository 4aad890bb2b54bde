"""The probe without the checkpoint's weights: what a server finds likely against turns that the checkpoint played elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from fake_server import Fake, serving
from pydantic import TypeAdapter

from gtrturbo.config import InitConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import proving, recorded_probe, wire
from gtrturbo.play.completions import Likely, likely_of
from gtrturbo.play.protocol import Completion
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
    # The recorded turns were sampled at 0.9, a token a request; then the rollout at its own, and the recorded ones again. Once
    # each it is seen whether what is likely depends on the temperature as it should.
    looked_at = [body for body in fake.requests if "continue_final_message" in body]
    assert [body["temperature"] for body in looked_at].count(0.6) == 2
    assert len(looked_at) == 2 * (metrics["probe_tokens"] + metrics["probe_tokens_left_out"] + 2)
    # As often two states are asked about at the model's own temperature, and one of them by other seeds while it comes back.
    sampled = [body for body in fake.requests if body["temperature"] == 1]
    assert len({body["seed"] for body in sampled}) >= 2 + 1 and len(sampled) >= 2 * (2 + 1)
    assert len(fake.requests) == len(looked_at) + metrics["turns"] + len(sampled)


def test_a_server_of_another_checkpoint_is_refused(config, init, ppo, turns):
    for other in (init, ppo):  # One update changes enough.
        with serving(load_policy(other, device="cpu")) as fake, pytest.raises(GtrTurboError, match=f"from those in {turns}"):
            play(config, fake)
    assert not config.out.exists()


@pytest.mark.parametrize(("played", "plays"), [(0.9, 0.6), (0.9, 0.9), (1.0, 0.3)])
def test_log_probs_before_temperature_are_refused_by_the_flag(config, served, warm, tmp_path, monkeypatch, played, plays):
    turns = config.probe_turns
    if played != 0.9:
        hot = RolloutConfig(out=tmp_path / "hot", checkpoint=warm, **TASK, episodes=4, max_new_tokens=48, temperature=played)
        turns = execute(hot).out
    with serving(served) as fake:
        assert play(config, fake, temperature=plays, probe_turns=turns).metrics["probe_gap_mean"] < 1e-5
    likely = Fake.likely
    monkeypatch.setattr(Fake, "likely", lambda self, body, *given: likely(self, body | {"temperature": 1.0}, *given))
    refused = pytest.raises(GtrTurboError, match=r"before temperature: .*\nstart it with --logprobs-mode processed_logprobs")
    with serving(served) as fake, refused:
        play(config, fake, temperature=plays, probe_turns=turns, overwrite=True)


def spoiled(monkeypatch, spoil):
    """Change what the server says of the likeliest tokens."""
    likely = Fake.likely

    def other(self, *given):
        answer = likely(self, *given)
        spoil(answer, answer["choices"][0]["logprobs"]["content"][0])
        return answer

    monkeypatch.setattr(Fake, "likely", other)


def prompts_a_token_short(answer, _):
    answer["prompt_token_ids"] = answer["prompt_token_ids"][1:]


def only_the_likeliest(_, told):
    told["top_logprobs"] = told["top_logprobs"][:1]


def one_for_sure(_, told):
    told["top_logprobs"] = [{"token": "token_id:5", "logprob": 0.0}]


def all_for_sure(_, told):
    told["top_logprobs"] = [each | {"logprob": 0.0} for each in told["top_logprobs"]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (prompts_a_token_short, r"proves nothing of .*: 0 of \d+ tokens can be compared, 16 are needed"),
        (only_the_likeliest, r"does not tell by their ids which 20 tokens it finds likeliest, but 1 of them"),
        (one_for_sure, r"does not tell by their ids which 20 tokens it finds likeliest, but 1 of them"),
        (all_for_sure, r"log-probs of next tokens that no distribution gives"),
    ],
)
def test_what_tells_too_little_proves_nothing(config, served, monkeypatch, spoil, said):
    spoiled(monkeypatch, spoil)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=said):
        play(config, fake)
    assert not config.out.exists()


# By hand: of the likeliest two tokens, 5 and 7, with log-probs -0.5 and -2.
@pytest.mark.parametrize(
    ("identity", "recorded", "gap"),
    [(5, -0.75, 0.25), (7, -2.0, 0.0), (9, -1.5, 0.5), (9, -2.0, None), (9, -3.0, None)],
)
def test_a_token_that_is_not_among_the_likeliest_tells_something_only_where_it_was_likelier(identity, recorded, gap):
    assert recorded_probe._gap(Likely(np.array([1]), {5: -0.5, 7: -2.0}, -2.0), identity, recorded) == gap


@pytest.mark.parametrize(("sampled", "least"), [(9, -2.0), (7, -0.5), (5, -2.0)])
def test_the_token_that_was_sampled_does_not_count_as_one_of_the_likeliest(sampled, least):
    # vLLM lists what was sampled, 9, first, and then as many of the likeliest as there is room for: here one less.
    listed = {5: -0.5, 7: -2.0} | ({9: -6.0} if sampled == 9 else {})
    top = [{"token": f"token_id:{identity}", "logprob": value} for identity, value in listed.items()]
    content = [{"token": f"token_id:{sampled}", "logprob": listed[sampled], "top_logprobs": top}]
    choice = {"message": {"content": "?"}, "logprobs": {"content": content}}
    told = TypeAdapter(Completion).validate_python({"choices": [choice], "prompt_token_ids": [1]})
    assert likely_of(told, "it", count=2).least == least


def test_turns_of_random_tokens_prove_nothing_of_another_model(config, init, tmp_path):
    hot = RolloutConfig(out=tmp_path / "hot", checkpoint=init, **TASK, episodes=4, max_new_tokens=32, temperature=2.0)
    execute(hot)
    other = execute(InitConfig(out=tmp_path / "other", seed=9)).out
    said = r"proves nothing of .*: \d+ of \d+ tokens|does not serve"
    with serving(load_policy(other, device="cpu")) as fake, pytest.raises(GtrTurboError, match=said):
        play(config, fake, checkpoint=init, probe_turns=hot.out)


def test_short_replies_are_looked_at_in_larger_numbers():
    assert recorded_probe._spread([16] * 9) == [0, 2, 5, 8]
    assert recorded_probe._spread([2] * 100) == np.linspace(0, 99, 32).astype(int).tolist()
    assert recorded_probe._spread([2] * 3) == [0, 1, 2]


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
