"""distill: the teacher sees what the student saw and speaks about what the student said."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from resealed import reseal

from gtrturbo.config import DistillConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import execute
from gtrturbo.stages.distill import keep_action
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_scores, load_turn_tokens
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.reply import Reply
from gtrturbo.train.demos import read_examples

TASK = load_task("numberline", ["image=tiny"])


@pytest.fixture
def distill(tmp_path, turns):
    def run(**settings):
        out = tmp_path / f"guidance{len(list(tmp_path.iterdir()))}"
        return execute(DistillConfig(**{"out": out, "rollouts": turns} | settings)).out

    return run


def rows(path) -> list[np.ndarray]:
    return load_scores(path / "scores.safetensors")


def test_scores_of_the_student_itself_are_its_own_log_probs(distill, warm, turns):
    own = rows(distill(teacher=warm))
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    assert [len(row) for row in own] == [len(ids) for ids in tokens.response_ids]
    # The rollout's temperature is 0.9: at any other the two would differ.
    difference = np.concatenate(own) - np.concatenate(tokens.sample_logprobs)
    assert np.abs(difference).max() < 1e-4
    assert read_manifest(turns).config["temperature"] == 0.9


def test_scores_are_the_teachers_log_softmax_at_the_rollouts_temperature(scores, init, turns):
    from gtrturbo.models.checkpoint import load_policy
    from gtrturbo.play.recording import read_transcript

    teacher = load_policy(init, device="cpu")
    transcript = read_transcript(turns, teacher.renderer)
    for row in (0, 7):
        prompt, ids = transcript.prompts[row], transcript.tokens.response_ids[row].astype(np.int64)
        inputs, tail = dict(prompt.tensors), torch.from_numpy(ids)[None]
        for name, value in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
            inputs[name] = torch.cat([inputs[name], value], dim=1)
        with torch.no_grad():
            logits = teacher.model(**inputs).logits[0, len(prompt.ids) - 1 : -1].double() / 0.9
        logits[:, teacher.forbidden] = -torch.inf
        expected = logits.log_softmax(-1)[torch.arange(len(ids)), tail[0]]
        assert rows(scores)[row] == pytest.approx(expected.numpy(), abs=2e-5)


def test_the_reported_kl_is_the_mean_over_thought_tokens_of_student_less_teacher(scores, turns):
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    thought = np.concatenate(tokens.thought_mask)
    difference = np.concatenate(tokens.sample_logprobs) - np.concatenate(rows(scores))
    metrics = read_manifest(scores).metrics
    assert metrics["thought_kl_k1"] == pytest.approx(difference[thought].mean(), abs=1e-5)
    assert metrics["tokens"] == len(difference)


def test_another_teacher_gives_other_scores(scores, distill, ppo):
    assert np.abs(np.concatenate(rows(scores)) - np.concatenate(rows(distill(teacher=ppo)))).max() > 0.1


def test_the_teacher_sees_the_pictures(distill, warm, turns, tmp_path):
    shutil.copytree(turns, tmp_path / "inverted")
    for file in (tmp_path / "inverted" / "images").iterdir():
        ImageOps.invert(Image.open(file)).save(file)
    reseal(tmp_path / "inverted")
    seen, inverted = (np.concatenate(rows(distill(teacher=warm, rollouts=path))) for path in (turns, tmp_path / "inverted"))
    assert np.abs(seen - inverted).max() > 0.1


def test_micro_batches_change_scores_by_rounding_only(scores, distill, init):
    few = np.concatenate(rows(distill(teacher=init, micro_batch_tokens="400")))
    assert few == pytest.approx(np.concatenate(rows(scores)), abs=1e-5)


def test_teacher_and_turns_are_left_as_they_are(distill, warm, turns):
    before = {path: sha256_file(path) for folder in (warm, turns) for path in folder.rglob("*") if path.is_file()}
    distill(teacher=warm, mode="kl")
    distill(teacher=warm, mode="thoughts", retries=0, max_new_tokens=48)
    assert {path: sha256_file(path) for folder in (warm, turns) for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def corrected(root, turns):
    """The expert's corrections of the turns, and the turns that they are for, in order."""
    out = execute(DistillConfig(out=root / "corrected", rollouts=turns, expert=True, mode="thoughts")).out
    wrong = [
        turn
        for turn in read_turns(turns)
        if turn.legal and not (turn.perception_correct and turn.action == TASK.read(TASK.expert_reply(turn.info), {}).action)
    ]
    return out, list(read_rows(out / "demos.jsonl", Demo)), wrong


