"""What an engine of one's own responds with is recorded as it is given, or refused in a sentence that names the engine."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.agents import check_responses, make_agent
from gtrturbo.play.episodes import Response, State, play_episodes
from gtrturbo.play.recording import write_turns
from gtrturbo.store.turns import read_turn_tokens, read_turns
from gtrturbo.tasks.loading import load_task

STATES = [State(0, 0, [], [], {})]
TEXT = "go on"
# "go", " on", and the end of the turn, which has no characters.
TOKENS: dict[str, Any] = {
    "prompt_ids": [7, 8],
    "response_ids": [1, 2, 3],
    "offsets": [(0, 2), (2, 5), (5, 5)],
    "logprobs": [-0.5, 0.0, -0.25],
}


def checked(*responses: Any, for_training: bool = False) -> list[Response | None]:
    return check_responses("e.py:make", STATES * len(responses), list(responses), for_training=for_training)


@pytest.mark.parametrize("for_training", [False, True])
def test_lists_become_arrays(for_training):
    for given in (TOKENS, {name: np.array(value) for name, value in TOKENS.items()}):
        [found] = checked(Response(TEXT, **given), for_training=for_training)
        assert found and [found.prompt_ids.dtype, found.response_ids.dtype, found.logprobs.dtype] == [
            np.int32,
            np.int32,
            np.float32,
        ]
        assert found.prompt_ids.tolist() == [7, 8] and found.response_ids.tolist() == [1, 2, 3]
        assert found.offsets == TOKENS["offsets"] and found.logprobs.tolist() == [-0.5, 0.0, -0.25]


def test_arrays_that_are_written_into_again_are_copied():
    given = {name: np.array(value) for name, value in TOKENS.items()}
    [found] = checked(Response(TEXT, **given))
    for array in given.values():
        array[:] = 0
    assert found and found.response_ids.tolist() == [1, 2, 3] and found.prompt_ids.tolist() == [7, 8]
    assert found.offsets == TOKENS["offsets"] and found.logprobs.tolist() == [-0.5, 0.0, -0.25]


@pytest.mark.parametrize("text", [None, b"go on", 3, ["go on"], "half \ud800"])
def test_a_text_that_is_none_is_refused(text):
    with pytest.raises(GtrTurboError, match=r"the text of a response of engine e\.py:make is") as error:
        checked(Response(text))
    assert error.value.fix


@pytest.mark.parametrize("more", [{"agent": 3}, {"ended": None}, {"stretch": "s"}])
def test_other_fields_are_what_they_say(more):
    with pytest.raises(GtrTurboError, match=r"of a response of engine e\.py:make is"):
        checked(Response(TEXT, **more))


@pytest.mark.parametrize("left", [field.name for field in fields(Response) if field.name in TOKENS])
@pytest.mark.parametrize("for_training", [False, True])
def test_tokens_are_whole_or_none(left, for_training):
    given = {name: value for name, value in TOKENS.items() if name != left}
    with pytest.raises(GtrTurboError, match=f"and without {left}") as error:
        checked(Response(TEXT, **given), for_training=for_training)
    assert "e.py:make" in error.value.what and "its text alone" in error.value.fix
    alone = {left: TOKENS[left]}
    with pytest.raises(GtrTurboError, match=f"responds with {left} and without"):
        checked(Response(TEXT, **alone), for_training=for_training)


def test_a_text_alone_is_enough_where_nothing_is_trained_on():
    assert checked(Response(TEXT), None) == [Response(TEXT), None]
    with pytest.raises(GtrTurboError, match="without token ids and log-probs"):
        checked(Response(TEXT), for_training=True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"offsets": [(2, 5), (0, 2), (5, 5)]}, "run backwards"),
        ({"offsets": [(0, 2), (2, 5), (0, 0)]}, "run backwards"),
        ({"offsets": [(0, 2), (5, 2), (5, 5)]}, "run backwards"),
        ({"offsets": [(0, 2), (2, 6), (6, 6)]}, "out of the reply"),
        ({"offsets": [(-1, 2), (2, 5), (5, 5)]}, "run backwards"),
        ({"offsets": [(0, 0), (0, 0), (0, 0)]}, "leave out 'go on'"),
        ({"offsets": [(0, 2), (3, 4), (5, 5)]}, "leave out 'n'"),
        ({"offsets": [0, 2, 5]}, "the offsets of a response"),
        ({"offsets": [(0, 2, 5)] * 3}, "the offsets of a response"),
        ({"offsets": [(0, 2), (2,), (5, 5)]}, "the offsets of a response"),
        ({"offsets": [(0.0, 2.0), (2.0, 5.0), (5.0, 5.0)]}, "the offsets of a response"),
        ({"offsets": 5}, "the offsets of a response"),
        ({"response_ids": [1, 2]}, "2 token ids, 3 log-probs and 3 offsets"),
        ({"logprobs": [-1.0] * 4}, "3 token ids, 4 log-probs and 3 offsets"),
        ({"response_ids": [1, 2, -3]}, "a token id is negative"),
        ({"response_ids": [1, 2, 2**40]}, "token id 1099511627776"),
        ({"response_ids": [1.5, 2, 3]}, "the response_ids of a response"),
        ({"response_ids": "abc"}, "the response_ids of a response"),
        ({"response_ids": []}, "the response_ids of a response"),
        ({"response_ids": [[1, 2, 3]]}, "the response_ids of a response"),
        ({"prompt_ids": []}, "the prompt_ids of a response"),
        ({"prompt_ids": [True, False]}, "the prompt_ids of a response"),
        ({"logprobs": [-0.5, float("nan"), -0.25]}, "gives log-probs that are none"),
        ({"logprobs": [-0.5, -np.inf, -0.25]}, "gives log-probs that are none"),
        ({"logprobs": [-0.5, 0.5, -0.25]}, "gives log-probs that are none"),
        ({"logprobs": [None, -0.5, -0.25]}, "the logprobs of a response"),
        ({"logprobs": ["a", "b", "c"]}, "the logprobs of a response"),
    ],
)
@pytest.mark.parametrize("for_training", [False, True])
def test_tokens_that_turns_cannot_hold_are_refused(more, told, for_training):
    with pytest.raises(GtrTurboError, match=re.escape(told)) as error:
        checked(Response(TEXT, **TOKENS | more), for_training=for_training)
    assert "engine e.py:make" in error.value.what and error.value.fix


def test_log_probs_may_miss_zero_by_rounding():
    [found] = checked(Response(TEXT, **TOKENS | {"logprobs": [1e-4, 0.0, -0.25]}))
    assert found and found.logprobs[0] == np.float32(1e-4)


ENGINE = """
import json
import numpy as np
from gtrturbo.play.episodes import Response

