"""The probe: what a server serves is proved by log-probs before an episode is played, and what is wrong with it is named."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_server import Fake, serving
from safetensors.torch import load_file, save_file

from gtrturbo.config import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import adapter_layers, switched_off
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import probe, proving, wire
from gtrturbo.play.policy_agent import PolicyAgent
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import read_turns

TASK = {"task": "numberline", "env": ("image=tiny",)}
PLAY = TASK | {"episodes": 2, "max_new_tokens": 32, "num_envs": 2}


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)


@dataclass
class Stage:
    """A stage that asks a server, and where it would write."""

    config: type
    out: object
    settings: dict

    def run(self, fake, **more):
        config = self.config(**{"out": self.out, "engine": f"{fake.kind}:{fake.url}"} | PLAY | self.settings | more)
        return read_manifest(execute(config).out).metrics


@pytest.fixture
def rollout(warm, tmp_path):
    return Stage(RolloutConfig, tmp_path / "turns", {"checkpoint": warm, "temperature": 0.6})


@pytest.fixture
def evaluation(warm, tmp_path):
    return Stage(EvalConfig, tmp_path / "eval", {"checkpoint": warm})


def test_a_server_of_the_checkpoint_is_proved_to_be_one_and_the_manifest_says_by_how_much(rollout, served):
    with serving(served) as fake:
        metrics = rollout.run(fake)
    assert 0 < metrics["probe_gap_mean"] < metrics["probe_warns_above"] == 1e-5
    assert metrics["probe_refuses_above"] == 1e-4 and metrics["probe_tokens"] > 20
    # Two states at two temperatures, before any turn: that of the model, and that of the rollout.
    assert [body["temperature"] for body in fake.requests[:4]] == [0.6, 0.6, 1.0, 1.0]
    # One of them by another seed, which gives another reply.
    assert fake.requests[4] == fake.requests[2 + (fake.requests[4]["messages"] == fake.requests[3]["messages"])] | {
        "seed": fake.requests[4]["seed"]
    }
    # The same four after the last turn.
    assert fake.requests[-4:] == fake.requests[:4]
    assert len(fake.requests) == 4 + 1 + metrics["turns"] + 4


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_of_another_checkpoint_is_refused_before_an_episode(rollout, evaluation, init, kind):
    for stage in (rollout, evaluation):
        with (
            serving(load_policy(init, device="cpu"), kind=kind) as fake,
            pytest.raises(
                GtrTurboError, match=r"does not serve .*warm: its log-probs are .* nats per token from the checkpoint's"
            ),
        ):
            stage.run(fake)
        assert len(fake.requests) in (2, 4) and not stage.out.exists()


def test_a_checkpoint_that_differs_by_one_update_is_refused(rollout, ppo):
    with serving(load_policy(ppo, device="cpu")) as fake, pytest.raises(GtrTurboError, match="does not serve"):
        rollout.run(fake)


def test_a_teacher_on_a_server_is_proved_to_be_the_one_that_was_named(turns, warm, init, served, tmp_path):
    teach = Stage(DistillConfig, tmp_path / "demos", {"rollouts": turns, "teacher": warm, "mode": "thoughts", "temperature": 0.5})
    keys = {"max_new_tokens": 48}
    with serving(load_policy(init, device="cpu")) as fake, pytest.raises(GtrTurboError, match="does not serve"):
        execute(DistillConfig(out=teach.out, engine=f"vllm:{fake.url}", **teach.settings, **keys))
    with serving(served) as fake:
        out = execute(DistillConfig(out=teach.out, engine=f"vllm:{fake.url}", **teach.settings, **keys)).out
    assert read_manifest(out).metrics["probe_gap_mean"] < 1e-5


def test_log_probs_before_temperature_are_refused_for_training_and_do_for_an_evaluation(rollout, evaluation, served, monkeypatch):
    right = Fake.reply

    def raw(self, body, policy):
        answer = right(self, body, policy)
        choice = answer["choices"][0]
        kept, policy.scorer.forbidden = policy.scorer.forbidden, policy.scorer.forbidden[:0]
        with torch.no_grad():
            scored = policy.score([rendered[-1]], [np.array(choice["token_ids"], np.int32)], temperature=1.0)
        policy.scorer.forbidden = kept
        choice["logprobs"]["content"] = [{"logprob": value} for value in scored.logprobs[0].tolist()]
        return answer

    rendered, render = [], served.renderer.prompt
    monkeypatch.setattr(served.renderer, "prompt", lambda *given: rendered.append(render(*given)) or rendered[-1])
    monkeypatch.setattr(Fake, "reply", raw)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"before temperature .*\n.*processed_logprobs"):
        rollout.run(fake)
    with serving(served) as fake:
        assert evaluation.run(fake)["probe_gap_mean"] < 1e-5


def test_another_model_is_not_taken_for_a_wrong_flag_that_is_nearer_by_chance(served):
    # Tokens that the model finds unlikely: at temperature 0.1 ten times as much, in nats, as before temperature. What is told is
    # 1 nat from that, ten times nearer than from what it should be, and far beyond the limits.
    prompt = served.renderer.prompt([{"role": "user", "content": [{"type": "text", "text": "1"}]}], [])
    ids = np.arange(40, 60, dtype=np.int32)
    with torch.no_grad(), probe._all_allowed(served):
        raw = served.score([prompt], [ids], temperature=1.0, values=False).logprobs[0].numpy()
    for off, said in ((1.0, "does not serve c"), (0.0, "returns log-probs before temperature")):
        with pytest.raises(GtrTurboError, match=said):
            probe.prove(served, [probe.Replied(prompt, ids, 0.1, raw - off)], who="it", path=Path("c"), exact=True)


@pytest.fixture
def trained_adapter(lora_warm):
    """An adapter of which both halves say something."""
    policy = load_policy(lora_warm, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    policy.model.save_pretrained(str(lora_warm.parent / "both"), save_embedding_layers=False)
    for file in lora_warm.iterdir():
        if file.is_file() and file.name not in ("stage.json", "adapter_model.safetensors", "optimizer.safetensors"):
            (lora_warm.parent / "both" / file.name).write_bytes(file.read_bytes())
    return lora_warm.parent / "both"


@pytest.mark.parametrize(("visual", "said"), [(True, "--enable-tower-connector-lora"), (False, "--enable-lora; the adapter is")])
def test_an_adapter_that_is_served_in_part_is_refused_by_the_flag_that_is_missing(
    rollout, trained_adapter, monkeypatch, visual, said
):
    right = Fake.reply

    def reply(self, body, policy):
        with switched_off(adapter_layers(policy.model, policy.renderer.family, visual=visual)):
            return right(self, body, policy)

    served = load_policy(trained_adapter, device="cpu")
    with serving(served) as fake:
        fake.adapters["mine"] = served
        rollout.settings |= {"checkpoint": trained_adapter}
        monkeypatch.setattr("gtrturbo.play.server_agent.artifact_id", lambda _: "mine")
        fake.adapters["gtrturbo-mine"] = served
        metrics = rollout.run(fake)
        assert metrics["probe_visual_changes"] > 1e-3 and metrics["probe_adapter_changes"] > metrics["probe_visual_changes"]
        monkeypatch.setattr(Fake, "reply", reply)
        with pytest.raises(GtrTurboError, match=said):
            rollout.run(fake, seed=1, overwrite=True)


def test_a_server_in_a_narrower_type_is_refused_by_that_and_told_within_the_band(rollout, served, init):
    with (
        serving(served, off=-6e-4) as fake,
        pytest.raises(GtrTurboError, match="--dtype float32; or, if it is to compute in bfl"),
    ):
        rollout.run(fake)
    with serving(served, off=-6e-4) as fake:
        metrics = rollout.run(fake, dtype="bfloat16", temperature=1.0)
    assert metrics["probe_refuses_above"] == 0.05


def test_a_gap_within_the_band_is_told(rollout, served, capsys):
    with serving(served, off=-5e-5) as fake:
        metrics = rollout.run(fake)
    assert metrics["probe_gap_mean"] == pytest.approx(5e-5, abs=5e-6)
    assert "right ones are within 1e-05" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("server", [{"kind": "openai"}, {"kind": "vllm", "ids": False}])
def test_a_server_that_tells_no_log_probs_is_judged_by_its_greedy_replies(evaluation, served, init, server):
    with serving(served, **server) as fake:
        assert evaluation.run(fake)["probe_gap_mean"] == 0
    with serving(load_policy(init, device="cpu"), **server) as fake, pytest.raises(GtrTurboError, match="greedy replies are"):
        evaluation.run(fake, seed=3, overwrite=True)


def swapped(monkeypatch, other, *, after, failures=()):
    """From so many replies on another checkpoint answers, once these failures are over."""
    right, count = Fake.reply, itertools.count(1)

    def reply(self, body, policy):
        answer = right(self, body, policy)
        if next(count) == after:
            self.policy, self.failures = other, [*failures]
        return answer

    monkeypatch.setattr(Fake, "reply", reply)


@pytest.mark.parametrize("failures", [(500,), (502, 502), (503, 503, 503)])
def test_a_server_that_was_away_is_proved_anew(rollout, served, init, monkeypatch, failures):
    swapped(monkeypatch, load_policy(init, device="cpu"), after=7, failures=failures)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"another took its place.* does not serve"):
        rollout.run(fake, episodes=4, num_envs=1)
    # One state at two temperatures and once by another seed to prove it, 4 turns, the one after the
    # failures, and the proof that it called for.
    assert len(fake.requests) == 3 + 4 + 1 + 2


def test_a_server_that_was_replaced_in_silence_is_found_after_the_last_turn_and_nothing_of_its_is_kept(
    rollout, served, init, monkeypatch
):
    swapped(monkeypatch, load_policy(init, device="cpu"), after=7)
    with serving(served) as fake:
        with pytest.raises(GtrTurboError, match=r"another took its place.* does not serve"):
            rollout.run(fake, num_envs=1)
        assert not rollout.out.exists() and not list(rollout.out.parent.glob(".turns*"))
        fake.policy = served
        before = len(fake.requests)
        metrics = rollout.run(fake, num_envs=1)
        assert len(fake.requests) - before == 2 + 1 + metrics["turns"] + 2


@pytest.mark.parametrize("by_turns", [False, True])
def test_a_server_that_serves_another_model_for_a_while_is_found_by_looks_in_between(
    rollout, served, init, turns, monkeypatch, by_turns
):
    """One checkpoint, then another, then the first: before the first turn and after the last all is well."""
    monkeypatch.setattr(proving, "EVERY", 1 if by_turns else 4)
    right, other, played = Fake.reply, load_policy(init, device="cpu"), itertools.count()

    def reply(self, body, policy):
        is_turn = body["temperature"] == 0.6 and "continue_final_message" not in body
        looked_at = [] if is_turn else [body]
        number = next(played) if is_turn else self.number
        self.number = number
        # From the third turn on, until the next look has been answered by it.
        return right(self, body, other if 5 <= number < 12 and (is_turn or looked_at) else policy)

    monkeypatch.setattr(Fake, "reply", reply)
    monkeypatch.setattr(Fake, "number", 0, raising=False)
    play = {"episodes": 8, "num_envs": 1, "probe_turns": turns if by_turns else None}
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"another took its place.* does not serve"):
        rollout.run(fake, **play)
    assert not rollout.out.exists() and not list(rollout.out.parent.glob(".turns*"))


def test_looks_in_between_are_a_question_each(rollout, served, monkeypatch):
    monkeypatch.setattr(proving, "EVERY", 4)
    with serving(served) as fake:
        metrics = rollout.run(fake, episodes=6, num_envs=1)
    # One state at two temperatures before and after, and once by another seed; none is left to prove where the
    # last look was after the last turn.
    looks = metrics["turns"] // 4
    assert looks > 2 and len(fake.requests) == 2 + 1 + metrics["turns"] + looks + (2 if metrics["turns"] % 4 else 0)


def test_a_server_that_computes_otherwise_each_time_is_judged_more_and_more_seldom(rollout, served, monkeypatch):
    monkeypatch.setattr(proving, "EVERY", 2)
    right, count, loaded = Fake.reply, itertools.count(1), []

    def reply(self, body, policy):
        self.off = -2e-5 * (next(count) % 3)  # Above the limit for the same, below that for another.
        return right(self, body, policy)

    monkeypatch.setattr(Fake, "reply", reply)
    monkeypatch.setattr(proving, "load_policy", lambda *given, **named: loaded.append(given) or load_policy(*given, **named))
    with serving(served) as fake:
        turns = rollout.run(fake, episodes=8, num_envs=1)["turns"]
    # After 2, 4, 8, … turns at the most often, and before the first and after the last.
    assert turns > 16 and len(loaded) <= 2 + np.log2(turns)


def test_a_server_that_names_another_folder_in_between_is_looked_at(rollout, warm, served, init, monkeypatch):
    monkeypatch.setattr(proving, "EVERY", 3)
    right, count = Fake.reply, itertools.count()

    def reply(self, body, policy):
        self.root = str(init if next(count) > 4 else warm)
        return right(self, body, policy)

    monkeypatch.setattr(Fake, "reply", reply)
    with serving(served, root=str(warm)) as fake, pytest.raises(GtrTurboError, match=r"another took its place.* serves .*init"):
        rollout.run(fake, episodes=8, num_envs=1)


def test_what_the_only_server_said_last_is_not_kept_where_it_cannot_be_proved(rollout, served, init, monkeypatch):
    other, right, count = load_policy(init, device="cpu"), Fake.reply, itertools.count(1)
    monkeypatch.setattr(proving, "EVERY", 4)

    def reply(self, body, policy):
        if next(count) == 9:  # Two for the proof, four turns, a look, a turn: from here on another answers, and soon none.
            self.policy = other
        answer = right(self, body, self.policy)
        if self.policy is other and len(self.requests) > 10:
            self.failures = [503] * 10_000
        return answer

    monkeypatch.setattr(Fake, "reply", reply)
    with serving(served) as fake, pytest.raises(GtrTurboError, match="answered 503"):
        rollout.run(fake, episodes=6, num_envs=1)
    monkeypatch.setattr(Fake, "reply", right)
    again, anew = (
        Stage(RolloutConfig, rollout.out, rollout.settings),
        Stage(RolloutConfig, rollout.out.with_name("anew"), rollout.settings),
    )
    with serving(served) as fake:
        again.run(fake, episodes=6, num_envs=1)
        anew.run(fake, episodes=6, num_envs=1)
    assert read_turns(again.out) == read_turns(anew.out)


def test_a_server_that_failed_once_and_says_the_same_as_before_is_believed_without_loading_the_checkpoint(
    rollout, served, monkeypatch
):
    swapped(monkeypatch, served, after=7, failures=(503,))
    loaded = []
    monkeypatch.setattr(proving, "load_policy", lambda *given, **named: loaded.append(given) or load_policy(*given, **named))
    with serving(served) as fake:
        assert rollout.run(fake)["probe_gap_mean"] < 1e-5
    assert len(loaded) == 1


def test_what_is_sampled_in_this_process_is_compared_as_well(served, monkeypatch):
    from gtrturbo.models.decoding import Sample
    from gtrturbo.play.episodes import State

    state = State(0, 0, [{"role": "user", "content": [{"type": "text", "text": "1"}]}], [], {})
    right = served.sampler.sample

    def off(*given, **named):
        return [Sample(each.response_ids, each.logprobs - 0.01) for each in right(*given, **named)]

    assert PolicyAgent(served, seed=0, temperature=0.7, max_new_tokens=8)([state])
    monkeypatch.setattr(served.sampler, "sample", off)
    with pytest.raises(GtrTurboError, match=r"0\.01 nats per token from the ones that it scores them with"):
        PolicyAgent(served, seed=0, temperature=0.7, max_new_tokens=8)([state])


@pytest.fixture
def small_update(warm, tmp_path):
    """A checkpoint that differs from the one before it by what no probe sees."""
    folder = tmp_path / "updated"
    shutil.copytree(warm, folder)
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)] = weights[min(weights)] * (1 + 1e-7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "stage.json").unlink()
    return folder


def test_a_server_that_loaded_another_folder_is_refused_however_close_its_log_probs_are(
    rollout, warm, served, small_update, tmp_path
):
    rollout.settings["checkpoint"] = small_update
    with (
        serving(served, root=str(warm)) as fake,
        pytest.raises(
            GtrTurboError, match=rf"serves {warm} as served, whose weights are not those of .*\n.*--model {small_update}"
        ),
    ):
        rollout.run(fake)
    assert not fake.requests and not rollout.out.exists()
    elsewhere = shutil.copytree(small_update, tmp_path / "elsewhere")
    with serving(served, root=str(elsewhere)) as fake:
        assert rollout.run(fake)["probe_gap_mean"] < 1e-5


@pytest.mark.parametrize("named", [None, "/nowhere/at/all"])
def test_a_folder_that_cannot_be_seen_is_told_once_of_what_was_trained(rollout, warm, served, named, capsys):
    with serving(served, root=named) as fake:
        rollout.run(fake)
    assert capsys.readouterr().err.count("names no folder that is seen here and was not changed") == 1
    with serving(served, root=str(warm)) as fake:
        rollout.run(fake, overwrite=True)
    assert "names no folder" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "reason", "error"),
    [
        ("", "length", r"answers '', which is empty or cut off"),
        (None, None, r"answers '', which is empty or cut off"),
        ("{", "length", r"answers '{', which is empty or cut off: .*\n.*of up to 32 tokens"),
        ("", "stop", "less likely than the checkpoint's own"),
        ("{", "stop", "less likely than the checkpoint's own"),
    ],
)
def test_replies_that_are_empty_or_cut_off_prove_nothing(evaluation, served, monkeypatch, said, reason, error):
    right = Fake.reply

    def reply(self, body, policy):
        answer = right(self, body, policy)
        answer["choices"][0]["message"]["content"] = said
        answer["choices"][0]["finish_reason"] = reason
        return answer

    monkeypatch.setattr(Fake, "reply", reply)
    with serving(served, kind="openai") as fake, pytest.raises(GtrTurboError, match=error):
        evaluation.run(fake)
    assert not evaluation.out.exists()
