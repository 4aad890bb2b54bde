"""Playing on an inference server: what goes over the wire, what is refused, and what a rollout is made of in the end."""

import itertools
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_server import EXTENDED, STANDARD, Fake, picture_of, serving
from fault_proxy import FAULTS, spoiling
from typer.testing import CliRunner
from updates import losses_of, prepare

from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, EvalConfig, PpoStepConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play import wire
from gtrturbo.play.agents import has_exact_logprobs
from gtrturbo.play.limits import Limits
from gtrturbo.play.recording import read_transcript, read_turns
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_turn_tokens
from gtrturbo.train import prepare as train_prepare

TOO_LARGE = "LoRA rank 4 is greater than max_lora_rank 1."
TASK = {"task": "numberline", "env": ("image=tiny",)}
# What a probe proves, and how, is in test_probe.py.
PLAY = TASK | {"episodes": 3, "max_new_tokens": 48, "temperature": 0.9, "num_envs": 3, "probe": False}
OWN_PLAY = PLAY | {"probe": True}  # It is of servers.


@pytest.fixture(scope="module")
def served(warm):
    from gtrturbo.models.checkpoint import load_policy

    return load_policy(warm, device="cpu")


@pytest.fixture
def critic(warm):
    """The warm policy with a value head, as an update trains it."""
    from gtrturbo.models.checkpoint import load_policy

    policy = load_policy(warm, device="cpu", trainable=True)
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    return policy


