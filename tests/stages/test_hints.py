"""Hints: a teacher that is told more than the student saw, a start that learns to read it, and that no student is told."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resealed import reseal

from gtrturbo.analysis.summary import by_episode
from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.renderer import Renderer
from gtrturbo.play.hints import in_words, told, told_task
from gtrturbo.play.recording import read_turns
from gtrturbo.runs.execute import run
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_scores, load_top_logprobs, load_turn_tokens
from gtrturbo.tasks.loading import load_task

TASK = load_task("numberline", ["image=tiny"])
HEAD = "\n\nThe following is known and true:"


def by_hand(turn, episode, *hints: str) -> str:
    """What the teacher is told of a turn of NumberLine, put together of numbers."""
    won, total = episode[-1].won, sum(each.reward for each in episode)
    current, target = turn.info["Current"], turn.info["Target"]
    thought, action = ("smaller than %d so go up", "+") if current < target else ("larger than %d so go down", "-")
    lines = {
        "truth": f'What the picture shows: {{"current number": {current}, "target number": {target}}}',
        "expert": f'A good reply: {{"current number": {current}, "target number": {target}, '
        f'"thoughts": "{current} is {thought % target}", "action": "{action}"}}',
        "outcome": f"How the episode ended: {'won' if won else 'not won'}, with a return of {int(total)}",
    }
    return "\n".join([HEAD, *(lines[hint] for hint in hints)])


def asked_of(messages) -> str:
    return messages[0]["content"][-1]["text"]


@pytest.fixture(scope="module")
def scored(root, warm, turns):
    return execute(
        DistillConfig(out=root / "told scores", rollouts=turns, teacher=warm, hints=("outcome", "truth"), top_logprobs=512)
    ).out


DEMOS = {"task": "numberline", "env": ("image=tiny",), "expert": True, "episodes": 60, "seed": 7}


@pytest.fixture(scope="module")
def told_start(root) -> Path:
    """The tiny model after as many steps as `warm`, on turns of which half hold the truth."""
    turns = execute(RolloutConfig(out=root / "told expert", **DEMOS, hints=("truth",))).out
    init = execute(InitConfig(out=root / "told init")).out
    how = {"steps": 80, "learning_rate": 3e-3, "batch_size": 16}
    return execute(SftConfig(out=root / "told start", data=(turns,), checkpoint=init, **how)).out


def logits_by_hand(policy, folder, turn, ids, text) -> torch.Tensor:
    """The teacher's logits at each token of the reply, by the processor itself and one pass over the whole."""
    messages = json.loads(json.dumps(turn.messages[:-1]))
    messages[-1]["content"][-1]["text"] += text
    processor = policy.renderer.processor
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    batch = processor(text=[prompt], images=[[Image.open(folder / name) for name in turn.images]], return_tensors="pt")
    tail = torch.from_numpy(ids.astype(np.int64))[None]
    inputs, length = dict(batch), batch["input_ids"].shape[1]
    for name, value in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
        inputs[name] = torch.cat([inputs[name], value], dim=1)
    with torch.no_grad():
        logits = policy.model(**inputs).logits[0, length - 1 : -1].double() / 0.9
    logits[:, policy.forbidden] = -torch.inf
    return logits


def test_scores_and_distributions_are_those_of_a_pass_over_the_longer_prompt(scored, warm, turns, policy):
    played = read_turns(turns)
    tokens, rows = load_turn_tokens(turns / "tokens.safetensors"), load_scores(scored / "scores.safetensors")
    top = load_top_logprobs(scored / "scores.safetensors")
    assert top is not None and [len(row) for row in rows] == [len(ids) for ids in tokens.response_ids]
    for row in (0, 7):
        turn, ids = played[row], tokens.response_ids[row]
        episode = [each for each in played if each.episode == turn.episode]
        logprobs = logits_by_hand(policy, turns, turn, ids, by_hand(turn, episode, "truth", "outcome")).log_softmax(-1)
        expected = logprobs[torch.arange(len(ids)), torch.from_numpy(ids.astype(np.int64))]
        assert rows[row] == pytest.approx(expected.numpy(), abs=2e-5)
        likeliest = logprobs.max(-1).values
        assert np.asarray(top.logprobs[row]).max(-1) == pytest.approx(likeliest.numpy(), abs=2e-5)
    # The student's own tokens, and its own thoughts, are what the KL is told of.
    thought = np.concatenate(tokens.thought_mask)
    difference = (np.concatenate(tokens.sample_logprobs) - np.concatenate(rows))[thought]
    assert read_manifest(scored).metrics["thought_kl_k1"] == pytest.approx(difference.mean(), abs=1e-5)


def test_a_teacher_of_which_nothing_is_told_scores_as_before_and_its_manifest_says_nothing_of_it(scored, warm, turns, tmp_path):
    plain = execute(DistillConfig(out=tmp_path / "plain", rollouts=turns, teacher=warm)).out
    assert "hints" not in read_manifest(plain).config and read_manifest(scored).config["hints"] == ["outcome", "truth"]
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    own = np.concatenate(load_scores(plain / "scores.safetensors"))
    assert np.abs(own - np.concatenate(tokens.sample_logprobs)).max() < 1e-4
    assert np.abs(own - np.concatenate(load_scores(scored / "scores.safetensors"))).max() > 0.1


