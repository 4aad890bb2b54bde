"""Advantages among episodes of one deal: each is measured against the others of its group, so that no values are needed."""

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import discounted_sums, until_ends
from gtrturbo.algorithms.shapes import require_finite, require_same_shape

GROUP_EPSILON = 1e-6  # added to a group's standard deviation, as verl's GRPO and GiGPO do


def group_advantages(rewards: Tensor, episodes: Tensor, groups: Tensor, *, scaled: bool) -> Tensor:
    """Credit every turn of an episode with what the episode earned, against its group.

    R_i = Σ_t r_t,   Â = (R_i − mean R) / (std R + 1e-6), mean and std over the group's turns; not scaled: Â = R_i − mean R

    A turn counts with its episode's R, so that the advantages of a group's turns add up to 0. Over episodes they would not where
    lost ones are the longer ones, and most replies would be made less likely whatever they are. The standard deviation is that
    of a sample, divided by one less than the turns. An episode alone in its group has nothing to be measured against: Â = 0.

    Args:
        rewards: r_t of each turn. [N]
        episodes, groups: numbers of its episode and of its group. [N] int64
        scaled: divide by the standard deviation.

    Returns: Â per turn, in standard deviations of the group, or in units of reward. [N] float32

    Raises: ValueError: Shapes differ, or a reward is not finite.

    Source: Shao et al., "DeepSeekMath" (arXiv 2402.03300), section 4.1.2, outcome supervision, where an episode is one turn;
        not scaled: Liu et al., "Understanding R1-Zero-Like Training" (arXiv 2503.20783), section 3.2, Dr. GRPO; over turns as in
        verl-agent, GiGPO's published code, by default.
    """
    require_same_shape(rewards=rewards, episodes=episodes, groups=groups)
    require_finite(rewards=rewards)
    _, place = episodes.unique(return_inverse=True)
    returns = torch.bincount(place, weights=rewards.detach().double())[place]
    return _among(returns, groups, scaled=scaled).float()


def step_group_advantages(
    rewards: Tensor, states: Tensor, *, terminated: Tensor, truncated: Tensor, gamma: float, scaled: bool
) -> Tensor:
    """Credit each turn with what followed it, against the turns of its group that were given the same state.

    R_t = Σ_{k ≥ t} γ^(k − t) r_k within the episode,   Â = (R_t − mean R) / (std R + 1e-6); not scaled: Â = R_t − mean R

    A state that was met once has nothing to be measured against: Â = 0.

    Args:
        rewards: r_t of a flat list of turns, sorted by (episode, turn). [N]
        states: equal numbers where two turns of one group were given the same state, whichever episode or turn. [N] int64
        terminated, truncated: the episode ended here by its rules, or was cut. [N] bool
        gamma: γ, discount per turn, in [0, 1].
        scaled: divide by the standard deviation.

    Returns: Â per turn. [N] float32

    Raises: ValueError: Shapes differ, or a reward is not finite.

    Source: Feng et al., "Group-in-Group Policy Optimization" (arXiv 2505.10978), section 4.3, step-level relative advantages.
    """
    require_same_shape(rewards=rewards, states=states, terminated=terminated, truncated=truncated)
    require_finite(rewards=rewards)
    following = discounted_sums(rewards.detach().double().tolist(), until_ends(terminated | truncated, gamma))
    return _among(torch.tensor(following, dtype=torch.float64), states, scaled=scaled).float()


def _among(numbers: Tensor, members: Tensor, *, scaled: bool) -> Tensor:
    """Centre, and maybe scale, each number by those of the same member number; alone it becomes 0. [M] float64"""
    _, place = members.unique(return_inverse=True)
    counts = torch.bincount(place)
    centred = numbers - (torch.bincount(place, weights=numbers) / counts)[place]
    if not scaled:
        return centred
    variance = torch.bincount(place, weights=centred.square()) / (counts - 1).clamp(min=1)
    return centred / (variance.sqrt() + GROUP_EPSILON)[place]
