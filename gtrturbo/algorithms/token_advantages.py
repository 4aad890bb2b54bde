"""Advantages of single tokens: values are asked within a reply, too, so that its tokens need not share what the turn earned."""

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import GaeResult, discounted_sums, gae
from gtrturbo.algorithms.shapes import require_finite, require_same_shape


def token_gae(
    rewards: Tensor,
    values: Tensor,
    replies: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    bootstrap_values: Tensor,
    gamma: float,
    gae_lambda: float,
) -> GaeResult:
    """Estimate the advantage of each token along the chain of all reply tokens of an episode; what it was shown is skipped.

    δ_j = r_j + γ_j V_{j+1} − V_j,   Â_j = δ_j + γ_j λ Â_{j+1},   R_j = Â_j + V_j

    A turn's reward is its last token's, and γ_j is γ there and 1 at the others, so that γ counts turns as it does in `gae`; λ
    counts tokens. After the last token of an episode Â counts as 0, and V is 0 if terminated, else bootstrap_values.

    Args:
        rewards: r of each turn of a flat list sorted by (episode, turn). [N]
        values: V_j of the prompt and the reply's tokens before token j; anything outside the replies. [N, R]
        replies: real tokens of each reply, from its first on. [N, R] bool
        terminated, truncated: the episode ended here by its rules, or was cut. [N] bool
        bootstrap_values: V of the state after a truncated turn; not read elsewhere. [N]
        gamma: γ, discount per turn, in [0, 1].
        gae_lambda: λ per token, in [0, 1].

    Returns: Advantages and returns per token, 0 outside the replies. [N, R]

    Raises: ValueError: Shapes differ, a number is not finite, a reply has no token, or the last turn ends no episode.

    Source: VAGEN (arXiv 2510.16907), its masked GAE over a trajectory's reply tokens, with its discount of 1 per token; γ per
        turn is ours.
    """
    flat, last = _checked(rewards, values, replies, terminated=terminated, truncated=truncated)
    require_finite(bootstrap_values=bootstrap_values)
    ends = terminated | truncated
    earned, discounts, following = torch.zeros_like(flat), torch.ones_like(flat), flat.roll(-1)
    earned[last], discounts[last] = rewards.detach().double(), gamma
    following[last] = torch.where(ends, bootstrap_values.detach().double(), following[last]).where(~terminated, 0.0)
    deltas = earned + discounts * following - flat
    decays = gae_lambda * discounts
    decays[last] = decays[last].where(~ends, 0.0)
    return _placed(torch.tensor(discounted_sums(deltas.tolist(), decays.tolist()), dtype=torch.float64), flat, replies)


def bi_level_gae(
    rewards: Tensor,
    values: Tensor,
    replies: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    bootstrap_values: Tensor,
    gamma: float,
    gae_lambda: float,
) -> GaeResult:
    """Estimate the advantage of each turn, and from it that of each of its tokens.

    turn t:    Â_t as by `gae`, with V before the turn's last token, γ and λ per turn
    its last token:    Â = Â_t
    token j before:    Â_j = V_{j+1} − V_j + λ Â_{j+1},   R_j = Â_j + V_j

    Where λ = 1 the tokens of a turn have G_t − V_j, G_t the discounted return from turn t: that is `token_gae` with λ = 1.

    Args: As in `token_gae`, with λ per turn among turns and per token within a turn.

    Returns, Raises: As in `token_gae`.

    Source: VAGEN (arXiv 2510.16907), Bi-Level GAE, as its published code computes it, with its discount of 1 per token; the
        value after a truncated turn is ours, the code has 0.
    """
    flat, last = _checked(rewards, values, replies, terminated=terminated, truncated=truncated)
    ended = {"terminated": terminated, "truncated": truncated, "bootstrap_values": bootstrap_values}
    of_turns = gae(rewards, flat[last], **ended, gamma=gamma, gae_lambda=gae_lambda)
    deltas, decays = flat.roll(-1) - flat, torch.full_like(flat, gae_lambda)
    deltas[last], decays[last] = of_turns.advantages.double(), 0.0
    return _placed(torch.tensor(discounted_sums(deltas.tolist(), decays.tolist()), dtype=torch.float64), flat, replies)


def _checked(rewards: Tensor, values: Tensor, replies: Tensor, *, terminated: Tensor, truncated: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of all reply tokens, one after another [M] float64, and where each turn's last one is. [N]"""
    require_same_shape(values=values, replies=replies)
    require_same_shape(rewards=rewards, terminated=terminated, truncated=truncated)
    if values.ndim != 2 or len(values) != len(rewards):
        raise ValueError(f"shapes differ: values {list(values.shape)} for {len(rewards)} turns.")
    lengths = replies.sum(1)
    if (lengths == 0).any():
        raise ValueError(f"the reply of turn {int((lengths == 0).nonzero()[0])} has no token.")
    flat = values.detach()[replies].double()
    require_finite(rewards=rewards, values=flat)
    if len(rewards) and not (terminated | truncated)[-1]:
        raise ValueError(f"the last turn (index {len(rewards) - 1}) is neither terminated nor truncated.")
    return flat, lengths.cumsum(0) - 1


def _placed(advantages: Tensor, values: Tensor, replies: Tensor) -> GaeResult:
    def place(numbers: Tensor) -> Tensor:
        return torch.zeros(replies.shape).masked_scatter(replies, numbers.float())

    return GaeResult(advantages=place(advantages), returns=place(advantages + values))
