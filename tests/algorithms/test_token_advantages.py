"""Advantages of tokens: by hand, as slow double sums written from the formulas, and as what they are where λ = 1.

VAGEN's and verl's functions are not installed here. `slow_token` and `slow_bi_level` are written from the definitions, without
a recursion: every advantage is a sum of its own.
"""

import random

import pytest
import torch

from gtrturbo.algorithms.advantages import gae
from gtrturbo.algorithms.credit import CREDITS, Credit, Earned
from gtrturbo.algorithms.ppo import clipped_policy_loss, token_policy_loss
from gtrturbo.algorithms.token_advantages import bi_level_gae, token_gae
from gtrturbo.algorithms.tokens import weighted_turn_logprobs


def drawn(seed, *, turns=30, cut=0.3):
    """Episodes of 1 to 4 turns of 1 to 5 tokens; padding holds what must not be read."""
    draw = random.Random(seed)
    lengths = [draw.randint(1, 5) for _ in range(turns)]
    replies = torch.arange(5) < torch.tensor(lengths)[:, None]
    ends = [draw.random() < 0.4 for _ in range(turns - 1)] + [True]
    truncated = [end and draw.random() < cut for end in ends]
    terminated = [end and not was_cut for end, was_cut in zip(ends, truncated, strict=True)]
    values = torch.tensor([[draw.uniform(-2, 2) for _ in range(5)] for _ in range(turns)]).where(replies, torch.nan)
    return {
        "rewards": torch.tensor([draw.choice([-1.0, 0.0, 0.5, 2.0]) for _ in range(turns)]),
        "values": values,
        "replies": replies,
        "terminated": torch.tensor(terminated),
        "truncated": torch.tensor(truncated),
        "bootstrap_values": torch.tensor([draw.uniform(-2, 2) for _ in range(turns)]),
    }


def episodes_of(given):
    found, turns = [], []
    for turn, ended in enumerate((given["terminated"] | given["truncated"]).tolist()):
        turns.append(turn)
        if ended:
            found.append(turns)
            turns = []
    return found


def after(given, episode):
    """The value after an episode's last turn."""
    return given["bootstrap_values"][episode[-1]].item() if given["truncated"][episode[-1]] else 0.0


def tokens_of(given, turn):
    return given["values"][turn, : int(given["replies"][turn].sum())].tolist()


def slow_token(given, *, gamma, gae_lambda):
    """Â_j = Σ_{k ≥ j} Π_{j ≤ i < k} (γ_i λ) δ_k over the episode's tokens."""
    found = torch.zeros(given["replies"].shape)
    for episode in episodes_of(given):
        places = [(turn, j) for turn in episode for j in range(len(tokens_of(given, turn)))]
        values = [tokens_of(given, turn)[j] for turn, j in places] + [after(given, episode)]
        last = [j + 1 == len(tokens_of(given, turn)) for turn, j in places]
        discounts = [gamma if ends else 1.0 for ends in last]
        deltas = [
            (given["rewards"][turn].item() if ends else 0.0) + discount * following - value
            for (turn, _), ends, discount, value, following in zip(places, last, discounts, values, values[1:], strict=False)
        ]
        for j, place in enumerate(places):
            total = 0.0
            for k in range(j, len(places)):
                weight = 1.0
                for i in range(j, k):
                    weight *= discounts[i] * gae_lambda
                total += weight * deltas[k]
            found[place] = total
    return found


def slow_bi_level(given, *, gamma, gae_lambda):
    """Of turns Â_t = Σ_{u ≥ t} (γλ)^(u − t) δ_u; of tokens λ^(last − j) Â_t + Σ_k λ^(k − j) (V_{k+1} − V_k)."""
    found = torch.zeros(given["replies"].shape)
    for episode in episodes_of(given):
        lasts = [tokens_of(given, turn)[-1] for turn in episode] + [after(given, episode)]
        deltas = [given["rewards"][turn].item() + gamma * lasts[n + 1] - lasts[n] for n, turn in enumerate(episode)]
        for n, turn in enumerate(episode):
            of_turn = sum((gamma * gae_lambda) ** (m - n) * deltas[m] for m in range(n, len(episode)))
            values = tokens_of(given, turn)
            end = len(values) - 1
            for j in range(len(values)):
                within = sum(gae_lambda ** (k - j) * (values[k + 1] - values[k]) for k in range(j, end))
                found[turn, j] = gae_lambda ** (end - j) * of_turn + within
    return found


