"""Credit from outside the package: an episode's discounted return less the mean return of its group; no values."""

import torch

from gtrturbo.algorithms.credit import Credit, Credited, Earned


def assign(earned: Earned) -> Credited:
    """Credit every turn of an episode with Σ γᵗ rₜ of the episode, less the mean of that over the group's episodes."""
    returns: dict[int, float] = {}
    groups: dict[int, list[int]] = {}
    for episode, group, turn, reward in zip(*columns(earned), strict=True):
        if episode not in returns:
            groups.setdefault(group, []).append(episode)
        returns[episode] = returns.get(episode, 0.0) + earned.gamma**turn * reward
    means = {group: sum(returns[episode] for episode in members) / len(members) for group, members in groups.items()}
    pairs = zip(earned.episodes.tolist(), earned.groups.tolist(), strict=True)
    return Credited(torch.tensor([returns[episode] - means[group] for episode, group in pairs]))


def columns(earned: Earned) -> list[list]:
    return [each.tolist() for each in (earned.episodes, earned.groups, earned.turns, earned.rewards)]


CREDIT = Credit(assign, needs_values=False)