COUNT = [0]
IDS = np.zeros(1, np.int64)

def reply(state):
    current, target = state.info["Current"], state.info["Target"]
    fields = {"current number": current, "target number": target, "thoughts": "nearer."}
    return json.dumps(fields | {"action": "+" if current < target else "-"})

def letters(checkpoint, **sampling):
    '''A token for each letter; the prompt's id is always in the same array.'''
    def one(state):
        text, IDS[0] = reply(state), COUNT[0]
        COUNT[0] += 1
        spans = [(place, place + 1) for place in range(len(text))]
        return Response(text, IDS, [ord(letter) for letter in text], spans, [-1.0] * len(text))
    return lambda states: [one(state) for state in states]

def sometimes(checkpoint, **sampling):
    whole = letters(checkpoint)
    return lambda states: [one if state.turn else Response(one.text) for state, one in zip(states, whole(states))]
"""


def agent(folder: Path, name: str):
    (folder / "mine.py").write_text(ENGINE)
    sampling = {"seed": 0, "temperature": 1.0, "max_new_tokens": 4}
    return make_agent(f"{folder / 'mine.py'}:{name}", Path(), for_training=False, **sampling)


def written(folder: Path, name: str):
    asked = {"seed": 0, "episodes": range(2), "num_envs": 1, "on_invalid_reply": "random"}
    return write_turns(folder, play_episodes(agent(folder, name), load_task("numberline", ["image=tiny"]), **asked))


def test_what_is_recorded_of_lists_and_of_an_array_that_is_used_again_is_read_as_it_was_given(tmp_path):
    turns = written(tmp_path, "letters")
    tokens = read_turn_tokens(tmp_path, read_turns(tmp_path))
    assert len(turns) > 2 and all(turn.legal for turn in turns)
    assert sorted(ids.item() for ids in tokens.prompt_ids) == list(range(len(turns)))
    assert ["".join(map(chr, ids)) for ids in tokens.response_ids] == [turn.reply for turn in turns]


def test_tokens_come_with_every_response_or_with_none(tmp_path):
    with pytest.raises(GtrTurboError, match=r"mine\.py:sometimes gives tokens with some responses and none with others"):
        written(tmp_path, "sometimes")
