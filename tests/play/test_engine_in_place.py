"""An engine or a teacher that changes what it is asked changes nothing that is recorded."""

from copy import deepcopy
from pathlib import Path

import numpy as np

from gtrturbo.play.agents import make_agent
from gtrturbo.play.episodes import State
from gtrturbo.play.teachers import Question

ENGINE = """
from gtrturbo.play.episodes import Response

def make(checkpoint, *, seed, temperature, max_new_tokens):
    def answer(states):
        for state in states:
            state.messages[0]["content"][0]["text"] = "spoilt"
            state.images[0][:] = 7
            state.info.clear()
        return [Response("reply") for _ in states]
    return answer
"""


def asked() -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": "which way?"}]}]


def test_an_engine_that_changes_a_state_leaves_ours_as_it_was(tmp_path):
    (tmp_path / "mine.py").write_text(ENGINE)
    state = State(0, 0, asked(), [np.zeros((2, 2, 3), np.uint8)], {"Target": 3})
    agent = make_agent(f"{tmp_path / 'mine.py'}:make", Path(), for_training=False, seed=0, temperature=1.0, max_new_tokens=4)
    assert agent([state])[0].text == "reply"
    assert state.messages == asked() and not state.images[0].any() and state.info == {"Target": 3}


def test_a_copied_question_is_equal_and_shares_nothing_that_can_be_changed():
    ids, spans = np.array([4, 5], np.int32), np.zeros((2, 2), np.int32)
    question = Question(3, asked(), [Path("a.png")], "r", "+", {"Hand": [1, 2]}, True, None, ids, spans, hints="h")
    before, copy = deepcopy(question), question.copied()
    assert copy.response_ids.tolist() == [4, 5] and copy.info == {"Hand": [1, 2]} and copy.images == [Path("a.png")]
    assert (copy.row, copy.reply, copy.action, copy.hints, copy.messages) == (3, "r", "+", "h", asked())
    copy.messages[0]["content"][0]["text"] = "spoilt"
    copy.info["Hand"].append(3)
    copy.images.clear()
    copy.response_ids[:] = 9
    copy.response_spans[:] = 9
    assert question.messages == before.messages and question.info == before.info and question.images == before.images
    assert ids.tolist() == [4, 5] and not spans.any()
