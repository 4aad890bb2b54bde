"""The probe at temperature 0: a server that plays at another one, whatever log-probs it tells, is refused."""

import numpy as np
import pytest
import torch
from fake_server import Fake, serving

from gtrturbo.config import DistillConfig, EvalConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import greedy_probe, proving, wire
from gtrturbo.play.limits import Limits
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)


@pytest.fixture
def evaluate(warm, tmp_path):
    """Evaluate the warm checkpoint on a server, and return what the manifest says."""

    def run(fake, **settings):
        play = {"episodes": 4, "max_new_tokens": 32, "num_envs": 4} | settings
        config = EvalConfig(out=tmp_path / "eval", checkpoint=warm, engine=f"{fake.kind}:{fake.url}", **TASK, **play)
        return read_manifest(execute(config).out).metrics

    return run


def test_an_evaluation_is_proved_at_the_temperature_that_it_plays_at(evaluate, served):
    with serving(served) as fake:
        metrics = evaluate(fake)
        assert {body["temperature"] for body in fake.requests[:8]} == {0.0, 1.0}
        assert metrics["probe_greedy_tokens"] > 20 and metrics["probe_greedy_gap_max"] < 1e-3
        before = len(fake.requests)
        assert "probe_greedy_tokens" not in evaluate(fake, temperature=0.4, overwrite=True)
        assert {body["temperature"] for body in fake.requests[before : before + 8]} == {0.4, 1.0}


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_plays_temperature_0_as_1_is_refused_for_an_evaluation(evaluate, served, kind, tmp_path):
    with serving(served, kind=kind, coldest=1.0) as fake:
        with pytest.raises(GtrTurboError, match=r"does not play at temperature 0 .*\n.*--temperature 1"):
            evaluate(fake)
        assert len(fake.requests) == 8 and not (tmp_path / "eval").exists()
        assert evaluate(fake, temperature=1.0)["probe_gap_mean"] < 1e-5


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_recorded_turns_prove_the_temperature_of_an_evaluation_as_well(evaluate, served, turns, monkeypatch, temperature):
    monkeypatch.setattr(proving, "load_policy", None)
    how = {"probe_turns": turns, "temperature": temperature}
    with serving(served) as fake:
        metrics = evaluate(fake, **how)
    assert metrics.get("probe_greedy_tokens", 0) == (
        0 if temperature else metrics["probe_tokens"] + metrics["probe_tokens_left_out"]
    )
    # What is at 0.9 there is right, what is colder is played at 0.9 as well.
    said = "returns log-probs before temperature" if temperature else "does not play at temperature 0"
    with serving(served, coldest=0.9) as fake, pytest.raises(GtrTurboError, match=said):
        evaluate(fake, **how, overwrite=True)


def test_a_teachers_further_tries_are_proved_at_their_own_temperature(turns, init, tmp_path):
    """None of the replies of a model with random weights parses: it is asked again, hotter each time."""
    with serving(load_policy(init, device="cpu")) as fake:
        config = {"rollouts": turns, "teacher": init, "mode": "thoughts", "temperature": 0.5, "max_new_tokens": 8}
        with pytest.raises(GtrTurboError, match="could be used"):
            execute(DistillConfig(out=tmp_path / "demos", engine=f"vllm:{fake.url}", **config))
    asked = [body["temperature"] for body in fake.requests]
    for at in sorted(set(asked) - {1.0}):
        # Each first beside temperature 1, by some states, before it counts.
        after = asked[asked.index(at) :]
        states = after.index(1.0)
        assert 1 <= states <= 4 and after[: 2 * states] == [at] * states + [1.0] * states
    assert len(set(asked)) > 2


def test_a_server_that_becomes_hot_is_found_by_a_look(evaluate, served, monkeypatch):
    monkeypatch.setattr(proving, "EVERY", 4)
    right = Fake.reply

    def reply(self, body, policy):
        self.coldest = 1.0 if len(self.requests) > 20 else 0.0
        return right(self, body, policy)

    monkeypatch.setattr(Fake, "reply", reply)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"another took its place.* temperature 0"):
        evaluate(fake, episodes=30, num_envs=1)


def test_each_greedy_question_is_asked_with_another_seed(evaluate, served):
    with serving(served) as fake:
        evaluate(fake)
    probes = [body["seed"] for body in fake.requests[:4] + fake.requests[-8:-4] if body["temperature"] == 0]
    assert len(probes) == len(set(probes)) == 8


@pytest.mark.parametrize("kind", ["openai", "vllm"])
def test_sampled_replies_are_not_taken_for_greedy_ones_where_no_log_probs_come(evaluate, served, kind):
    with serving(served, kind=kind, ids=False) as fake:
        assert evaluate(fake)["probe_gap_max"] == 0
    said = r"or not at temperature 0: .* one of them \d"
    with serving(served, kind=kind, ids=False, coldest=1.0) as fake, pytest.raises(GtrTurboError, match=said):
        evaluate(fake, overwrite=True)


# Mean and largest by hand against limits of 0.01 and 0.1 for the mean, and 1 for one token.
@pytest.mark.parametrize(
    ("gaps", "refused", "told"),
    [
        ([0.0] * 99 + [0.9], False, False),
        ([0.0] * 39 + [0.9], False, True),  # 0.0225
        ([0.0] * 99 + [1.1], True, False),  # 0.011, and one that no rounding makes
        ([0.0] * 7 + [0.9], True, False),  # 0.1125
    ],
)
def test_greedy_replies_are_judged_by_their_mean_and_by_their_unlikeliest_token(gaps, refused, told, capsys):
    limits = Limits(warns=0.01, refuses=0.1, tie=1.0)
    if refused:
        with pytest.raises(GtrTurboError, match="does not play at temperature 0"):
            greedy_probe.require_ties(np.array(gaps), limits, "it")
    else:
        greedy_probe.require_ties(np.array(gaps), limits, "it")
    assert ("less likely than" in capsys.readouterr().err) == told


def test_tokens_are_held_against_the_likeliest_that_may_be_sampled(served):
    prompt = served.renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1"}]}], [])
    ids = np.array([40, 41, 42], np.int32)
    found = greedy_probe._below_best(served, prompt, ids)
    scored = []
    for place in range(3):  # By hand: the whole sequence again, and the distribution after each beginning of it.
        tokens = torch.tensor([[*prompt.ids.tolist(), *ids[:place].tolist()]])
        with torch.no_grad():
            logits = served.model(input_ids=tokens).logits[0, -1].double()
        logits[served.forbidden] = -torch.inf
        scored.append(float(logits.max() - logits[ids[place]]))
    assert found == pytest.approx(scored, abs=1e-4)