def text_of(demo: Demo) -> str:
    return demo.messages[-1]["content"][0]["text"]


def test_the_expert_corrects_every_legal_turn_that_is_not_right_and_no_other(corrected, turns):
    out, demos, wrong = corrected
    legal = [turn for turn in read_turns(turns) if turn.legal]
    assert 0 < len(demos) == len(wrong) < len(legal)
    assert [demo.messages[0] for demo in demos] == [turn.messages[0] for turn in wrong]
    told = {"turns": len(legal), "demos": len(demos), "unparsed": 0, "usable_share": 1.0, "right_share": 1.0}
    assert {name: read_manifest(out).metrics[name] for name in told} == told
    assert {demo.teacher for demo in demos} == {"expert"}


def test_a_correction_has_true_thoughts_and_the_students_action(corrected):
    _, demos, wrong = corrected
    kept = 0
    for demo, turn in zip(demos, wrong, strict=True):
        reply = TASK.read(text_of(demo), {})
        expert = TASK.read(TASK.expert_reply(turn.info), {})
        assert reply.action == turn.action
        assert reply.fields | {"action": None} == expert.fields | {"action": None}
        kept += reply.action != expert.action
    assert kept > 0  # Some students' actions differ from the expert's, and stayed.


def test_exactly_the_action_is_unlearned(corrected):
    _, demos, wrong = corrected
    for demo, turn in zip(demos, wrong, strict=True):
        [(start, end)] = demo.masked_spans
        assert text_of(demo)[start:end] == turn.action
        assert text_of(demo)[:start].endswith('"action": "')


def test_no_learned_token_touches_the_action_and_the_end_of_turn_is_learned(corrected, policy):
    out, demos, _ = corrected
    for demo, example in zip(demos, read_examples([out], policy.renderer), strict=True):
        [(start, end)] = demo.masked_spans
        at = 0
        for token, learned in zip(example.response_ids[:-1], example.learned[:-1], strict=True):
            piece = policy.processor.tokenizer.decode([token])
            assert learned == (at >= end or at + len(piece) <= start)
            at += len(piece)
        assert example.learned[-1] and not example.learned.all()


def test_the_pictures_of_demos_are_those_of_their_turns(corrected, turns):
    out, demos, wrong = corrected
    for demo, turn in zip(demos, wrong, strict=True):
        assert [(out / image).read_bytes() for image in demo.images] == [(turns / image).read_bytes() for image in turn.images]


EVERY_ACTION = [(name, action) for name in TASKS for action in load_task(name, ["image=tiny"]).actions]


@pytest.mark.parametrize(("name", "action"), EVERY_ACTION)
def test_the_students_action_takes_the_place_of_the_teachers_whatever_it_is(turns, name, action):
    task = load_task(name, ["image=tiny"])
    _, info = task.make().reset(seed=0)
    teacher = task.expert_reply(info)
    turn = replace(next(turn for turn in read_turns(turns) if turn.legal), action=action)
    texts = [teacher]
    if task.read(teacher, {}).action.isdecimal():
        texts.append(
            teacher.replace(f'"action": "{task.read(teacher, {}).action}"', f'"action": {task.read(teacher, {}).action}')
        )
    for text in texts:
        demo = keep_action(TASK, turn, text, task.read(text, {}), [])
        kept = task.read(text_of(demo), {})
        assert kept.action == action and kept.fields["thoughts"] == task.read(text, {}).fields["thoughts"]
        [(start, end)] = demo.masked_spans
        assert text_of(demo)[start:end].strip('"') == action


