"""Credit by name: find it, give it what the turns earned, and check what comes back."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import cast

import torch
from torch import Tensor

from gtrturbo.algorithms.credit import CREDITS, Assign, Credit, Credited, Earned
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import calling, find
from gtrturbo.store.records import Turn

CREDIT_SEAM = "credit"


def find_credit(name: str) -> Credit:
    """Return what is built in under a name, or the user's own; a bare function is given values.

    Raises:
        GtrTurboError: there is none, or it is neither a Credit nor a function.
    """
    found = find(CREDIT_SEAM, name, CREDITS)
    if not isinstance(found, Credit) and not callable(found):
        raise GtrTurboError(
            f"{name} is a {type(found).__name__}, not a credit.", "give a Credit, or a function from Earned to Credited."
        )
    credit = found if isinstance(found, Credit) else Credit(cast(Assign, found))
    return replace(credit, assign=lambda earned: _assign(name, credit, earned))


def _assign(name: str, credit: Credit, earned: Earned) -> Credited:
    with calling(CREDIT_SEAM, name):
        credited = credit.assign(_copied(earned))
    if not isinstance(credited, Credited):
        raise GtrTurboError(f"credit {name} returns a {type(credited).__name__}.", "return Credited(advantages, value_targets).")
    targets = credited.value_targets
    if credit.needs_values != (targets is not None):
        there, needs = ("no value targets", "needs") if targets is None else ("value targets", "does not need")
        raise GtrTurboError(
            f"credit {name} returns {there}, but {needs} values.", "give Credit(…, needs_values=…) what it is, or return them."
        )
    columns = {"advantages": credited.advantages} | ({} if targets is None else {"value_targets": targets})
    for column, numbers in columns.items():
        _require_shape(f"credit {name}: {column}", numbers, credit, earned)
    whole = {column: numbers.detach().float() for column, numbers in columns.items()}
    return Credited(**whole)


def _copied(earned: Earned) -> Earned:
    """Copy what a credit is given: the values are what the value loss is clipped around."""
    columns = {each.name: getattr(earned, each.name) for each in fields(earned)}
    tensors = {name: column.clone() for name, column in columns.items() if isinstance(column, Tensor)}
    return replace(earned, states=[*earned.states], **tensors)


def _require_shape(what: str, numbers: Tensor, credit: Credit, earned: Earned) -> None:
    wanted = earned.replies if credit.per_token and earned.replies is not None else earned.rewards
    if not isinstance(numbers, Tensor) or numbers.shape != wanted.shape:
        found = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        each = "token" if credit.per_token else "turn"
        raise GtrTurboError(f"{what} must be a tensor of shape {list(wanted.shape)}, one number per {each}, got {found}.")
    if not numbers.isfinite().all():
        place = tuple((~numbers.isfinite()).nonzero()[0].tolist())
        raise GtrTurboError(f"{what} is {numbers[place].item()} at turn {place[0]}.", "nothing was written.")


def earned_by(
    turns: Sequence[Turn],
    rewards: Tensor,
    *,
    values: Tensor | None,
    bootstrap_values: Tensor | None,
    gamma: float,
    gae_lambda: float,
    replies: Tensor | None = None,
) -> Earned:
    """Put together what turns earned, see `Earned`; `values` are those of tokens [N, R] where there are `replies`."""
    token_values = None
    if replies is not None and values is not None:
        token_values, values = values, values[:, 0]
    return Earned(
        rewards=rewards,
        values=values,
        terminated=torch.tensor([turn.terminated for turn in turns]),
        truncated=torch.tensor([turn.truncated for turn in turns]),
        bootstrap_values=bootstrap_values,
        episodes=torch.tensor([turn.episode for turn in turns]),
        groups=_groups(turns),
        turns=torch.tensor([turn.turn for turn in turns]),
        states=[_state(turn) for turn in turns],
        gamma=gamma,
        gae_lambda=gae_lambda,
        token_values=token_values,
        replies=replies,
    )


def _groups(turns: Sequence[Turn]) -> Tensor:
    """Number groups by first appearance; an episode without one is a group of its own."""
    names = [(turn.group is None, turn.episode if turn.group is None else turn.group) for turn in turns]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def _state(turn: Turn) -> str:
    """Hash what a turn was shown; the names of pictures are hashes of their pixels."""
    seen = json.dumps([turn.messages[:-1], turn.images], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()
