"""Success, its interval, and the other numbers that a person reads first."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.analysis.diversity import self_bleu
from gtrturbo.analysis.summary import by_episode, different_inputs, read_object, sampled_entropy, summarize, wilson
from gtrturbo.store.records import Turn, chat


@pytest.mark.parametrize("trials", [1, 2, 7, 200, 5000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_interval_is_scipys_wilson_interval(trials, share, confidence):
    successes = round(share * trials)
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson(successes, trials, confidence=confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_stays_within_zero_and_one():
    for trials in range(1, 60):
        assert 0 <= wilson(0, trials)[0] < 1e-12 and 1 - 1e-12 < wilson(trials, trials)[1] <= 1


def test_an_interval_of_no_trials_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


TURN = Turn(
    episode=0, turn=0, seed=0, messages=chat("?", "!"), images=[], action="+", executed="+", legal=True, perception_correct=True,
    reward=0.0, reward_terms={}, terminated=False, truncated=False, won=False, info={},
)  # fmt: skip


@pytest.mark.parametrize("unit", [1.0, 2.0**-30, 2.0**30])
def test_rewards_that_cancel_but_for_rounding_pay_nothing(unit):
    paid = [0.1 * unit, 0.2 * unit, -0.3 * unit]
    assert math.fsum(paid) != 0 and undiscounted(paid) == 0
    # Next to nothing is something: a millionth of a millionth is not.
    assert undiscounted([*paid, 1e-9 * unit]) == pytest.approx(1e-9 * unit, rel=1e-6)
    assert undiscounted([unit, math.inf]) == math.inf and undiscounted([]) == 0
    turns = [replace(TURN, turn=place, reward=reward) for place, reward in enumerate(paid)]
    assert summarize(turns, **JSON)["positive_return_rate"] == 0


JSON = {"knows_truth": True, "own_parser": False}

# Three episodes: won with return 1 after 3 turns; lost with return -2 after 2; won with return 0 after 1.
# 6 turns, of which 1 is illegal (it reads nothing) and 1 legal one reads wrongly: 4 of 6 read truly.
TURNS = [
    replace(TURN, episode=0, turn=0, reward=-1.0),
    replace(TURN, episode=0, turn=1, reward=1.0),
    replace(TURN, episode=0, turn=2, reward=1.0, terminated=True, won=True),
    replace(TURN, episode=4, turn=0, reward=-1.0, legal=False, action=None, perception_correct=None),
    replace(TURN, episode=4, turn=1, reward=-1.0, perception_correct=False, truncated=True),
    replace(TURN, episode=5, turn=0, reward=0.0, terminated=True, won=True),
]


def test_episodes_are_the_runs_of_turns_with_one_index():
    assert [[turn.turn for turn in episode] for episode in by_episode(TURNS)] == [[0, 1, 2], [0, 1], [0]]


def test_the_summary_of_three_episodes_is_as_counted_by_hand():
    interval = binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert summarize(TURNS, **JSON) == pytest.approx(
        {
            "episodes": 3,
            "turns": 6,
            "success_rate": 2 / 3,
            "success_low": interval.low,
            "success_high": interval.high,
            "positive_return_rate": 1 / 3,
            "return_mean": -1 / 3,
            "length_mean": 2.0,
            "illegal_rate": 1 / 6,
            "thought_accuracy": 4 / 6,
            # Every reply is "!", which is no JSON and legal all the same: so nothing is said of invalid ones.
        },
        abs=1e-12,
    )


def saying(reply: str, picture: str, **more) -> Turn:
    return replace(TURN, messages=chat("?", reply), images=[picture], **more)


def thinking(thoughts: str, picture: str, **more) -> Turn:
    return saying(json.dumps({"n": 1, "thoughts": thoughts, "action": "+"}), picture, **more)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('\n```json\n{"a": {"b": 2}}\n```\n', {"a": {"b": 2}}),
        ("go up", None),
        ('{"a": 1', None),
        ('so {"a": 1}', None),
        ('["a"]', None),
        ("{" * 100_000 + "}", None),
    ],
)
def test_an_object_is_read_off_a_reply_that_is_nothing_else(text, found):
    assert read_object(text) == found


def test_thoughts_are_measured_where_replies_have_them():
    turns = [
        thinking("go up now", "a"),  # 9 characters
        thinking("go up", "b"),  # 5
        saying('{"n": 1}', "c", legal=False),  # an object, but no thoughts
        saying("hm", "d", legal=False),
    ]
    found = summarize(turns, **JSON)
    assert found["thought_length"] == 7.0
    assert found["invalid_rate"] == 0.25
    assert found["illegal_rate"] == 0.5
    assert found["self_bleu"] == self_bleu(["go up now", "go up"])


@pytest.mark.parametrize("legal", [False, True])
def test_where_no_reply_can_be_read_nothing_is_said_of_what_the_task_does_not_know(legal):
    turns = [saying("hm", "a", legal=legal, perception_correct=None), saying("{}", "b", legal=legal, perception_correct=None)]
    assert not {"thought_accuracy", "invalid_rate"} & summarize(turns, knows_truth=False, own_parser=True).keys()
    if not legal:
        found = summarize(turns, **JSON)
        assert (found["thought_accuracy"], found["invalid_rate"]) == (0.0, 0.5)


def test_one_thought_on_many_inputs_is_alike_and_many_thoughts_on_one_input_are_not_compared():
    collapsed = [thinking("it is larger so go up", f"picture {k}") for k in range(6)]
    assert summarize(collapsed, **JSON)["self_bleu"] == pytest.approx(1.0)
    assert "self_bleu" not in summarize([thinking(f"thought {k}", "the same") for k in range(6)], **JSON)


def test_inputs_differ_by_picture_or_prompt_and_are_evenly_spaced():
    turns = [thinking("x", f"picture {k // 2}") for k in range(20)]  # Rows 0, 2, 4, … are new.
    assert different_inputs(turns, 100) == list(range(0, 20, 2))
    assert different_inputs(turns, 4) == [0, 4, 10, 14]  # Of ten the 0th, 2nd, 5th and 7th.
    assert different_inputs([replace(turn, legal=False) for turn in turns], 4) == []
    asked = [replace(TURN, messages=chat(question, "x")) for question in ("a", "b", "a")]
    assert different_inputs(asked, 4) == [0, 1]


def test_entropy_from_samples_nears_that_of_the_distribution():
    p = np.array([0.7, 0.2, 0.1])
    rows = [np.log(np.random.default_rng(k).choice(p, p=p, size=50)).astype(np.float32) for k in range(100)]
    masks = [np.ones(50, bool)] * 100
    assert sampled_entropy(rows, masks) == pytest.approx(-(p * np.log(p)).sum(), abs=0.03)


def test_entropy_counts_masked_tokens_alone_and_weighs_tokens_alike():
    rows = [np.array([-1.0, -9.0], np.float32), np.array([-2.0, -3.0, -9.0], np.float32)]
    masks = [np.array([True, False]), np.array([True, True, False])]
    found = sampled_entropy(rows, masks)
    assert found is not None and math.isclose(found, 2.0)
    assert sampled_entropy([], []) is None and sampled_entropy(rows[:1], [np.zeros(2, bool)]) is None
