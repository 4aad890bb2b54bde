"""Models of other families as teachers: log-probs where the tokenizer is the student's, words where it is not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_families import make, says, students_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

from gtrturbo.config import DistillConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.vocabularies import contents_of
from gtrturbo.stages import execute, teachers
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_scores
from gtrturbo.store.turns import read_turn_tokens, read_turns
from gtrturbo.tasks.loading import load_task

TASK = load_task("numberline", ["image=tiny"])


@pytest.fixture(scope="module")
def llava(root) -> Path:
    """Of another family than the student, with its tokenizer."""
    return students_llava(root / "students-llava")


@pytest.fixture(scope="module")
def gemma(root) -> Path:
    """Of another family, with another tokenizer."""
    return make("gemma3", root / "gemma")


@pytest.fixture(scope="module")
def onevision(root) -> Path:
    """Of a third one, which learns in fewer steps."""
    return make("llava_onevision", root / "onevision")


def test_a_model_of_another_family_with_the_students_tokenizer_scores_its_tokens(llava, turns, tmp_path):
    out = execute(DistillConfig(out=tmp_path / "scores", teacher=llava, rollouts=turns)).out
    rows, played = load_scores(out / "scores.safetensors"), read_turns(turns)
    tokens, temperature = read_turn_tokens(turns, played), read_manifest(turns).config["temperature"]
    model, processor = AutoModelForImageTextToText.from_pretrained(llava), AutoProcessor.from_pretrained(llava)
    for row in (0, len(played) - 1):  # By hand, with nothing but transformers.
        text = processor.apply_chat_template(played[row].messages[:-1], add_generation_prompt=True)
        given = processor(images=[load_picture(turns, name) for name in played[row].images], text=text, return_tensors="pt")
        prompt, reply = given["input_ids"], torch.tensor(tokens.response_ids[row]).long()[None]
        assert prompt.shape[1] != len(tokens.prompt_ids[row])  # Its pictures are of another number of tokens.
        given |= {"input_ids": torch.cat([prompt, reply], 1)}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        with torch.no_grad():
            logits = model(**given).logits[0, prompt.shape[1] - 1 : -1].float() / temperature
        logits[:, model.config.image_token_id] = -torch.inf  # Nobody writes it: it stands for pictures.
        expected = logits.log_softmax(-1).gather(1, reply[0][:, None])[:, 0]
        np.testing.assert_allclose(rows[row], expected.numpy(), atol=2e-5)


def test_another_tokenizer_is_refused_by_name(gemma, llava, turns, tmp_path):
    with pytest.raises(GtrTurboError, match=r"the tokenizer of .*gemma has not the vocabulary and special tokens of the student"):
        execute(DistillConfig(out=tmp_path / "scores", teacher=gemma, rollouts=turns))
    # One in which two tokens have changed places reads and writes the same, and yet means something else.
    swapped = tmp_path / "swapped"
    shutil.copytree(llava, swapped)
    content = json.loads((swapped / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    tokens = read_turn_tokens(turns, read_turns(turns))
    used = {int(place) for row in [*tokens.prompt_ids, *tokens.response_ids] for place in row}
    unused = [token for token, place in vocabulary.items() if place not in used and "<" not in token][-2:]
    for one, other in zip(unused, reversed([vocabulary[each] for each in unused]), strict=True):
        vocabulary[one] = other
    (swapped / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(GtrTurboError, match="swapped has not the vocabulary of the student"):
        execute(DistillConfig(out=tmp_path / "scores", teacher=swapped, rollouts=turns))
    # The same contents in other bytes are the same tokenizer.
    (swapped / "tokenizer.json").write_text(json.dumps(json.loads((llava / "tokenizer.json").read_text()), indent=7))
    execute(DistillConfig(out=tmp_path / "scores", teacher=swapped, rollouts=turns))


def test_each_part_of_a_tokenizer_counts(llava):
    tokens = AutoProcessor.from_pretrained(llava).tokenizer
    before = contents_of(tokens, 5)
    assert [name for name in before if contents_of(tokens, 6)[name] != before[name]] == ["special"]
    tokens.add_tokens(["<one more>"], special_tokens=True)
    after = contents_of(tokens, 5)
    assert [name for name in before if after[name] != before[name]] == ["vocabulary", "special"]


def test_a_model_of_another_family_with_another_tokenizer_teaches_in_words(onevision, turns, tmp_path):
    legal = [turn for turn in read_turns(turns) if turn.legal]
    reply = TASK.expert_reply(legal[0].info)
    taught = says(reply, onevision, turns, tmp_path)
    sampling = {"mode": "thoughts", "temperature": 0.01, "max_new_tokens": 200}
    written = list(
        read_rows(
            execute(DistillConfig(out=tmp_path / "demos", teacher=taught, rollouts=turns, **sampling)).out / "demos.jsonl", Demo
        )
    )
    assert len(written) == len(legal)
    for demo, turn in zip(written, legal, strict=True):
        found = TASK.read(demo.messages[-1]["content"][0]["text"], turn.info)
        assert found.action == turn.action and found.fields["thoughts"] == json.loads(reply)["thoughts"]
        assert demo.messages[:-1] == turn.messages[:-1] and demo.teacher.startswith("checkpoint ")


CORRECTOR = """
import json
from pathlib import Path
from gtrturbo.play.episodes import Response

HERE = Path(__file__).parent

def make(checkpoint, *, seed, temperature, max_new_tokens):
    def answer(states):
        if (HERE / "die").exists() and len(asked()) >= 12:
            raise KeyboardInterrupt
        with (HERE / "asked").open("a") as file:
            file.writelines(f"{state.episode} {state.turn}\\n" for state in states)
        return [Response(say(state)) for state in states]
    return answer

def asked():
    return (HERE / "asked").read_text().splitlines() if (HERE / "asked").exists() else []

def say(state):
    info = state.info
    good = {"current number": info["Current"], "target number": info["Target"], "thoughts": "look.", "action": "+"}
    said = json.dumps({"verdict": "wrong", "reply": good} if state.episode % 3 else {"verdict": "right"})
    return "Sure: " + said if state.episode % 2 and not state.turn else said
"""


def test_a_local_corrector_that_was_interrupted_goes_on_where_it_was(warm, turns, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "REQUESTS_AT_ONCE", 4)
    code = tmp_path / "own.py"
    code.write_text(CORRECTOR)
    log, die = tmp_path / "asked", tmp_path / "die"
    config = DistillConfig(out=tmp_path / "calm", teacher=warm, rollouts=turns, mode="correct", engine=f"{code}:make")
    calm = execute(config).out
    questions = log.read_text().splitlines()
    assert len(questions) == len(set(questions)) and any(line.endswith(" 1") for line in questions)  # Also repairs.
    log.unlink()
    die.touch()
    killed = replace(config, out=tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        execute(killed)
    assert len(log.read_text().splitlines()) == 12 and not killed.out.exists()
    die.unlink()
    out = execute(killed).out
    assert log.read_text().splitlines() == questions
    assert (out / "stage.json").read_bytes() == (calm / "stage.json").read_bytes()
