"""Credit: from what a batch of turns earned to the advantage of each and the target of its value.

A way of giving credit is one pure function. Those built in stand in `CREDITS`; a user's own is a `Credit` too, or the function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import GaeResult, gae
from gtrturbo.algorithms.groups import group_advantages, step_group_advantages
from gtrturbo.algorithms.shapes import require_finite, require_same_shape
from gtrturbo.algorithms.token_advantages import bi_level_gae, token_gae
from gtrturbo.config.choices import BI_LEVEL, GAE, GROUP, GROUP_MEAN, STEP_GROUP, STEP_GROUP_MEAN, TOKEN, Placement


@dataclass(frozen=True)
class Earned:
    """What N turns of whole episodes earned, sorted by (episode, turn), on the CPU, without gradients.

    Attributes:
        rewards: of each turn, the environment's and the format's; the KL's too where it is placed there. [N] float32
        values: V of the state that each turn was given, in units of reward; None where the credit needs none. [N] float32
        terminated, truncated: the episode ended here by its rules, or was cut. [N] bool
        bootstrap_values: V of the state after a truncated turn, 0 elsewhere; None where the credit needs none. [N] float32
        episodes: number of each turn's episode. [N] int64
        groups: equal for turns of episodes that began with the same deal; without groups each episode is one. [N] int64
        turns: number of each turn in its episode, from 0. [N] int64
        states: hash of what each turn was shown, messages and pictures: equal where two turns were given the same state. N
        gamma: γ, discount per turn, in [0, 1].
        gae_lambda: λ, in [0, 1], for what makes use of it.
        token_values: V before each token of each reply, so that the first column is `values`; None where the credit is not
            per token. [N, R] float32
        replies: real tokens of each reply; None where the credit is not per token. [N, R] bool
    """

    rewards: Tensor
    values: Tensor | None
    terminated: Tensor
    truncated: Tensor
    bootstrap_values: Tensor | None
    episodes: Tensor
    groups: Tensor
    turns: Tensor
    states: list[str]
    gamma: float
    gae_lambda: float
    token_values: Tensor | None = None
    replies: Tensor | None = None


@dataclass(frozen=True)
class Credited:
    """What each turn, or each token of its reply, is credited with, in units of reward.

    Attributes:
        advantages: Â; see `Credit.normalizes`. [N], or [N, R] where the credit is per token, anything finite outside the replies
        value_targets: what the value head learns; None exactly where the credit needs no values. As the advantages.
    """

    advantages: Tensor
    value_targets: Tensor | None = None


Assign = Callable[[Earned], Credited]


@dataclass(frozen=True)
class Credit:
    """A way of giving credit.

    Attributes:
        assign: gives it.
        needs_values: a value head is made, trained and asked.
        needs_groups: turns are refused whose episodes share no deals.
        normalizes: ppo-step centres and scales advantages by those of the turns that parsed (`normalized_credit`); without, they
            stay as they are (`raw_credit`). Either way a turn whose executed action was random has what its text itself earned.
        per_token: each token has a value and an advantage of its own, and a ratio of its own in PPO's loss; needs values.

    Raises:
        ValueError: per token without values.
    """

    assign: Assign
    needs_values: bool = True
    needs_groups: bool = False
    normalizes: bool = True
    per_token: bool = False

    def __post_init__(self) -> None:
        if self.per_token and not self.needs_values:
            raise ValueError("a credit per token needs values.")


def by_gae(earned: Earned) -> Credited:
    """Credit turns by generalised advantage estimation, see `gae`."""
    if earned.values is None or earned.bootstrap_values is None:
        raise ValueError("generalised advantage estimation needs values.")
    found = gae(earned.rewards, earned.values, bootstrap_values=earned.bootstrap_values, **_over_turns(earned))
    return Credited(found.advantages, found.returns)


def by_token(earned: Earned, *, estimate: Callable[..., GaeResult]) -> Credited:
    """Credit the tokens of replies, see `token_gae` and `bi_level_gae`."""
    if earned.token_values is None or earned.replies is None or earned.bootstrap_values is None:
        raise ValueError("advantages of tokens need values of tokens.")
    found = estimate(
        earned.rewards, earned.token_values, earned.replies, bootstrap_values=earned.bootstrap_values, **_over_turns(earned)
    )
    return Credited(found.advantages, found.returns)


def _over_turns(earned: Earned) -> Mapping[str, Any]:
    return {
        "terminated": earned.terminated,
        "truncated": earned.truncated,
        "gamma": earned.gamma,
        "gae_lambda": earned.gae_lambda,
    }


def by_group(earned: Earned, *, scaled: bool) -> Credited:
    """Credit all turns of an episode alike, against the episodes of the same deal (GRPO), see `group_advantages`."""
    return Credited(group_advantages(earned.rewards, earned.episodes, earned.groups, scaled=scaled))


def by_step_group(earned: Earned, *, scaled: bool) -> Credited:
    """Add to the credit of the episode that of the turn among those of its group in the same state (GiGPO).

    Â = Â_episode + ω Â_turn with ω = 1, see `group_advantages` and `step_group_advantages`.

    Source: Feng et al. (arXiv 2505.10978), section 4.4, with its ω.
    """
    anchors = list(zip(earned.groups.tolist(), earned.states, strict=True))
    numbers = {anchor: number for number, anchor in enumerate(dict.fromkeys(anchors))}
    of_turn = step_group_advantages(
        earned.rewards,
        torch.tensor([numbers[anchor] for anchor in anchors]),
        terminated=earned.terminated,
        truncated=earned.truncated,
        gamma=earned.gamma,
        scaled=scaled,
    )
    return Credited(by_group(earned, scaled=scaled).advantages + of_turn)


def _among_groups(assign: Callable[..., Credited], *, scaled: bool) -> Credit:
    return Credit(partial(assign, scaled=scaled), needs_values=False, needs_groups=True, normalizes=False)


CREDITS = {
    GAE: Credit(by_gae),
    TOKEN: Credit(partial(by_token, estimate=token_gae), per_token=True),
    BI_LEVEL: Credit(partial(by_token, estimate=bi_level_gae), per_token=True),
    GROUP: _among_groups(by_group, scaled=True),
    GROUP_MEAN: _among_groups(by_group, scaled=False),
    STEP_GROUP: _among_groups(by_step_group, scaled=True),
    STEP_GROUP_MEAN: _among_groups(by_step_group, scaled=False),
}


def guided_credit(earned: Earned, kl: Tensor, *, assign: Assign, beta: float, placement: Placement) -> Credited:
    """Give credit under the KL penalty to the teacher, in one of three places.

    "reward":     r' = r − β KL before the credit: with GAE earlier turns and the value target feel it.
    "advantage":  Â' = Â − β KL after the credit: that turn only; the value target does not.
    "return":     Â' = Â − β KL, R' = R − β KL: that turn only, and its value target R.

    Args:
        earned: By the turns, without the penalty.
        kl: KL(student ‖ teacher) over each turn's thought, in nats; 0 without guidance. [N]
        assign: Gives the credit.
        beta: β, at least 0.
        placement: Where the penalty enters.

    Raises: ValueError: As by `assign`; shapes differ, a KL is not finite, the placement is unknown, or it is "return" and
        there are no value targets.

    Source: GTR-Turbo (arXiv 2512.13043), KL guidance: "reward" is its algorithm, "advantage" its equation,
        "return" its published code.
    """
    require_same_shape(rewards=earned.rewards, kl=kl)
    require_finite(kl=kl)
    if placement not in ("reward", "advantage", "return"):
        raise ValueError(f"placement must be reward, advantage or return, got {placement}.")
    penalty = beta * kl.detach().float()
    if placement == "reward":
        return assign(replace(earned, rewards=earned.rewards - penalty))
    plain = assign(earned)
    if plain.advantages.ndim == 2:
        penalty = penalty[:, None]
    if placement == "advantage":
        return replace(plain, advantages=plain.advantages - penalty)
    if plain.value_targets is None:
        raise ValueError("there is no value target that the penalty could enter.")
    return Credited(plain.advantages - penalty, plain.value_targets - penalty)
