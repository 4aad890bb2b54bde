"""Advantages against a brute-force double sum and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gtrturbo.algorithms.advantages import gae, normalize, normalized_credit, raw_credit

NUMBER = st.floats(-10, 10, width=32)
SHARE = st.sampled_from([0.0, 0.3, 0.9, 0.95, 1.0])


@st.composite
def rollouts(draw):
    """Episodes of 1 to 5 turns: per turn (reward, value), per episode (end, bootstrap value)."""
    episodes = draw(st.lists(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=5), min_size=1, max_size=4))
    ends = [(draw(st.sampled_from(["terminated", "truncated", "both"])), draw(NUMBER)) for _ in episodes]
    return episodes, ends


def flatten(episodes, ends):
    """Lay episodes out as `gae` takes them; a wrong read of bootstrap_values inside an episode meets 1e6."""
    columns = {name: [] for name in ("rewards", "values", "terminated", "truncated", "bootstrap_values")}
    for turns, (end, bootstrap) in zip(episodes, ends, strict=True):
        for t, (reward, value) in enumerate(turns):
            last = t == len(turns) - 1
            columns["rewards"].append(reward)
            columns["values"].append(value)
            columns["terminated"].append(last and end != "truncated")
            columns["truncated"].append(last and end != "terminated")
            columns["bootstrap_values"].append(bootstrap if last else 1e6)
    return {name: torch.tensor(column) for name, column in columns.items()}


def brute_force(episodes, ends, gamma, gae_lambda):
    """Â_t = Σ_{l ≥ 0} (γ λ)^l δ_{t+l}, summed anew for every t."""
    advantages = []
    for turns, (end, bootstrap) in zip(episodes, ends, strict=True):
        values = [value for _, value in turns] + [bootstrap if end == "truncated" else 0.0]
        deltas = [reward + gamma * values[t + 1] - values[t] for t, (reward, _) in enumerate(turns)]
        for t in range(len(turns)):
            advantages.append(sum((gamma * gae_lambda) ** n * deltas[t + n] for n in range(len(turns) - t)))
    return advantages


def one_episode(rewards, values, *, truncated=False, bootstrap=0.0):
    last = [False] * (len(rewards) - 1) + [True]
    return {
        "rewards": torch.tensor(rewards),
        "values": torch.tensor(values),
        "terminated": torch.tensor(last) & (not truncated),
        "truncated": torch.tensor(last) & truncated,
        "bootstrap_values": torch.tensor([0.0] * (len(rewards) - 1) + [bootstrap]),
    }


@settings(max_examples=150, deadline=None)
@given(rollouts(), SHARE, SHARE)
def test_gae_equals_the_double_sum(rollout, gamma, gae_lambda):
    found = gae(**flatten(*rollout), gamma=gamma, gae_lambda=gae_lambda)
    expected = brute_force(*rollout, gamma, gae_lambda)
    # Magnitudes stay below 200, where float32 resolves 1.5e-5.
    assert found.advantages.tolist() == pytest.approx(expected, abs=2e-5)
    values = [value for turns in rollout[0] for _, value in turns]
    assert found.returns.tolist() == pytest.approx([a + v for a, v in zip(expected, values, strict=True)], abs=2e-5)


def test_gae_of_a_terminated_episode_by_hand():
    # γ 0.5, λ 0.5.  δ = (1 + 0.5·4 − 2, 3 − 4) = (1, −1);  Â = (1 + 0.25·(−1), −1);  R = Â + V.
    found = gae(**one_episode([1.0, 3.0], [2.0, 4.0]), gamma=0.5, gae_lambda=0.5)
    assert found.advantages.tolist() == [0.75, -1.0]
    assert found.returns.tolist() == [2.75, 3.0]


def test_lambda_one_gives_the_discounted_return_minus_the_value():
    found = gae(**one_episode([1.0, 2.0, 4.0], [0.5, -3.0, 7.0]), gamma=0.5, gae_lambda=1.0)
    # Returns 1 + 0.5·2 + 0.25·4 = 3;  2 + 0.5·4 = 4;  4.
    assert found.returns.tolist() == [3.0, 4.0, 4.0]
    assert found.advantages.tolist() == [2.5, 7.0, -3.0]


def test_lambda_zero_gives_the_td_error():
    found = gae(**one_episode([1.0, 2.0, 4.0], [0.5, -3.0, 7.0]), gamma=0.5, gae_lambda=0.0)
    # 1 + 0.5·(−3) − 0.5;  2 + 0.5·7 − (−3);  4 − 7.
    assert found.advantages.tolist() == [-1.0, 8.5, -3.0]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_nothing_leaks_from_the_next_episode(end):
    first, others = [(1.0, 2.0), (3.0, 4.0)], [[(0.0, 0.0)], [(-5.0, 1e6), (1e6, 1e6)]]
    small, large = (
        gae(**flatten([first, other], [(end, 1.5), ("terminated", 0.0)]), gamma=0.9, gae_lambda=0.95) for other in others
    )
    assert small.advantages[:2].tolist() == large.advantages[:2].tolist()
    assert small.returns[:2].tolist() == large.returns[:2].tolist()


def test_truncation_bootstraps_and_termination_does_not():
    # γ 0.5: truncated 1 + 0.5·8 − 2 = 3, terminated 1 − 2 = −1, with the same V(s') = 8 at hand.
    turns = {"rewards": torch.tensor([1.0]), "values": torch.tensor([2.0]), "bootstrap_values": torch.tensor([8.0])}
    yes, no = torch.tensor([True]), torch.tensor([False])
    truncated = gae(**turns, terminated=no, truncated=yes, gamma=0.5, gae_lambda=0.9)
    terminated = gae(**turns, terminated=yes, truncated=no, gamma=0.5, gae_lambda=0.9)
    both = gae(**turns, terminated=yes, truncated=yes, gamma=0.5, gae_lambda=0.9)
    assert (truncated.advantages.item(), terminated.advantages.item(), both.advantages.item()) == (3.0, -1.0, -1.0)


def test_no_gradient_reaches_the_values():
    episode = one_episode([1.0], [2.0])
    episode["values"].requires_grad_()
    found = gae(**episode, gamma=0.9, gae_lambda=0.9)
    assert not found.advantages.requires_grad and not found.returns.requires_grad


def test_gae_refuses_an_episode_without_end():
    episode = one_episode([1.0, 1.0], [0.0, 0.0])
    episode["terminated"] = torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"last turn \(index 1\)"):
        gae(**episode, gamma=0.9, gae_lambda=0.9)


def test_gae_refuses_shapes_that_differ():
    episode = one_episode([1.0, 1.0], [0.0, 0.0])
    episode["values"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"values \[3\]"):
        gae(**episode, gamma=0.9, gae_lambda=0.9)


@pytest.mark.parametrize("name", ["rewards", "values", "bootstrap_values"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gae_refuses_numbers_that_are_not_finite(name, bad):
    episode = one_episode([1.0, 1.0], [0.0, 0.0])
    episode[name][1] = bad
    with pytest.raises(ValueError, match=f"{name} is {bad} at index 1"):
        gae(**episode, gamma=0.9, gae_lambda=0.9)


def test_normalize_uses_masked_entries_only():
    x = torch.tensor([1.0, 1e6, 3.0, -1e6])
    mask = torch.tensor([True, False, True, False])
    # mean 2, std 1 (population): ±1 / 1.00001.
    assert normalize(x, mask).tolist() == pytest.approx([-0.99999, 0.0, 0.99999, 0.0], abs=1e-6)


def test_normalize_of_one_entry_or_none_is_zero():
    x = torch.tensor([5.0, 7.0])
    assert normalize(x, torch.tensor([True, False])).tolist() == [0.0, 0.0]
    assert normalize(x, torch.tensor([False, False])).tolist() == [0.0, 0.0]


def test_raw_credit_replaces_only_random_action_turns():
    found = raw_credit(
        torch.tensor([1.0, 9.0, 3.0]),
        text_rewards=torch.tensor([-7.0, -2.0, -7.0]),
        random_action_mask=torch.tensor([False, True, False]),
    )
    assert found.tolist() == [1.0, -2.0, 3.0]


def test_a_random_action_is_never_credited_to_the_text():
    # Whatever the random action earned, the text that asked for nothing gets exactly nothing.
    random_action = torch.tensor([False, True, False, True])
    for earned in (-1e6, 0.0, 10.0, 1e6):
        found = normalized_credit(
            torch.tensor([1.0, earned, 3.0, -earned]),
            text_rewards=torch.zeros(4),
            legal_mask=~random_action,
            random_action_mask=random_action,
        )
        assert found[1].item() == 0.0 and found[3].item() == 0.0
        # Legal turns: mean 2, std 1, untouched by what the random actions earned.
        assert found[[0, 2]].tolist() == pytest.approx([-0.99999, 0.99999], abs=1e-6)


def test_text_rewards_of_illegal_turns_are_scaled_but_not_centred():
    found = normalized_credit(
        torch.tensor([10.0, 50.0, 14.0]),
        text_rewards=torch.tensor([3.0, -2.0, 3.0]),
        legal_mask=torch.tensor([True, False, True]),
        random_action_mask=torch.tensor([False, True, False]),
    )
    # Legal turns 10 and 14: mean 12, std 2. Illegal: −2 / 2.00001. The legal turns' own text rewards are not read.
    assert found.tolist() == pytest.approx([-0.999995, -0.999995, 0.999995], abs=1e-6)


@pytest.mark.parametrize("legal_advantages", [[], [5.0], [5.0, 5.0, 5.0]])
def test_without_spread_among_legal_turns_text_rewards_keep_their_unit(legal_advantages):
    n = len(legal_advantages)
    found = normalized_credit(
        torch.tensor([*legal_advantages, 100.0, -100.0]),
        text_rewards=torch.tensor([9.0] * n + [-2.0, 0.0]),
        legal_mask=torch.tensor([True] * n + [False, False]),
        random_action_mask=torch.tensor([False] * n + [True, True]),
    )
    assert found.tolist() == [0.0] * n + [-2.0, 0.0]


@pytest.mark.parametrize("random", [(), (4,), (5,), (4, 5)])
def test_illegal_turns_never_move_the_credit_of_the_others_whatever_they_did(random):
    found = normalized_credit(
        torch.tensor([2.0, 0.0, 2.0, 0.0, -10.0, -21.0]),
        text_rewards=torch.tensor([0.0, 0.0, 0.0, 0.0, -11.0, -11.0]),
        legal_mask=torch.tensor([True] * 4 + [False] * 2),
        random_action_mask=torch.tensor([row in random for row in range(6)]),
    )
    # Legal turns: mean 1, std 1. A random action's text keeps −11 / 1.00001; without an action Â is −10 − 1 and −21 − 1.
    of_illegal = [-11.0, -11.0 if 5 in random else -22.0]
    expected = [each / 1.00001 for each in [1.0, -1.0, 1.0, -1.0, *of_illegal]]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("alone", [[], [5.0], [5.0, 5.0]])
def test_without_spread_among_legal_turns_an_illegal_one_without_an_action_keeps_its_distance_in_reward(alone):
    found = normalized_credit(
        torch.tensor([*alone, -3.0]),
        text_rewards=torch.full((len(alone) + 1,), -11.0),
        legal_mask=torch.tensor([True] * len(alone) + [False]),
        random_action_mask=torch.zeros(len(alone) + 1, dtype=torch.bool),
    )
    assert found.tolist() == [0.0] * len(alone) + [-8.0 if alone else -3.0]
