"""Success, its interval, and the other numbers that a person reads first."""

from dataclasses import replace

import pytest
from scipy.stats import binomtest

from gtrturbo.records import Turn, chat
from gtrturbo.summary import by_episode, summarize, wilson


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
    episode=0, turn=0, seed=0, messages=chat("?", "!"), images=[], action="+", executed="+", legal=True, reads_truly=True,
    reward=0.0, reward_terms={}, terminated=False, truncated=False, won=False, info={},
)  # fmt: skip

# Three episodes: won with return 1 after 3 turns; lost with return -2 after 2; won with return 0 after 1.
# 6 turns, of which 1 is illegal (it reads nothing) and 1 legal one reads wrongly: 4 of 6 read truly.
TURNS = [
    replace(TURN, episode=0, turn=0, reward=-1.0),
    replace(TURN, episode=0, turn=1, reward=1.0),
    replace(TURN, episode=0, turn=2, reward=1.0, terminated=True, won=True),
    replace(TURN, episode=4, turn=0, reward=-1.0, legal=False, action=None, reads_truly=None),
    replace(TURN, episode=4, turn=1, reward=-1.0, reads_truly=False, truncated=True),
    replace(TURN, episode=5, turn=0, reward=0.0, terminated=True, won=True),
]


def test_episodes_are_the_runs_of_turns_with_one_index():
    assert [[turn.turn for turn in episode] for episode in by_episode(TURNS)] == [[0, 1, 2], [0, 1], [0]]


def test_the_summary_of_three_episodes_is_as_counted_by_hand():
    interval = binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert summarize(TURNS) == pytest.approx(
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
        },
        abs=1e-12,
    )