def test_a_teacher_is_told_when_it_thinks_and_no_demo_holds_it(told_start, turns, tmp_path, monkeypatch):
    seen, render = [], Renderer.prompt
    monkeypatch.setattr(
        Renderer, "prompt", lambda self, messages, pictures: seen.append(messages) or render(self, messages, pictures)
    )
    how = {"mode": "thoughts", "hints": ("truth",), "retries": 0, "max_new_tokens": 48}
    out = execute(DistillConfig(out=tmp_path / "demos", rollouts=turns, teacher=told_start, **how)).out
    legal = [turn for turn in read_turns(turns) if turn.legal]
    told_of = [asked_of(turn.messages) + by_hand(turn, [turn], "truth") for turn in legal]
    assert [asked_of(messages) for messages in seen] == told_of
    demos = list(read_rows(out / "demos.jsonl", Demo))
    assert demos and all("known" not in asked_of(demo.messages) for demo in demos)


def test_an_experts_reply_is_told_in_its_words(turns):
    turn = read_turns(turns)[0]
    assert f"{HEAD}\n{in_words(['expert', 'truth'], TASK, turn.info, None)}" == by_hand(turn, [turn], "truth", "expert")


def test_a_teacher_of_ones_own_is_given_the_words_apart(turns, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def TEACHER(questions):\n"
        "    assert all('How the episode ended' in q.hints and 'known' not in str(q.messages) for q in questions)\n"
        "    assert all(q.told[-1]['content'][-1]['text'].endswith(q.hints) for q in questions)\n"
        "    return [np.zeros(len(q.response_ids), np.float32) for q in questions]\n"
    )
    teacher = Path(f"{tmp_path / 'mine.py'}:TEACHER")
    execute(DistillConfig(out=tmp_path / "own", rollouts=turns, teacher=teacher, hints=("outcome",)))


def test_how_an_episode_ended_is_told_of_each_of_its_turns():
    info = {"Current": 2, "Target": 0}
    [line] = {in_words(["outcome"], None, info, outcome) for outcome in [type("O", (), {"won": False, "total": -2.5})()]}
    assert line == "How the episode ended: not won, with a return of -2.5"


