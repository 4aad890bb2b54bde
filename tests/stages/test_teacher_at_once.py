"""A teacher of the user's own behind an API: how many questions a call holds, and what is asked again after an end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gtrturbo.config import DistillConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import execute
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_scores, load_turn_tokens

ENGINE = """
import json
import numpy as np
from gtrturbo.play.episodes import Response

def make(checkpoint, *, seed, temperature, max_new_tokens):
    def reply(state):
        current, target = state.info["Current"], state.info["Target"]
        fields = {"current number": current, "target number": target, "thoughts": "nearer."}
        text = json.dumps(fields | {"action": "+" if current < target else "-"})
        ids = [(ord(letter) + state.turn) % 50 for letter in text]
        offsets = [(place, place + 1) for place in range(len(text))]
        tokens = {"prompt_ids": np.array([1, 2], np.int32), "response_ids": np.array(ids, np.int32)}
        return Response(text, offsets=offsets, logprobs=np.full(len(ids), -0.1, np.float32), **tokens)
    return lambda states: [reply(state) for state in states]
"""
# Each call is a line of `calls`: the rows and tries that it asks about. A call fails while `down` says its number.
TEACHER = """
from pathlib import Path

import numpy as np
from gtrturbo.play.teachers import Teacher

HERE = Path(__file__).parent

def call(questions):
    with (HERE / "calls").open("a") as file:
        file.write(" ".join(f"{q.row}.{q.attempt}" for q in questions) + "\\n")
    if (HERE / "down").exists() and len((HERE / "calls").read_text().splitlines()) == int((HERE / "down").read_text()):
        raise OSError("the server is down")

def logprobs(questions):
    call(questions)
    rows = [-np.arange(1, 1 + len(q.response_ids)) / 7 - q.row for q in questions]
    for q in questions:
        q.response_ids[:] = 0
        q.messages.clear()
    return rows

def thoughts(questions):
    call(questions)
    replies = [q.task.expert_reply(q.info) if q.attempt > q.row % 2 else "no reply" for q in questions]
    for q in questions:
        q.messages.clear()
        q.info.clear()
    return replies

TEACHER = Teacher(thoughts=thoughts, logprobs=logprobs, at_once=3, retries=2)
"""


@pytest.fixture(scope="module")
def scripted(root, init) -> Path:
    """Turns with tokens that no model sampled."""
    (root / "scripted_tokens.py").write_text(ENGINE)
    config = RolloutConfig(
        out=root / "scripted", checkpoint=init, task="numberline", env=("image=tiny",), episodes=3,
        engine=f"{root / 'scripted_tokens.py'}:make",
    )  # fmt: skip
    return execute(config).out


@pytest.fixture
def config(scripted, tmp_path) -> DistillConfig:
    (tmp_path / "own.py").write_text(TEACHER)
    return DistillConfig(out=tmp_path / "out", rollouts=scripted, teacher=tmp_path / "own.py:TEACHER")


@pytest.fixture
def calls(tmp_path):
    """What was asked since the last look, call by call."""

    def look() -> list[list[str]]:
        lines = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").write_text("")
        return [line.split() for line in lines]

    return look


def test_log_probs_are_asked_for_as_many_turns_in_a_call_as_the_teacher_takes(config, scripted, calls):
    count = len(read_turns(scripted))
    out = execute(config).out
    asked = calls()
    assert count > 4 and [*map(len, asked)] == [3] * (count // 3) + [count % 3] * (count % 3 > 0)
    assert [row for call in asked for row in call] == [f"{row}.0" for row in range(count)]
    tokens = load_turn_tokens(scripted / "tokens.safetensors")
    expected = [-np.arange(1, 1 + len(ids)) / 7 - row for row, ids in enumerate(tokens.response_ids)]
    for found, wanted in zip(load_scores(out / "scores.safetensors"), expected, strict=True):
        assert found.tolist() == wanted.astype(np.float32).tolist()


def test_log_probs_that_were_answered_before_a_stage_ended_are_not_asked_for_again(config, scripted, calls, tmp_path):
    whole = execute(replace(config, out=tmp_path / "whole")).out
    calls()
    (tmp_path / "down").write_text("2")
    with pytest.raises(GtrTurboError, match="the server is down"):
        execute(config)
    assert calls() == [["0.0", "1.0", "2.0"], ["3.0", "4.0", "5.0"][: len(read_turns(scripted)) - 3]]
    (tmp_path / "down").unlink()
    out = execute(config).out
    assert [row for call in calls() for row in call] == [f"{row}.0" for row in range(3, len(read_turns(scripted)))]
    assert (out / "scores.safetensors").read_bytes() == (whole / "scores.safetensors").read_bytes()
    assert (out / "stage.json").read_bytes() == (whole / "stage.json").read_bytes()
    assert not list(tmp_path.glob(".*journal"))


def test_a_try_that_did_not_parse_is_not_asked_for_again_either(config, scripted, calls, tmp_path):
    config = replace(config, mode="thoughts")
    legal = sum(turn.legal for turn in read_turns(scripted))
    # Every turn is tried with 0 in vain, those of even rows parse with 1. The first call of the tries with 1 fails.
    first = -(-legal // 3)
    (tmp_path / "down").write_text(str(first + 1))
    with pytest.raises(GtrTurboError, match="the server is down"):
        execute(config)
    assert [row for call in calls()[:first] for row in call] == [f"{row}.0" for row in range(legal)]
    (tmp_path / "down").unlink()
    out = execute(config).out
    expected = [f"{row}.1" for row in range(legal)] + [f"{row}.2" for row in range(legal) if row % 2]
    assert [row for call in calls() for row in call] == expected
    assert len(list(read_rows(out / "demos.jsonl", Demo))) == legal


def test_a_teacher_that_changes_its_questions_changes_no_demo(config, scripted):
    out = execute(replace(config, mode="thoughts")).out
    demos = list(read_rows(out / "demos.jsonl", Demo))
    assert [demo.messages[:-1] for demo in demos] == [turn.messages[:-1] for turn in read_turns(scripted) if turn.legal]
