"""Advantages within groups: by hand, and against the papers' formulas as slow loops over lists.

verl's and TRL's functions are not installed here; the loops below are written from the papers alone, in plain Python.
"""

import math
import random
import statistics

import pytest
import torch

from gtrturbo.algorithms.credit import CREDITS, Earned
from gtrturbo.algorithms.groups import group_advantages, step_group_advantages

# Two deals. Deal 0 was played by episodes 0, 1, 2, deal 1 by episode 3 alone.
EPISODES = torch.tensor([0, 0, 1, 2, 2, 2, 3])
GROUPS = torch.tensor([0, 0, 0, 0, 0, 0, 1])
REWARDS = torch.tensor([-1.0, 1.0, 3.0, -1.0, -1.0, -1.0, 5.0])
ENDS = torch.tensor([False, True, True, False, False, True, True])
STATES = ["a", "b", "a", "a", "c", "b", "a"]


def earned(rewards, episodes, groups, states, ends, *, gamma):
    none = torch.zeros(len(rewards), dtype=torch.bool)
    return Earned(
        rewards=rewards, values=None, terminated=ends, truncated=none, bootstrap_values=None, episodes=episodes, groups=groups,
        turns=torch.zeros(len(rewards), dtype=torch.int64), states=states, gamma=gamma, gae_lambda=0.95,
    )  # fmt: skip


def test_group_advantages_by_hand():
    # Episodes of deal 0 earn 0, 3, −3 in 2, 1, 3 turns: mean −1 over the turns, squares about it 1, 1, 16, 4, 4, 4, so that the
    # standard deviation is √(30 / 5). Episode 3 has nobody beside it.
    centred = group_advantages(REWARDS, EPISODES, GROUPS, scaled=False)
    assert centred.tolist() == pytest.approx([1, 1, 4, -2, -2, -2, 0], abs=1e-6)
    scaled = group_advantages(REWARDS, EPISODES, GROUPS, scaled=True)
    assert scaled.tolist() == pytest.approx([a / math.sqrt(6) for a in (1, 1, 4, -2, -2, -2, 0)], abs=1e-5)


def test_an_episode_of_many_turns_alone_in_its_group_has_nothing_to_be_measured_against():
    one = torch.zeros(4, dtype=torch.int64)
    assert group_advantages(torch.tensor([1.0, -2.0, 0.1, 0.3]), one, one, scaled=True).tolist() == pytest.approx(
        [0.0] * 4, abs=1e-9
    )


def test_advantages_of_a_group_add_up_to_nothing_however_long_its_episodes_are():
    lengths = [1, 5, 2, 5]
    episodes = torch.tensor([episode for episode, length in enumerate(lengths) for _ in range(length)])
    rewards = torch.randn(13, generator=torch.Generator().manual_seed(0))
    for scaled in (True, False):
        assert abs(group_advantages(rewards, episodes, torch.zeros_like(episodes), scaled=scaled).sum()) < 1e-5


def test_step_group_advantages_by_hand():
    # γ 0.5. What followed: −0.5, 1 | 3 | −1.75, −1.5, −1 | 5. State a of deal 0: −0.5, 3, −1.75, mean 0.25; b: 1, −1; c and the a
    # of deal 1 were met once.
    states = torch.tensor([0, 1, 0, 0, 2, 1, 3])
    how = {"terminated": ENDS, "truncated": torch.zeros_like(ENDS), "gamma": 0.5}
    centred = step_group_advantages(REWARDS, states, **how, scaled=False)
    assert centred.tolist() == pytest.approx([-0.75, 1, 2.75, -2, 0, -1, 0])
    # a: √((0.5625 + 7.5625 + 4) / 2) = √6.0625; b: √2.
    scaled = step_group_advantages(REWARDS, states, **how, scaled=True)
    a, b = math.sqrt(6.0625), math.sqrt(2)
    assert scaled.tolist() == pytest.approx([-0.75 / a, 1 / b, 2.75 / a, -2 / a, 0, -1 / b, 0], abs=1e-5)


def test_an_end_that_is_a_cut_ends_what_follows_too():
    how = {"terminated": torch.zeros_like(ENDS), "gamma": 1.0, "scaled": False}
    found = step_group_advantages(torch.ones(7), torch.zeros(7, dtype=torch.int64), truncated=ENDS, **how)
    followed = torch.tensor([2.0, 1, 1, 3, 2, 1, 1])
    assert found.tolist() == pytest.approx((followed - followed.mean()).tolist())


def test_a_group_that_earned_alike_teaches_nothing_and_divides_by_nothing():
    found = group_advantages(torch.full((4,), 0.1), torch.arange(4), torch.zeros(4, dtype=torch.int64), scaled=True)
    assert found.tolist() == pytest.approx([0.0] * 4, abs=1e-9)


def slow(rewards, episodes, groups, states, *, gamma, scaled, steps):
    """Work out GRPO's advantages, and GiGPO's where `steps`, turn by turn from the formulas."""
    turns = range(len(rewards))

    def against(own, others):
        if len(others) == 1:
            return 0.0
        spread = statistics.stdev(others) + 1e-6 if scaled else 1.0
        return (own - statistics.fmean(others)) / spread

    def return_of(episode):
        return math.fsum(rewards[t] for t in turns if episodes[t] == episode)

    def followed(t):
        return math.fsum(gamma ** (k - t) * rewards[k] for k in turns if k >= t and episodes[k] == episodes[t])

    found = []
    for t in turns:
        advantage = against(return_of(episodes[t]), [return_of(episodes[k]) for k in turns if groups[k] == groups[t]])
        if steps:
            anchored = [followed(k) for k in turns if groups[k] == groups[t] and states[k] == states[t]]
            advantage += against(followed(t), anchored)
        found.append(advantage)
    return found


@pytest.mark.parametrize(("name", "scaled", "steps"), [
    ("group", True, False), ("group-mean", False, False), ("step-group", True, True), ("step-group-mean", False, True),
])  # fmt: skip
def test_credits_are_those_of_the_papers_formulas(name, scaled, steps):
    draw = random.Random(0)
    lengths = [draw.randint(1, 6) for _ in range(30)]
    episodes = [episode for episode, length in enumerate(lengths) for _ in range(length)]
    groups = [episode // 4 for episode in episodes]  # The last group has two episodes.
    ends = [t + 1 == len(episodes) or episodes[t + 1] != episodes[t] for t in range(len(episodes))]
    rewards = [draw.choice([-1.0, 0.0, 0.3, 2.0]) for _ in episodes]
    states = [draw.choice("abcd") for _ in episodes]
    columns = [torch.tensor(column) for column in (rewards, episodes, groups)]
    given = earned(columns[0], columns[1], columns[2], states, torch.tensor(ends), gamma=0.9)
    rewards = torch.tensor(rewards).tolist()  # as float32 holds them
    expected = slow(rewards, episodes, groups, states, gamma=0.9, scaled=scaled, steps=steps)
    credited = CREDITS[name].assign(given)
    assert credited.advantages.tolist() == pytest.approx(expected, abs=1e-5)
    assert credited.value_targets is None


def test_equal_states_of_two_deals_are_no_anchor():
    given = earned(REWARDS, EPISODES, GROUPS, STATES, ENDS, gamma=0.5)
    alone = CREDITS["step-group"].assign(given).advantages[-1]
    assert alone.item() == 0.0


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="rewards"):
        group_advantages(REWARDS * torch.inf, EPISODES, GROUPS, scaled=True)