def test_an_action_that_the_teacher_wrote_as_a_number_is_replaced_whole(turns):
    text = '{"thoughts": "a", "action": 10}'
    reply = Reply({}, "10", text.index('"action"'), (text.index("10"), text.index("10") + 2))
    demo = keep_action(TASK, replace(next(iter(read_turns(turns))), action="+"), text, reply, [])
    assert text_of(demo) == '{"thoughts": "a", "action": "+"}'
    assert [text_of(demo)[start:end] for start, end in demo.masked_spans] == ['"+"']


@pytest.fixture(scope="module")
def thoughts(root, turns, warm):
    """The warm checkpoint's own thoughts about its turns, one try each."""
    config = DistillConfig(
        out=root / "thoughts", rollouts=turns, teacher=warm, mode="thoughts", retries=0, max_new_tokens=48, temperature=0.9
    )
    return config, execute(config).out


def test_every_legal_turn_has_a_thought_or_is_counted_as_unparsed(thoughts, turns):
    _, out = thoughts
    metrics, demos = read_manifest(out).metrics, list(read_rows(out / "demos.jsonl", Demo))
    legal = sum(turn.legal for turn in read_turns(turns))
    assert metrics["turns"] == legal and metrics["demos"] == len(demos)
    assert metrics["demos"] + metrics["unparsed"] == legal and metrics["unparsed"] > 0


def test_a_teachers_thought_keeps_the_students_action(thoughts, turns):
    _, out = thoughts
    waiting = [turn for turn in read_turns(turns) if turn.legal]
    for demo in read_rows(out / "demos.jsonl", Demo):
        reply = TASK.read(text_of(demo), {})
        # Demos are in the order of the turns; those without a thought are left out.
        while waiting[0].messages[0] != demo.messages[0] or waiting[0].action != reply.action:
            waiting.pop(0)
        waiting.pop(0)


def test_thoughts_do_not_depend_on_the_size_of_the_batch(thoughts, tmp_path):
    config, out = thoughts
    few = execute(replace(config, out=tmp_path / "few", micro_batch_tokens="1000")).out
    assert (few / "demos.jsonl").read_bytes() == (out / "demos.jsonl").read_bytes()


def test_more_tries_leave_fewer_turns_without_thought_and_keep_the_first_ones(thoughts, tmp_path):
    config, out = thoughts
    more = execute(replace(config, out=tmp_path / "more", retries=2)).out
    assert read_manifest(more).metrics["unparsed"] < read_manifest(out).metrics["unparsed"]
    lines = iter((more / "demos.jsonl").read_text().splitlines())
    assert all(line in lines for line in (out / "demos.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "distill needs either --teacher or --expert"),
        ({"expert": True, "mode": "kl"}, "a scripted expert has no log-probs"),
    ],
)
def test_a_missing_or_dumb_teacher_is_refused(distill, settings, said):
    with pytest.raises(GtrTurboError, match=said):
        distill(**settings)


def test_turns_of_an_expert_have_no_tokens_to_score(distill, expert, warm):
    with pytest.raises(GtrTurboError, match="has no tokens: an expert played it"):
        distill(rollouts=expert, teacher=warm)


def test_a_checkpoint_is_no_turns(distill, warm):
    with pytest.raises(GtrTurboError, match=r"holds checkpoint \(made by sft\), not turns"):
        distill(rollouts=warm, teacher=warm)


def test_turns_that_name_another_action_than_their_reply_are_refused(distill, turns, tmp_path):
    copy = shutil.copytree(turns, tmp_path / "turns")
    rows = [json.loads(line) for line in (copy / "turns.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["legal"])
    other = {"+": "-", "-": "+"}[row["action"]]
    row["action"] = row["executed"] = other
    (copy / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reseal(copy)
    with pytest.raises(GtrTurboError, match=rf"names action '\{other}', and its reply '"):
        execute(DistillConfig(out=tmp_path / "x", rollouts=copy, mode="thoughts", expert=True))