def test_token_gae_by_hand():
    # Two turns of two tokens and of one, γ 0.5, λ 1, rewards 1 and 4, terminated: G_2 = 4, G_1 = 1 + 0.5·4 = 3, less the values.
    given = {
        "rewards": torch.tensor([1.0, 4.0]), "values": torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
        "replies": torch.tensor([[True, True], [True, False]]), "terminated": torch.tensor([False, True]),
        "truncated": torch.tensor([False, False]), "bootstrap_values": torch.tensor([7.0, 7.0]),
    }  # fmt: skip
    found = token_gae(**given, gamma=0.5, gae_lambda=1.0)
    assert found.advantages.tolist() == [[2.5, 2.0], [2.0, 0.0]]
    assert found.returns.tolist() == [[3.0, 3.0], [4.0, 0.0]]
    # λ 0 leaves the TD errors: 1 − 0.5, 1 + 0.5·2 − 1, 4 − 2.
    assert token_gae(**given, gamma=0.5, gae_lambda=0.0).advantages.tolist() == [[0.5, 1.0], [2.0, 0.0]]


def test_bi_level_gae_by_hand():
    # γ 0.5, λ 0.5. Turns, by the values before their last tokens, 1 and 2: δ_2 = 4 − 2 = 2, δ_1 = 1 + 0.5·2 − 1 = 1, so
    # Â_1 = 1 + 0.25·2 = 1.5. The first turn's first token: (1 − 0.5) + 0.5·1.5 = 1.25.
    given = {
        "rewards": torch.tensor([1.0, 4.0]), "values": torch.tensor([[0.5, 1.0], [2.0, 9.0]]),
        "replies": torch.tensor([[True, True], [True, False]]), "terminated": torch.tensor([False, True]),
        "truncated": torch.tensor([False, False]), "bootstrap_values": torch.tensor([7.0, 7.0]),
    }  # fmt: skip
    found = bi_level_gae(**given, gamma=0.5, gae_lambda=0.5)
    assert found.advantages.tolist() == [[1.25, 1.5], [2.0, 0.0]]
    assert found.returns.tolist() == [[1.75, 2.5], [4.0, 0.0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 0.95), (0.5, 0.0), (0.0, 0.7), (1.0, 0.5)])
def test_both_are_the_sums_of_their_definitions(seed, gamma, gae_lambda):
    given, numbers = drawn(seed), {"gamma": gamma, "gae_lambda": gae_lambda}
    for estimate, slow in ((token_gae, slow_token), (bi_level_gae, slow_bi_level)):
        found = estimate(**given, **numbers)
        torch.testing.assert_close(found.advantages, slow(given, **numbers), atol=1e-5, rtol=0)
        values = given["values"].where(given["replies"], 0.0)
        torch.testing.assert_close(found.returns, found.advantages + values, atol=1e-6, rtol=0)


def test_without_decay_both_are_the_return_less_the_value():
    given = drawn(7)
    one, other = (estimate(**given, gamma=0.9, gae_lambda=1.0).advantages for estimate in (token_gae, bi_level_gae))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimate", [token_gae, bi_level_gae])
def test_replies_of_one_token_have_the_advantages_of_turns(estimate):
    given = drawn(3)
    given["replies"] = torch.zeros_like(given["replies"])
    given["replies"][:, 0] = True
    found = estimate(**given, gamma=0.9, gae_lambda=0.8)
    ended = {name: given[name] for name in ("terminated", "truncated", "bootstrap_values")}
    of_turns = gae(given["rewards"], given["values"][:, 0], **ended, gamma=0.9, gae_lambda=0.8)
    torch.testing.assert_close(found.advantages[:, 0], of_turns.advantages)
    assert not found.advantages[:, 1:].any()


@pytest.mark.parametrize("estimate", [token_gae, bi_level_gae])
def test_nothing_of_another_episode_is_read(estimate):
    given = drawn(4)
    first = episodes_of(given)[0]
    before = estimate(**given, gamma=0.9, gae_lambda=0.9).advantages[: len(first)]
    given["values"][len(first) :] = 1e6
    torch.testing.assert_close(estimate(**given, gamma=0.9, gae_lambda=0.9).advantages[: len(first)], before, atol=0, rtol=0)


