"""Credit by name: find it, give it what the turns earned, and check what comes back."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
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
        credited = credit.assign(earned)
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
        _require_one_per_turn(f"credit {name}: {column}", numbers, count=len(earned.rewards))
    whole = {column: numbers.detach().float() for column, numbers in columns.items()}
    return Credited(**whole)


def _require_one_per_turn(what: str, numbers: Tensor, *, count: int) -> None:
    if not isinstance(numbers, Tensor) or list(numbers.shape) != [count]:
        found = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
        raise GtrTurboError(f"{what} must be a tensor of shape [{count}], one number per turn, got {found}.")
    if not numbers.isfinite().all():
        row = int((~numbers.isfinite()).nonzero()[0])
        raise GtrTurboError(f"{what} is {numbers[row].item()} at turn {row}.", "nothing was written.")


def earned_by(
    turns: Sequence[Turn],
    rewards: Tensor,
    *,
    values: Tensor | None,
    bootstrap_values: Tensor | None,
    gamma: float,
    gae_lambda: float,
) -> Earned:
    """Put together what turns earned, see `Earned`."""
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