@pytest.fixture
def pauses(monkeypatch):
    """What was waited for instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(wire.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def rollout(warm, tmp_path):
    def play(fake, **settings):
        out = tmp_path / f"turns{len(list(tmp_path.iterdir()))}"
        config = RolloutConfig(**{"out": out, "checkpoint": warm, "engine": f"{fake.kind}:{fake.url}"} | PLAY | settings)
        return execute(config).out

    return play


def test_a_servers_tokens_and_log_probs_are_what_is_trained_on(rollout, served):
    with serving(served) as fake:
        out = rollout(fake)
    transcript = read_transcript(out, served.renderer)
    assert len(transcript.turns) > 3 and {turn.agent for turn in transcript.turns} == {"served"}
    with torch.no_grad():
        scored = served.score(transcript.prompts, transcript.tokens.response_ids, temperature=0.9)
    for row, logprobs in enumerate(transcript.tokens.sample_logprobs):
        assert logprobs == pytest.approx(scored.logprobs[row, : len(logprobs)].numpy(), abs=2e-5)
    manifest = read_manifest(out)
    assert manifest.config["engine"] == "vllm"
    assert fake.url not in str(manifest)


def test_the_request_says_all_that_decides_the_distribution(rollout, served):
    with serving(served) as fake:
        out = rollout(fake, temperature=0.7)
    turns = read_turns(out)
    assert len(fake.requests) == len(turns)
    assert len({body["seed"] for body in fake.requests}) == len(turns)
    token = served.processor.tokenizer.convert_tokens_to_ids
    for body in fake.requests:
        assert body.keys() == STANDARD | EXTENDED | {"return_tokens_as_token_ids"}
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 1.0, 48)
        assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
        assert (body["logprobs"], body["return_token_ids"], body["stop_token_ids"]) == (True, True, [token("<|im_end|>")])
        placeholders = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
        assert body["logit_bias"] == {str(token(name)): -100.0 for name in placeholders}
        [message] = body["messages"]
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    sent = {picture_of(body["messages"][0]["content"][0]["image_url"]["url"]).tobytes() for body in fake.requests}
    assert sent == {load_picture(out, turn.images[0]).tobytes() for turn in turns}


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_vllm_is_asked_for_the_beginning_that_only_the_tokenizer_writes(rollout, served, monkeypatch, kind):
    monkeypatch.setattr(Renderer, "tokenizer_begins", lambda _: True)
    with serving(served, kind=kind) as fake:
        rollout(fake, episodes=1, num_envs=1)
    assert {body.get("add_special_tokens") for body in fake.requests} == {True if kind == "vllm" else None}


def test_episodes_on_a_server_do_not_depend_on_how_many_are_asked_for_at_once(rollout, served):
    with serving(served, seconds=0.01) as fake:
        many = read_turns(rollout(fake))
        assert 1 < fake.most_running <= 3
        fake.most_running = 0
        assert read_turns(rollout(fake, num_envs=2)) == many
        assert fake.most_running == 2
        assert read_turns(rollout(fake, num_envs=1)) == many


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_adapter_is_loaded_once_and_named_in_every_row(rollout, served, lora_warm, kind):
    with serving(served, kind=kind) as fake:
        settings = {"checkpoint": lora_warm, "episodes": 1, "max_new_tokens": 6}
        turns = read_turns(rollout(fake, **settings))
        read_turns(rollout(fake, **settings))
    name = f"gtrturbo-{artifact_id(lora_warm)[:12]}"
    assert fake.loads == [{"lora_name": name, "lora_path": str(lora_warm.resolve())}]
    assert {turn.agent for turn in turns} == {name}
    asked = {(body["model"], body.get("lora_path")) for body in fake.requests}
    assert asked == ({(name, None)} if kind == "vllm" else {("served", name)})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"ids": False}, "returned no token ids"),
        ({"drift": True}, r"renders a prompt to \d+ tokens that differ from our"),
        ({"end": False}, "tokens that do not end with the end of turn"),
    ],
)
def test_what_could_not_be_trained_on_is_refused(rollout, served, wrong, error, tmp_path):
    with serving(served, **wrong) as fake, pytest.raises(GtrTurboError, match=error):
        rollout(fake, temperature=0.1)
    assert not list(tmp_path.glob("turns*"))


def first_token(reply):
    return reply["choices"][0]["logprobs"]["content"][0]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (lambda reply: reply["choices"].clear(), "choices"),
        (lambda reply: reply["choices"][0].update(message=None), "choices.0.message"),
        (lambda reply: reply["choices"][0]["message"].update(content=["a"]), "choices.0.message.content"),
        (lambda reply: reply["choices"][0]["message"].update(content="\ud800"), "choices.0.message.content"),
        (lambda reply: reply["choices"][0]["token_ids"].append(-1), "choices.0.token_ids"),
        (lambda reply: reply["choices"][0]["token_ids"].append("5"), "choices.0.token_ids"),
        (lambda reply: reply.update(prompt_token_ids=[2**40]), "prompt_token_ids.0"),
        (lambda reply: first_token(reply).update(logprob=0.5), "choices.0.logprobs.content.0.logprob"),
        (lambda reply: first_token(reply).update(logprob=None), "choices.0.logprobs.content.0.logprob"),
        (lambda reply: first_token(reply).update(logprob=-1e308), "choices.0.logprobs.content.0.logprob"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused_by_its_place(rollout, served, tmp_path, monkeypatch, wrong, where):
    def reply(self, body, policy):
        answer = right(self, body, policy)
        wrong(answer)
        return answer

    right = Fake.reply
    monkeypatch.setattr(Fake, "reply", reply)
    with (
        serving(served) as fake,
        pytest.raises(GtrTurboError, match=rf"does not answer as the protocol says: {re.escape(where)}"),
    ):
        rollout(fake, episodes=1)
    assert not list(tmp_path.glob("turns*"))


def test_log_probs_of_other_tokens_than_were_sampled_are_refused(rollout, served, tmp_path, monkeypatch):
    right = Fake.reply

    def reply(self, body, policy):
        answer = right(self, body, policy)
        first_token(answer).update(token="token_id:1")
        return answer

    monkeypatch.setattr(Fake, "reply", reply)
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"returned the token \d+ with the log-prob of another, '1'"):
        rollout(fake, episodes=1)
    assert not list(tmp_path.glob("turns*"))


def test_a_place_of_a_picture_may_stand_for_all_its_tokens(served):
    from gtrturbo.play.server_agent import _once

    ids = np.array([5, 9, 9, 9, 7, 7, 9, 5], np.int32)
    assert _once(ids, 9).tolist() == [5, 9, 7, 7, 9, 5]
    assert _once(ids, None).tolist() == ids.tolist()


def test_a_generic_server_cannot_be_trained_from(rollout, served):
    with (
        serving(served, kind="openai") as fake,
        pytest.raises(GtrTurboError, match="a server of kind openai returns no token ids"),
    ):
        rollout(fake)
    assert fake.tries == 0


def test_a_rollout_without_the_servers_address_is_refused(rollout, served):
    with serving(served) as fake, pytest.raises(GtrTurboError, match="none is named"):
        rollout(fake, engine="sglang")


@pytest.mark.parametrize("server", [{"kind": "openai"}, {"kind": "vllm", "ids": False}])
def test_an_evaluation_needs_no_token_ids_and_a_strict_server_sees_standard_fields_only(
    served, warm, tmp_path, server, monkeypatch
):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    settings = TASK | {"checkpoint": warm, "episodes": 3, "max_new_tokens": 48}
    here = execute(EvalConfig(out=tmp_path / "here", **settings)).out
    with serving(served, **server) as fake:
        config = EvalConfig(out=tmp_path / "there", **settings, probe=False, engine=f"{fake.kind}:{fake.url}/v1/")
        there = execute(config).out
    assert [replace(turn, agent=None) for turn in read_turns(there)] == read_turns(here)
    assert not (there / "tokens.safetensors").exists()
    if fake.kind == "openai":
        assert all(body.keys() == STANDARD for body in fake.requests)


def test_what_may_pass_is_tried_again_after_longer_and_longer_pauses(rollout, served, pauses):
    with serving(served, failures=[503, 429, 502]) as fake:
        turns = read_turns(rollout(fake, episodes=1, num_envs=1))
    assert pauses == [0.5, 1.0, 2.0]
    assert fake.tries == len(turns) + 3 and len(fake.requests) == len(turns)


def test_what_is_refused_is_not_tried_again(rollout, served, pauses):
    with serving(served, failures=[400]) as fake, pytest.raises(GtrTurboError, match=r"refused the request \(400\): .*not now"):
        rollout(fake, episodes=1)
    assert fake.tries == 1 and pauses == []


def test_a_server_that_fails_again_and_again_is_given_up_sooner(rollout, served, pauses):
    with (
        serving(served, failures=[500] * 9) as fake,
        pytest.raises(GtrTurboError, match=r"answered 500: .*\nlook at"),
    ):
        rollout(fake, episodes=1, num_envs=1)
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no memory\x1b[2J"}}, "answers with an error"),
        ("{", "does not answer with JSON"),
        ("[" * 100_000, "does not answer with JSON"),
        ("<html>busy</html>", "does not answer with JSON"),
        ({}, "does not answer as the protocol says: choices"),
    ],
)
def test_an_answer_that_helps_nobody_is_one_sentence(rollout, served, pauses, monkeypatch, body, said):
    monkeypatch.setattr(Fake, "chat", lambda self, asked: (200, body))
    with serving(served) as fake, pytest.raises(GtrTurboError, match=said):
        rollout(fake, episodes=1, num_envs=1)


def test_answers_that_are_spoiled_on_their_way_change_nothing_of_what_is_played(rollout, served, pauses):
    with serving(served) as fake, spoiling(fake.url) as proxy:
        turns = read_turns(rollout(fake))
        through = rollout(replace(fake, url=proxy.url), num_envs=1)  # Else one request may be spoiled again and again.
    assert read_turns(through) == turns
    assert set(proxy.done) == set(FAULTS) and proxy.answered == len(turns) and len(pauses) == len(proxy.done)


def test_an_adapter_that_is_gone_after_a_restart_is_loaded_again(rollout, served, lora_warm, monkeypatch):
    chat = Fake.chat

    def forgetful(self, body):
        if len(self.requests) == 2 and len(self.loads) == 1:
            self.adapters.clear()
        return chat(self, body)

    monkeypatch.setattr(Fake, "chat", forgetful)
    settings = {"checkpoint": lora_warm, "episodes": 3, "max_new_tokens": 6, "num_envs": 1, "probe": True}
    with serving(served) as fake:
        turns = read_turns(rollout(fake, **settings))
    assert len(fake.loads) == 2 and fake.loads[0] == fake.loads[1]
    monkeypatch.setattr(Fake, "chat", chat)
    with serving(served) as other:
        assert read_turns(rollout(other, **settings)) == turns


def test_an_adapter_that_a_server_does_not_keep_is_told_as_that(rollout, served, lora_warm, monkeypatch):
    monkeypatch.setattr(Fake, "load", lambda self, body: (200, "Success"))
    with serving(served) as fake, pytest.raises(GtrTurboError, match=r"does not know it at the next request: .*no model"):
        rollout(fake, checkpoint=lora_warm, num_envs=1)


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (404, "Not Found", r"loads no adapters while it runs.*\n.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        (400, TOO_LARGE, r"does not take the adapter .* of rank 4: .*\nstart vLLM with --enable-lora --max-lora-rank 8$"),
        (500, TOO_LARGE, r"does not take the adapter .* of rank 4: .*\nstart vLLM with --enable-lora --max-lora-rank 8$"),
        (400, "The lora adapter 'a' has already been loaded.", r"already been loaded.*\nit holds another under that name"),
        (404, "Loading lora a failed: No adapter found for /b", r"does not take .*\nlet the server see /.*warm"),
        (500, "out of memory", r"does not take .*\nsee that it was started with --enable-lora --max-lora-rank 8, or more"),
    ],
)
def test_a_server_that_takes_no_adapter_is_refused_by_what_it_needs(
    rollout, served, lora_warm, pauses, monkeypatch, status, answer, said
):
    monkeypatch.setattr(Fake, "load", lambda self, body: (status, {"message": answer}))
    with serving(served) as fake, pytest.raises(GtrTurboError, match=said):
        rollout(fake, checkpoint=lora_warm)
    assert sum(pauses) < 10


def test_a_reply_that_the_servers_context_cuts_is_refused_by_the_length_that_is_needed(rollout, served, monkeypatch):
    right = Fake.reply

    def cut(self, body, policy):
        return right(self, body | {"max_tokens": 3}, policy)

    monkeypatch.setattr(Fake, "reply", cut)
    with (
        serving(served) as fake,
        pytest.raises(GtrTurboError, match=r"after 3 of at most 48 .*\n.*--max-model-len \d+"),
    ):
        rollout(fake)


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 64 tokens. However, your prompt contains at least 65 input tokens, which exceeds",
        "max_tokens=48 cannot be greater than max_model_len=32. Please request fewer output tokens.",
    ],
)
def test_a_prompt_or_reply_that_the_servers_context_does_not_hold_is_refused_by_the_length_that_is_needed(
    rollout, served, monkeypatch, said
):
    right = Fake.chat
    monkeypatch.setattr(Fake, "chat", lambda self, body: (400, {"error": {"message": said, "code": 400}}))
    with (
        serving(served) as fake,
        pytest.raises(GtrTurboError, match=r"refused the request \(400\).*\n.*--max-model-len \d+") as told,
    ):
        rollout(fake, episodes=1, num_envs=1)
    monkeypatch.setattr(Fake, "chat", right)
    with serving(served) as fake:
        prompts = load_turn_tokens(rollout(fake, episodes=1, num_envs=1) / "tokens.safetensors").prompt_ids
    assert str(told.value).endswith(f"--max-model-len {len(prompts[0]) + 48} or more.")


def test_a_reply_that_is_longer_than_the_model_reads_is_mended_by_the_longest_that_fits(rollout, served, monkeypatch):
    said = "This model's maximum context length is 2048 tokens. However, you requested 100000 output tokens"
    monkeypatch.setattr(Fake, "chat", lambda self, body: (400, {"error": {"message": said, "code": 400}}))
    positions = served.model.config.get_text_config().max_position_embeddings
    with serving(served) as fake, pytest.raises(GtrTurboError, match="refused the request") as told:
        rollout(fake, episodes=1, num_envs=1, max_new_tokens=100_000)
    [longest, prompt, most] = map(int, re.findall(r"\d+", told.value.fix))
    assert most == positions == longest + prompt and "--max-model-len" not in told.value.fix
    assert told.value.fix.startswith(f"give --max-new-tokens {longest} or less")


def test_a_server_that_is_not_there_is_given_up_after_all_pauses(warm, tmp_path, pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(GtrTurboError, match=r"cannot be reached: .*\nstart the server"):
            execute(RolloutConfig(out=tmp_path / "turns", checkpoint=warm, engine=f"vllm:{url}", **PLAY))
    assert pauses == list(wire.BACKOFF)
    assert sum(pauses) > 60 and all(later >= 1.8 * sooner for sooner, later in itertools.pairwise(pauses))


def test_a_teacher_on_a_server_writes_demos_and_several_at_once(served, warm, turns, tmp_path):
    with serving(served, seconds=0.01) as fake:
        config = DistillConfig(
            out=tmp_path / "demos", rollouts=turns, teacher=warm, mode="thoughts", max_new_tokens=48, temperature=0.5,
            probe=False, engine=f"vllm:{fake.url}",
        )  # fmt: skip
        out = execute(config).out
    assert 1 < fake.most_running <= 64
    legal = [turn for turn in read_turns(turns) if turn.legal]
    demos = list(read_rows(out / "demos.jsonl", Demo))
    metrics = read_manifest(out).metrics
    assert metrics["turns"] == len(legal) and metrics["demos"] == len(demos) > len(legal) // 2
    assert {demo.messages[0]["content"][-1]["text"] for demo in demos} <= {
        turn.messages[0]["content"][-1]["text"] for turn in legal
    }


AGENT = f"{Path(__file__).parents[1]}/plugins/scripted_agent.py:make"


def test_an_agent_of_the_users_own_plays_an_evaluation(warm, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    command = ["eval", "--checkpoint", str(warm), "--task", "numberline", "--env", "image=tiny", "--episodes", "20"]
    result = CliRunner().invoke(app, [*command, "--engine", AGENT, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.metrics["success_rate"], manifest.metrics["illegal_rate"]) == (1.0, 0.0)
    assert manifest.config["engine"] == manifest.plugins["engine"]["name"] == "scripted_agent.py:make"


def test_what_an_agent_says_without_tokens_is_not_played_for_training(warm, tmp_path):
    config = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **OWN_PLAY | {"engine": AGENT})
    with pytest.raises(GtrTurboError, match="responds without token ids and log-probs: what it plays cannot be trained on"):
        execute(config)
    assert not (tmp_path / "turns").exists()


OWN = """import numpy as np
from gtrturbo.play.episodes import Response
def make(checkpoint, **_):
    return lambda states: """
SAMPLED = "Response('x', np.array([1]), np.array([5, 6]), [(0, 1), (1, 1)], np.array([-0.5, {last}]))"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("states[0].nothing", r"own.py line 4 raises AttributeError"),
        ("[]", r"was given \d states and gives 0 responses"),
        ("[None for _ in states]", r"was given \d states and gives 0 responses"),
        ("['text' for _ in states]", "responds with str"),
        ("[Response('x', np.array([1]), np.array([5]), [], np.array([0.0])) for _ in states]", "logprobs and without offsets"),
        (f"[{SAMPLED.format(last=0.5)} for _ in states]", "gives log-probs that are none"),
        (f"[{SAMPLED.format(last='np.nan')} for _ in states]", "gives log-probs that are none"),
    ],
)
def test_what_an_agent_responds_is_checked(warm, tmp_path, body, said):
    (tmp_path / "own.py").write_text(OWN + body)
    with pytest.raises(GtrTurboError, match=said):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **OWN_PLAY | {"engine": f"{tmp_path}/own.py:make"}))


def test_an_agent_with_tokens_is_recorded_as_it_says(warm, tmp_path):
    (tmp_path / "own.py").write_text(OWN + f"[{SAMPLED.format(last=-0.25)} for _ in states]")
    config = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **OWN_PLAY | {"engine": f"{tmp_path}/own.py:make"})
    tokens = load_turn_tokens(execute(config).out / "tokens.safetensors")
    assert {tuple(row.tolist()) for row in tokens.sample_logprobs} == {(-0.5, -0.25)}


def test_an_agent_that_makes_nothing_to_call_is_refused(warm, tmp_path):
    (tmp_path / "own.py").write_text("def make(checkpoint, **_):\n    return 3\n")
    with pytest.raises(GtrTurboError, match="makes no agent: it returns int"):
        execute(RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **OWN_PLAY | {"engine": f"{tmp_path}/own.py:make"}))


def test_a_checkpoint_teaches_through_an_agent_of_the_users_own(turns, warm, tmp_path):
    config = DistillConfig(out=tmp_path / "demos", rollouts=turns, teacher=warm, mode="thoughts", engine=AGENT)
    metrics = read_manifest(execute(config).out).metrics
    assert metrics["demos"] == metrics["turns"] == sum(turn.legal for turn in read_turns(turns))


def test_only_what_is_built_in_is_trusted_to_have_the_trainers_log_probs():
    assert (has_exact_logprobs("hf"), has_exact_logprobs("vllm:http://x"), has_exact_logprobs("nowhere.py:make")) == (
        True,
        False,
        False,
    )


def test_an_unknown_engine_lists_those_that_there_are(warm, tmp_path):
    with pytest.raises(GtrTurboError, match=r"there is no engine 'tgi'\.\nbuilt in: hf, vllm, sglang, openai;"):
        execute(EvalConfig(out=tmp_path / "x", checkpoint=warm, **TASK, engine="tgi"))


def test_scores_are_not_asked_of_a_server(turns, warm, tmp_path):
    with pytest.raises(GtrTurboError, match="scores are the teacher's log-probs, computed here"):
        execute(DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=warm, engine="vllm:http://x"))


@pytest.fixture
def wide(monkeypatch):
    """Let a server differ from the trainer by a lot, as none may: what then becomes of the gap is to be seen."""
    monkeypatch.setattr(train_prepare, "limits_of", lambda _: Limits(warns=1.0, refuses=1.0, tie=1.0))


@pytest.fixture
def update(warm, tmp_path):
    """One PPO update from turns that a server sampled, as far as what it holds fixed."""

    def config(turns, **settings):
        return PpoStepConfig(out=tmp_path / "next", checkpoint=warm, rollouts=turns, seed=3, **settings)

    return config


def test_an_update_weighs_each_token_by_how_much_the_server_differs(rollout, served, update, critic, wide):
    with serving(served, off=-0.4) as fake:
        turns = rollout(fake)
    transcript = read_transcript(turns, served.renderer)
    samples, metrics = prepare(update(turns), critic, transcript)
    assert samples.importance is not None
    lengths = [len(ids) for ids in transcript.tokens.response_ids]
    assert metrics["sampler_trainer_gap_kl"] == pytest.approx(-0.4, abs=1e-4)
    assert (metrics["importance_truncated"], metrics["effective_sample_size"]) == (0.0, pytest.approx(1.0, abs=1e-5))
    for row, length in enumerate(lengths):
        assert samples.importance.weights[row, :length].numpy() == pytest.approx(np.exp(0.4), abs=1e-4)


def test_weights_scale_gradients_and_leave_the_first_ratio_alone(rollout, served, update, critic, wide):
    with serving(served, off=-0.3) as fake:
        turns = rollout(fake)
    config, transcript = update(turns), read_transcript(turns, served.renderer)
    samples, _ = prepare(config, critic, transcript)
    rows = list(range(len(transcript.turns)))

    def gradient(weights):
        importance = None if weights is None else replace(samples.importance, weights=weights)
        surrogate = losses_of(config, critic, transcript, replace(samples, importance=importance), rows).surrogate
        assert surrogate.ratio.detach().numpy() == pytest.approx(1.0, abs=1e-5)
        parameters = [parameter for _, parameter in critic.parameters()]
        found = torch.autograd.grad(surrogate.loss.sum(), parameters, allow_unused=True)
        return torch.cat([part.flatten() for part in found if part is not None])

    plain, ones = gradient(None), torch.ones_like(samples.importance.weights)
    assert plain.norm() > 0
    for factor in (1.0, 1.5, 0.0):
        torch.testing.assert_close(gradient(factor * ones), factor * plain, rtol=1e-4, atol=1e-5 * float(plain.norm()))


@pytest.mark.parametrize(("off", "told"), [(0.0, False), (-5e-5, True)])
def test_a_gap_above_that_of_the_same_weights_is_told_and_both_limits_are_in_the_manifest(
    rollout, served, update, capsys, off, told
):
    with serving(served, off=off) as fake:
        out = execute(update(rollout(fake), minibatch_size=4, epochs=1)).out
    metrics = read_manifest(out).metrics
    assert (metrics["sampler_trainer_gap_warns_above"], metrics["sampler_trainer_gap_refuses_above"]) == (1e-5, 1e-4)
    assert ("nats per token from the trainer's" in capsys.readouterr().err) == told


def test_a_server_that_plays_another_model_is_not_trained_on(rollout, served, update):
    with serving(served, off=-0.7) as fake:
        turns = rollout(fake)
    with pytest.raises(GtrTurboError, match=r"the vllm server's log-probs are 0\.7 nats per token from the trainer's"):
        execute(update(turns))


def test_a_step_on_a_servers_turns_starts_at_ratio_one(rollout, served, update, wide):
    with serving(served, off=-0.2) as fake:
        out = execute(update(rollout(fake), minibatch_size=4, epochs=1)).out
    metrics = read_manifest(out).metrics
    assert metrics["first_ratio_error"] == 0 and metrics["sampler_trainer_gap_mean"] == pytest.approx(0.2, abs=1e-4)
