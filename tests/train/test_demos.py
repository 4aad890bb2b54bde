"""What supervised steps learn from, and which tokens carry loss."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from resealed import reseal

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.built_in import build_processor
from gtrturbo.models.renderer import Renderer
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import execute
from gtrturbo.store.records import Demo, chat
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.tensors import save_turn_tokens
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task
from gtrturbo.train.demos import Shuffle, demo_example, imitation_loss, mixed, read_examples


@pytest.fixture(scope="module")
def renderer():
    return Renderer(build_processor())


def test_every_legal_turn_is_an_example_whose_whole_reply_is_learned(expert, renderer):
    examples = read_examples([expert], renderer)
    replies = [turn.reply for turn in read_turns(expert)]
    assert len(examples) == len(replies)
    for example, reply in zip(examples, replies, strict=True):
        assert example.learned.all()
        assert example.response_ids[-1] == renderer.processor.tokenizer.eos_token_id
        assert renderer.processor.tokenizer.decode(example.response_ids[:-1]) == reply


def test_illegal_turns_are_left_out_and_sampled_ids_are_learned_as_they_are(turns, transcript, renderer):
    examples = read_examples([turns], renderer)
    legal = [ids for turn, ids in zip(transcript.turns, transcript.tokens.response_ids, strict=True) if turn.legal]
    assert 0 < len(legal) < len(transcript.turns)
    assert [example.response_ids.tolist() for example in examples] == [ids.tolist() for ids in legal]


def test_a_sampled_reply_is_not_tokenised_again(tmp_path, turns, transcript, renderer):
    shutil.copytree(turns, tmp_path / "turns")
    row = next(row for row, turn in enumerate(transcript.turns) if turn.legal)
    tokenizer = renderer.processor.tokenizer
    # One token per character, as no tokenizer would choose but a policy may sample.
    ids = [token for character in transcript.turns[row].reply for token in tokenizer(character)["input_ids"]]
    sampled = list(transcript.tokens.response_ids)
    sampled[row] = np.array([*ids, tokenizer.eos_token_id], np.int32)
    spans = [renderer.decode(reply.tolist())[1] for reply in sampled]
    beside = {
        name: [np.zeros((len(reply), *values[0].shape[1:]), values[0].dtype) for reply in sampled]
        for name, values in vars(transcript.tokens).items()
        if name not in ("prompt_ids", "response_ids", "response_spans", "action_mask")
    }
    beside["response_spans"] = [np.array(each, np.int32) for each in spans]
    beside["action_mask"] = [np.full(len(reply), turn.legal) for reply, turn in zip(sampled, transcript.turns, strict=True)]
    beside["thought_mask"] = [~mask for mask in beside["action_mask"]]
    save_turn_tokens(tmp_path / "turns" / "tokens.safetensors", replace(transcript.tokens, response_ids=sampled, **beside))
    reseal(tmp_path / "turns")
    first = read_examples([tmp_path / "turns"], renderer)[0]
    assert first.response_ids.tolist() == sampled[row].tolist()
    assert len(sampled[row]) > len(transcript.tokens.response_ids[row])


def test_several_artifacts_are_read_one_after_another(expert, turns, renderer):
    both = read_examples([expert, turns], renderer)
    assert len(both) == len(read_examples([expert], renderer)) + len(read_examples([turns], renderer))


def test_an_artifact_without_replies_is_refused(warm, renderer):
    with pytest.raises(GtrTurboError, match="holds checkpoint, not turns or demos"):
        read_examples([warm], renderer)


def test_different_tasks_and_sizes_of_pictures_are_told(expert, turns, tmp_path):
    assert mixed([expert, turns]) == []
    played = {"expert": True, "episodes": 1}
    other = execute(RolloutConfig(out=tmp_path / "other", task="blackjack", env=("image=tiny",), **played)).out
    full = execute(RolloutConfig(out=tmp_path / "full", task="numberline", **played)).out
    (tasks, *_), (sizes,) = mixed([expert, turns, other]), mixed([expert, full])
    assert tasks == f"different tasks are learned together: numberline of {expert} and 1 more; blackjack of {other}."
    assert sizes.startswith("different sizes of pictures are learned together: ") and f" of {full}" in sizes


EVERY_ACTION = [(name, action) for name in TASKS for action in load_task(name, ["image=tiny"]).actions]


@pytest.mark.parametrize(("name", "action"), EVERY_ACTION)
@pytest.mark.parametrize("layout", ["one line", "indented"])
def test_no_token_that_overlaps_the_action_is_learned(tmp_path, renderer, name, action, layout):
    before = '{"cards": [1, 2], "thoughts": "+ is my action, or 10", "action": "'
    before = before if layout == "one line" else before.replace(", ", ",\n    ").replace("{", "{\n    ")
    text = before + action + ('"}' if layout == "one line" else '"\n}')
    images = [save_image(tmp_path, np.zeros((56, 56, 3), np.uint8))]
    span = (len(before), len(before) + len(action))
    example = demo_example(Demo(messages=chat("?", text), images=images, masked_spans=[span]), tmp_path, renderer)
    # Independent of offsets: learned tokens up to the action decode to text before it, those after it to text after it.
    pieces = [renderer.processor.tokenizer.decode([token]) for token in example.response_ids[:-1]]
    starts = np.cumsum([0, *map(len, pieces)])
    assert "".join(pieces) == text
    overlaps = [start < span[1] and start + len(piece) > span[0] for start, piece in zip(starts, pieces, strict=False)]
    assert any(overlaps)
    assert example.learned.tolist() == [*(not flag for flag in overlaps), True]


def test_the_loss_is_the_negative_log_likelihood_of_the_learned_tokens(policy, turns):
    examples = read_examples([turns], policy.renderer)[:3]
    examples[1].learned[2:5] = False
    with torch.no_grad():
        loss = imitation_loss(policy, examples)
    expected = 0.0
    for example in examples:
        inputs = dict(example.prompt.tensors)
        tail = torch.from_numpy(example.response_ids.astype(np.int64))[None]
        for name, value in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
            inputs[name] = torch.cat([inputs[name], value], dim=1)
        with torch.no_grad():
            logits = policy.model(**inputs).logits[0, len(example.prompt.ids) - 1 : -1].double()
        logits[:, policy.forbidden] = -torch.inf
        chosen = logits.log_softmax(-1)[torch.arange(len(tail[0])), tail[0]]
        expected -= chosen[torch.from_numpy(example.learned)].sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_shuffle_draws_each_index_once_before_any_comes_again():
    order = Shuffle(5, seed=0)
    drawn = order.draw(3) + order.draw(4) + order.draw(8)
    assert [sorted(drawn[start : start + 5]) for start in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_a_shuffle_follows_from_its_seed():
    assert Shuffle(50, seed=1).draw(50) == Shuffle(50, seed=1).draw(50) != Shuffle(50, seed=2).draw(50)
