"""From the rewards of turns to the advantage that each reply is credited with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gtrturbo.algorithms.shapes import require_finite, require_same_shape

EPSILON = 1e-5  # added to the standard deviation, as in RL4VLM and GTR


@dataclass(frozen=True)
class GaeResult:
    """advantages: Â per turn, not normalised. [N]   returns: target of the value head. [N]   Both float32."""

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    bootstrap_values: Tensor,
    gamma: float,
    gae_lambda: float,
) -> GaeResult:
    """Estimate the advantage of each turn of a flat list sorted by (episode, turn).

    δ_t = r_t + γ V(s_{t+1}) − V(s_t),   Â_t = δ_t + γ λ Â_{t+1},   R_t = Â_t + V(s_t)

    The turn with a flag is the last of its episode: Â_{t+1} counts as 0 there, and V(s_{t+1}) is 0 if terminated,
    else bootstrap_values[t]. Truncation is not termination: the episode would have gone on, so V(s') stays.

    Args:
        rewards, values: r_t and V(s_t), one per turn. [N]
        terminated, truncated: The episode ended here by its rules, or was cut. Both: terminated. [N] bool
        bootstrap_values: V(s') of the state after a truncated turn; not read elsewhere. If s' was not valued,
            V(s_t) is the nearest stand-in, while 0 treats the cut as an end. [N]
        gamma: γ, discount per turn, in [0, 1].
        gae_lambda: λ, in [0, 1].

    Returns: Advantages and returns, detached. Computed in float64.

    Raises: ValueError: Shapes differ, a number is not finite, or the last turn ends no episode.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
        (arXiv 1506.02438), equations 11 and 16.
    """
    require_same_shape(
        rewards=rewards, values=values, terminated=terminated, truncated=truncated, bootstrap_values=bootstrap_values
    )
    require_finite(rewards=rewards, values=values, bootstrap_values=bootstrap_values)
    ends = terminated | truncated
    if len(ends) and not ends[-1]:
        raise ValueError(f"the last turn (index {len(ends) - 1}) is neither terminated nor truncated.")
    current = values.detach().double()
    following = torch.where(ends, bootstrap_values.detach().double(), current.roll(-1)).where(~terminated, 0.0)
    deltas = rewards.detach().double() + gamma * following - current
    advantages = discounted_sums(deltas.tolist(), until_ends(ends, gamma * gae_lambda))
    advantages = torch.tensor(advantages, dtype=torch.float64, device=values.device)
    return GaeResult(advantages=advantages.float(), returns=(advantages + current).float())


def normalize(x: Tensor, mask: Tensor) -> Tensor:
    """Centre and scale the masked entries by their own mean and standard deviation; the others become 0.

    (x − mean) / (std + 1e-5), with the population's std, so that a single entry becomes 0.

    Args:
        x: One number per turn. [N]
        mask: Entries that count. [N] bool

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(x=x, mask=mask)
    if not mask.any():
        return torch.zeros_like(x)
    counted = x[mask]
    return ((x - counted.mean()) / (counted.std(correction=0) + EPSILON)).where(mask, 0.0)


def raw_credit(advantages: Tensor, *, text_rewards: Tensor, random_action_mask: Tensor) -> Tensor:
    """Replace the advantage of each random-action turn by what its text itself earned.

    Where a reply did not parse, the environment executed a random action. What that action earned says nothing
    about the text, so the text is credited with `text_rewards` alone.

    Args:
        advantages: Â per turn. [N]
        text_rewards: Reward terms that the text itself causes: format reward − β KL. Read only under the mask. [N]
        random_action_mask: Turns whose executed action was random. [N] bool

    Returns: Credit per turn, in units of reward. [N]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(advantages=advantages, text_rewards=text_rewards, random_action_mask=random_action_mask)
    return torch.where(random_action_mask, text_rewards, advantages)


def normalized_credit(advantages: Tensor, *, text_rewards: Tensor, legal_mask: Tensor, random_action_mask: Tensor) -> Tensor:
    """Normalise advantages by those of the legal turns, and credit random-action turns with their text alone.

    legal turn:                        (Â − mean) / (std + 1e-5), mean and std over the legal turns only
    illegal turn with a random action: text_rewards / (std + 1e-5), not centred, so 0 when its text earned nothing
    illegal turn without an action:    (Â − mean) / (std + 1e-5), as that nothing was done, or that the episode ended, is its own

    Penalties of illegal turns thus neither shift nor shrink the advantages of the others. Where the legal turns have
    no spread to divide by (fewer than two, or std below 1e-5), what illegal turns are credited with stays in units of reward.

    Args: As in `raw_credit`; legal_mask: Turns whose reply parsed; none of them had a random action. [N] bool

    Returns: Credit per turn, in standard deviations. [N]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(advantages=advantages, legal_mask=legal_mask)
    none, legal = advantages.new_zeros(()), advantages[legal_mask]
    mean, spread = (legal.mean(), legal.std(correction=0)) if len(legal) else (none, none)
    scale = torch.where(spread < EPSILON, torch.ones_like(spread), spread + EPSILON)
    illegal = raw_credit(advantages - mean, text_rewards=text_rewards, random_action_mask=random_action_mask) / scale
    return torch.where(legal_mask, normalize(advantages, legal_mask), illegal)


def until_ends(ends: Tensor, discount: float) -> list[float]:
    """Return the discount of each turn, 0 where its episode ends; in float64."""
    return [0.0 if end else discount for end in ends.tolist()]


def discounted_sums(terms: list[float], discounts: list[float]) -> list[float]:
    """S_t = terms[t] + discounts[t] S_{t+1}: a discount of 0 ends a sum."""
    sums, following = [0.0] * len(terms), 0.0
    for t in reversed(range(len(terms))):
        following = terms[t] + discounts[t] * following
        sums[t] = following
    return sums