@pytest.mark.parametrize("content", ["go", [{"type": "text", "text": "go"}]])
def test_words_go_to_the_end_of_the_last_that_a_user_said(content):
    before = [{"role": "user", "content": "look"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": content}]
    after = told(before, "two")
    assert after[:2] == before[:2] and after[2]["content"] == [{"type": "text", "text": f"go{HEAD}\ntwo"}]
    assert told(before, "") == before and before[2]["content"] == content
    pictured = told([{"role": "user", "content": [{"type": "text", "text": "go"}, {"type": "image"}]}], "two")
    assert [part["type"] for part in pictured[0]["content"]] == ["text", "image", "text"]


# What cannot be told


def test_what_a_task_does_not_know_cannot_be_told(warm, turns, tmp_path, monkeypatch):
    from gtrturbo.stages import questions

    blind = replace(TASK, reads=(), truth=None, expert=None)
    monkeypatch.setattr(questions, "load_task", lambda *_: blind)
    for hint, said in (("truth", "numberline does not know what its pictures show"), ("expert", "numberline has no expert")):
        with pytest.raises(GtrTurboError, match=said):
            execute(DistillConfig(out=tmp_path / hint, rollouts=turns, teacher=warm, hints=(hint,)))
    execute(DistillConfig(out=tmp_path / "outcome", rollouts=turns, teacher=warm, hints=("outcome",)))
    with pytest.raises(GtrTurboError, match="how an episode ends is not known while it is played"):
        told_task(TASK, ["outcome"])


def test_a_run_whose_task_knows_no_truth_is_refused_before_any_work(warm, tmp_path):
    config = RunConfig(out=tmp_path / "run", method="turbo-loss", hints=("truth",), task="gym:CartPole-v1", start=warm)
    with pytest.raises(GtrTurboError, match="does not know what its pictures show"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_hints_make_too_long_is_refused_by_both_numbers(warm, turns, tmp_path):
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    longest = max(len(a) + len(b) for a, b in zip(tokens.prompt_ids, tokens.response_ids, strict=True))
    short = tmp_path / "short"
    shutil.copytree(warm, short)
    config = json.loads((short / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = longest
    (short / "config.json").write_text(json.dumps(config))
    reseal(short)
    execute(DistillConfig(out=tmp_path / "fits", rollouts=turns, teacher=short))
    with pytest.raises(GtrTurboError, match=rf"a prompt and its reply have \d+ tokens, and .*short reads {longest} at most"):
        execute(DistillConfig(out=tmp_path / "long", rollouts=turns, teacher=short, hints=("truth",)))
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert": True, "mode": "thoughts"}, "--hints are not for the expert, who knows all"),
        ({"teacher": Path("openai:gpt"), "address": "http://127.0.0.1:9"}, "openai:gpt gives no log-probs"),
    ],
)
def test_who_cannot_be_told_is_named(turns, tmp_path, settings, said):
    with pytest.raises(GtrTurboError, match=said):
        execute(DistillConfig(out=tmp_path / "out", rollouts=turns, hints=("truth",), **settings))


def test_a_mode_that_asks_nothing_of_its_teacher_tells_it_nothing(warm, turns, tmp_path):
    mode = f"{Path(__file__).parents[2] / 'examples/reproduce/release.py'}:BLIND"
    with pytest.raises(GtrTurboError, match="BLIND, which asks nothing of the teacher"):
        execute(DistillConfig(out=tmp_path / "out", rollouts=turns, teacher=warm, mode=mode, hints=("truth",)))


def test_a_checkpoint_that_plays_to_be_trained_is_told_nothing(warm, tmp_path):
    with pytest.raises(GtrTurboError, match="--hints are for an expert's turns"):
        execute(RolloutConfig(out=tmp_path / "out", checkpoint=warm, task="numberline", hints=("truth",)))
    with pytest.raises(GtrTurboError, match="--hinted-share says how many turns hold --hints"):
        execute(RolloutConfig(out=tmp_path / "out", expert=True, task="numberline", hinted_share=0.2))


# A start that reads them


def test_a_share_of_the_experts_prompts_holds_each_hint_and_all_else_is_as_without(expert, tmp_path):
    plain, how = read_turns(expert), {"hints": ("truth", "outcome"), "random_expert_share": 0.0}
    half = read_turns(execute(RolloutConfig(out=tmp_path / "half", **DEMOS, **how)).out)
    every = read_turns(execute(RolloutConfig(out=tmp_path / "every", **DEMOS, **how, hinted_share=1.0)).out)
    assert read_manifest(expert).config.keys().isdisjoint({"hints", "hinted_share"})
    counts = {name: 0 for name in ("truth", "outcome", "both", "none")}
    for bare, some, full in zip(plain, half, every, strict=True):
        episode = [turn for turn in plain if turn.episode == bare.episode]
        texts = {name: asked_of(bare.messages) + by_hand(bare, episode, name) for name in ("truth", "outcome")}
        texts |= {"both": asked_of(bare.messages) + by_hand(bare, episode, "truth", "outcome"), "none": asked_of(bare.messages)}
        assert asked_of(full.messages) == texts["both"]
        [drawn] = [name for name, text in texts.items() if text == asked_of(some.messages)]
        counts[drawn] += 1
        assert [replace(turn, messages=bare.messages) for turn in (some, full)] == [bare, bare]
        assert some.messages[1:] == full.messages[1:] == bare.messages[1:]
    # Each of the four with probability 1/4: within four standard deviations of a binomial.
    assert all(abs(count - len(plain) / 4) < 4 * math.sqrt(len(plain) * 3 / 16) for count in counts.values())


READER = """
import json, re
from gtrturbo.play.episodes import Response

def make(checkpoint, *, seed, temperature, max_new_tokens):
    def answer(state):
        found = re.search(r"What the picture shows: (.*)", state.messages[-1]["content"][-1]["text"])
        read = json.loads(found[1]) if found else {"current number": 0, "target number": 0}
        up = read["current number"] < read["target number"]
        return Response(json.dumps({**read, "thoughts": "go", "action": "+" if up else "-"}))
    return lambda states: [answer(state) for state in states]
"""


def test_who_reads_and_is_told_the_truth_reads_it_and_wins(warm, tmp_path):
    (tmp_path / "reader.py").write_text(READER)
    played = {"task": "numberline", "env": ("image=tiny",), "episodes": 12, "chance_episodes": 0, "checkpoint": warm}
    played |= {"engine": f"{tmp_path / 'reader.py'}:make"}
    outs = {
        hints: execute(EvalConfig(out=tmp_path / f"eval{len(hints)}", **played, hints=hints)).out for hints in ((), ("truth",))
    }
    metrics = {hints: read_manifest(out).metrics for hints, out in outs.items()}
    assert (metrics["truth",]["thought_accuracy"], metrics["truth",]["success_rate"]) == (1.0, 1.0)
    assert metrics[()]["thought_accuracy"] == 0.0 and metrics[()]["success_rate"] < 1.0
    # What it saw is what is recorded, on the same deals.
    for turns in by_episode(read_turns(outs["truth",])):
        assert all(asked_of(turn.messages).endswith(by_hand(turn, turns, "truth")) for turn in turns)
    seeds = [{turn.seed for turn in read_turns(out)} for out in outs.values()]
    assert seeds[0] == seeds[1] and "hints" not in read_manifest(outs[()]).config


def test_the_words_of_hints_are_written_by_the_built_in_tokenizer(warm):
    policy = load_policy(warm, device="cpu")
    tokenizer = policy.renderer.processor.tokenizer
    text = HEAD + 'What the picture shows: {"row": 1}\nA good reply: x\nHow the episode ended: not won, with a return of -2.5'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