@pytest.mark.parametrize("estimate", [token_gae, bi_level_gae])
def test_what_cannot_be_is_refused(estimate):
    numbers = {"gamma": 0.9, "gae_lambda": 0.9}
    empty = drawn(0)
    empty["replies"] = empty["replies"].clone()
    empty["replies"][4] = False
    with pytest.raises(ValueError, match="the reply of turn 4 has no token"):
        estimate(**empty, **numbers)
    bad = drawn(0)
    bad["values"] = bad["values"].clone()
    bad["values"][2, 0] = torch.inf
    with pytest.raises(ValueError, match="values is inf"):
        estimate(**bad, **numbers)
    endless = drawn(0) | {"terminated": torch.zeros(30, dtype=torch.bool), "truncated": torch.zeros(30, dtype=torch.bool)}
    with pytest.raises(ValueError, match="the last turn"):
        estimate(**endless, **numbers)
    with pytest.raises(ValueError, match="shapes differ"):
        estimate(**(drawn(0) | {"rewards": torch.zeros(29)}), **numbers)


@pytest.mark.parametrize(("name", "slow"), [("token", slow_token), ("bi-level", slow_bi_level)])
def test_the_credits_are_these(name, slow):
    given = drawn(9)
    replies, none = given["replies"], torch.zeros(30, dtype=torch.int64)
    earned = Earned(
        rewards=given["rewards"], values=given["values"][:, 0], terminated=given["terminated"], truncated=given["truncated"],
        bootstrap_values=given["bootstrap_values"], episodes=none, groups=none, turns=none, states=[""] * 30, gamma=0.9,
        gae_lambda=0.95, token_values=given["values"], replies=replies,
    )  # fmt: skip
    credited, expected = CREDITS[name].assign(earned), slow(given, gamma=0.9, gae_lambda=0.95)
    torch.testing.assert_close(credited.advantages, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(credited.value_targets[replies], (expected + given["values"])[replies], atol=1e-5, rtol=0)
    assert CREDITS[name].per_token


def test_a_credit_per_token_without_values_is_refused():
    with pytest.raises(ValueError, match="needs values"):
        Credit(lambda earned: None, needs_values=False, per_token=True)


# PPO's loss with a ratio per token


def masks():
    thought = torch.tensor([[True, True, False, False], [True, False, False, False]])
    action = torch.tensor([[False, False, True, False], [False, True, False, False]])
    return thought, action


def test_the_token_loss_by_hand():
    # λ 0.5, ε 0.2. Turn 0: ratios 1, 1.5 (clipped to 1.2, Â 1) and 0.9 with Â −2, which counts; turn 1: 0.5 with Â 1 counts, and
    # 0.5 with Â −1 is clipped to 0.8.
    ratio = torch.tensor([[1.0, 1.5, 0.9, 8.0], [0.5, 0.5, 8.0, 8.0]])
    advantages = torch.tensor([[1.0, 1.0, -2.0, 9.0], [1.0, -1.0, 9.0, 9.0]])
    found = token_policy_loss(ratio.log(), torch.zeros(2, 4), advantages, *masks(), thought_coef=0.5, clip_range=0.2)
    assert found.loss.tolist() == pytest.approx([0.5 * (-1.0) + 0.5 * (-1.2) + 1.8, 0.5 * (-0.5) + 0.8])
    assert found.ratio.tolist() == pytest.approx([1.0, 1.5, 0.9, 0.5, 0.5])
    assert found.clipped.tolist() == [False, True, False, False, True]


def test_equal_advantages_have_the_gradient_of_the_turn():
    thought, action = masks()
    old, advantages = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1.5, -0.7])
    slopes = []
    for per_token in (True, False):
        new = old.clone().requires_grad_()
        if per_token:
            whole = advantages[:, None].expand(2, 4)
            found = token_policy_loss(new, old, whole, thought, action, thought_coef=0.5, clip_range=0.2)
        else:
            turns = [weighted_turn_logprobs(x, thought, action, thought_coef=0.5) for x in (new, old)]
            found = clipped_policy_loss(*turns, advantages, clip_range=0.2)
        found.loss.sum().backward()
        slopes.append(new.grad)
    # −w Â: λ for thoughts, 1 for the action, 0 for padding.
    assert slopes[0].tolist() == [pytest.approx([-0.75, -0.75, -1.5, 0]), pytest.approx([0.35, 0.7, 0, 0])]
    torch.testing.assert_close(slopes[0], slopes[1])
