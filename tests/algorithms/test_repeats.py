"""The test of repeated replies: in closed form, how often independent samples are refused, and what repeated ones are found."""

import math

import numpy as np
import pytest

from gtrturbo.algorithms.repeats import SHARES, repeats_in
from gtrturbo.algorithms.sampled import TOO_MUCH

COUNT = len(SHARES)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_one_reply_of_n_equal_ones_given_again_and_again_is_likelier_by_a_power(n):
    # q = 1/n stays: each of 7 repeats is (c + (1 − c)/n) n = c n + 1 − c times likelier.
    found = repeats_in(["p"] * 8, ["r"] * 8, [-math.log(n)] * 8)
    assert found.evidence == pytest.approx(math.log(sum((c * n + 1 - c) ** 7 for c in SHARES) / COUNT))
    assert found.rate == 1


def test_different_replies_are_less_likely_where_some_are_repeated():
    # Nothing was there to be repeated at the first of each prompt; the other four are 1 − c times as likely.
    found = repeats_in(["p", "q", "p", "p", "q", "p"], [1, 1, 2, 3, 4, 5], [-math.log(50)] * 6)
    assert found.evidence == pytest.approx(math.log(sum((1 - c) ** 4 for c in SHARES) / COUNT))
    assert found.rate == 0


def test_both_at_once_by_hand():
    # D = {1}, then {1, 2}: q = 1/4, and 1/4 + 1/8 at the third, which repeats.
    found = repeats_in(["p"] * 3, [1, 2, 1], np.log([1 / 4, 1 / 8, 1 / 4]))
    assert found.evidence == pytest.approx(math.log(sum((1 - c) * (c + (1 - c) * 3 / 8) / (3 / 8) for c in SHARES) / COUNT))
    assert found.rate == 1 / 2


def test_a_reply_that_is_certain_says_nothing_however_often_it_comes():
    assert repeats_in(["p"] * 1000, ["r"] * 1000, [0.0] * 1000).evidence == pytest.approx(0, abs=1e-9)
    assert repeats_in(["p"] * 1000, ["r"] * 1000, [1e-6] * 1000).evidence == pytest.approx(0, abs=1e-9)  # Rounded up.
    assert repeats_in([], [], []).evidence == pytest.approx(0)


def test_a_reply_less_likely_than_numbers_can_be_is_evidence_that_is_finite():
    # e^2000 / COUNT Σ c, nearly.
    assert repeats_in(["p"] * 2, ["r"] * 2, [-2000.0] * 2).evidence == pytest.approx(2000 + math.log(sum(SHARES) / COUNT))


def played(rng, *, prompts, asked, replies, share=0.0):
    """Play `asked` replies to each of `prompts` prompts that have distributions of their own, a share of them repeated."""
    rows = []
    for prompt in range(prompts):
        p = rng.dirichlet(np.full(replies, 0.3))
        before = []
        for _ in range(asked):
            reply = rng.choice(before) if before and rng.random() < share else int(rng.choice(replies, p=p))
            before.append(reply)
            rows.append((prompt, reply, math.log(p[reply])))
    order = rng.permutation(len(rows))
    return repeats_in(*zip(*(rows[place] for place in order), strict=True))


@pytest.mark.parametrize(("prompts", "asked", "replies"), [(1, 400, 3), (40, 10, 30), (5, 80, 2000)])
def test_independent_replies_are_not_refused_and_reach_evidence_no_more_often_than_the_bound_says(prompts, asked, replies):
    rng = np.random.default_rng(0)
    found = np.array([played(rng, prompts=prompts, asked=asked, replies=replies).evidence for _ in range(100)])
    assert found.max() < TOO_MUCH
    # P(evidence ≥ ln 5) ≤ 1/5: of 100 at most 20 in the mean, and 36 with four standard deviations.
    assert (found >= math.log(5)).sum() <= 36


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_repeated_replies_are_found(share):
    rng = np.random.default_rng(1)
    found = [played(rng, prompts=10, asked=100, replies=2000, share=share) for _ in range(5)]
    assert all(each.evidence > TOO_MUCH for each in found)
    assert all(abs(each.rate - share) < 0.3 for each in found)
