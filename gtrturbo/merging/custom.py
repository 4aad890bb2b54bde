"""A merge rule in Python, run on tiles in torch and on whole tensors; what it returns is checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gtrturbo.merging.method import MergeRule, keywords
from gtrturbo.merging.operands import Operand, RuleFailed, RuleInputs, Tile, TileRule
from gtrturbo.merging.tiles import chunk_sums, store, task_vector, trim, uniform, wide
from gtrturbo.plugins import explained


@dataclass(frozen=True)
class Entries:
    """Flat task vectors of a tile or a whole tensor, float64, with what else a rule may ask for.

    Attributes:
        vectors: one per checkpoint. k of [n]
        weights: one per checkpoint.
        base: what they are measured from. [n]
        keys: decide what is random, one per checkpoint.
        offset: the first entry within its tensor.
    """

    vectors: Sequence[Tensor]
    weights: Sequence[float]
    base: Tensor
    keys: Sequence[int] = ()
    offset: int = 0

    def noise(self) -> Tensor:
        """Uniform numbers in [0, 1), decided by key and place alone. [k, n]"""
        index = torch.arange(self.offset + 1, self.offset + 1 + len(self.base), dtype=torch.int64, device=self.base.device)
        return torch.stack([uniform(key, index) for key in self.keys])


def apply_rule(rule: MergeRule, entries: Entries, given: RuleInputs) -> Tensor:
    """Apply a rule to flat task vectors, of which it is given copies.

    Args:
        rule: built in or the user's.
        entries: of one tile, or of a whole tensor.
        given: what it may ask for besides.

    Returns: the merged task vector, float64. [n]

    Raises:
        RuleFailed: it raises, or does not return n finite floating-point numbers.
    """
    if rule.sums:
        return finish_sums(rule, add_to_sums(rule, entries), entries, given)
    return _called(rule.combine, entries, given).flatten()


def add_to_sums(rule: MergeRule, entries: Entries, sums: Tensor | None = None) -> Tensor:
    """Add task vectors to the sums of a rule, one checkpoint after the other, so that it does not matter in how many goes.

    Args:
        rule: one of sums.
        entries: those of the checkpoints to add.
        sums: of those before, float64; 0 if not given. [m, n]

    Returns: the sums with them, float64. [m, n]

    Raises:
        RuleFailed: it raises, or does not return finite floating-point numbers of that shape.
    """
    assert rule.add is not None
    if sums is None:
        sums = torch.zeros((rule.sums, len(entries.base)), dtype=torch.float64, device=entries.base.device)
    for vector, weight in zip(entries.vectors, entries.weights, strict=True):
        sums = _checked(
            _shielded(rule.add, sums, vector.clone(), weight),
            list(sums.shape),
            entries.base.device,
            of=f"sums {list(sums.shape)}",
        )
    return sums


def finish_sums(rule: MergeRule, sums: Tensor, entries: Entries, given: RuleInputs) -> Tensor:
    """Make the merged task vector of a rule's sums, float64. [n]

    Raises:
        RuleFailed: as `apply_rule`.
    """
    wanted = keywords(rule.combine)
    extra = {"base": entries.base.clone()} if "base" in wanted else {}  # A rule may work in place.
    extra |= {name: _setting(value, entries.base.device) for name, value in given.settings.items() if name in wanted}
    merged = _shielded(rule.combine, sums, **extra)
    return _checked(merged, list(sums.shape[1:]), entries.base.device, of=f"sums {list(sums.shape)}")


def measure(rule: MergeRule, entries: Entries, given: RuleInputs) -> Tensor:
    """Measure flat task vectors as a rule wants it: sums [m], or one number of at least 0 per entry [n]."""
    assert rule.measure is not None
    if rule.quantiles:
        return _called(rule.measure, entries, given).flatten()
    return _checked(_call(rule.measure, entries, given), None, entries.base.device, of="")


def _called(function: Callable[..., Tensor], entries: Entries, given: RuleInputs) -> Tensor:
    shape = (-1, given.width) if given.width else (-1,)
    wanted = [len(entries.vectors), *entries.base.reshape(shape).shape]
    return _checked(_call(function, entries, given), wanted[1:], entries.base.device, of=f"task vectors {wanted}")


def _call(function: Callable[..., Tensor], entries: Entries, given: RuleInputs) -> Tensor:
    shape = (-1, given.width) if given.width else (-1,)
    device = entries.base.device
    k = len(entries.vectors)
    asked: dict[str, Callable[[], object]] = {
        "base": lambda: entries.base.reshape(shape).clone(),
        "noise": lambda: entries.noise().reshape(k, *shape),
        "densities": lambda: torch.tensor(given.densities, dtype=torch.float64, device=device),
        "normalize": lambda: given.normalize,
        "measured": lambda: torch.as_tensor(given.measured, dtype=torch.float64, device=device).clone(),
    }
    wanted = keywords(function)
    extra = {name: make() for name, make in asked.items() if name in wanted}
    extra |= {name: _setting(value, device) for name, value in given.settings.items() if name in wanted}
    stacked = torch.stack([vector.reshape(shape) for vector in entries.vectors])
    return _shielded(function, stacked, torch.tensor(entries.weights, dtype=torch.float64, device=device), **extra)


def _shielded(function: Callable[..., Tensor], *arguments: object, **extra: object) -> Tensor:
    try:
        return function(*arguments, **extra)
    except Exception as error:
        own = explained(error)
        said = f"it raises {type(error).__name__}: {error}"
        raise (RuleFailed(own.what, own.fix) if own else RuleFailed(said)) from error


def _setting(value: object, device: torch.device) -> object:
    """One for all checkpoints as it is, one for each as a tensor [k]."""
    return torch.tensor(value, dtype=torch.float64, device=device) if isinstance(value, tuple) else value


def _checked(merged: object, shape: list[int] | None, device: torch.device, *, of: str) -> Tensor:
    """Refuse what is not of a shape; `of` says of what it was made."""
    if not isinstance(merged, Tensor):
        raise RuleFailed(f"it returned {type(merged).__name__}, not a tensor.")
    if shape is not None and list(merged.shape) != shape:
        raise RuleFailed(f"it returned shape {list(merged.shape)} for {of}.")
    if not merged.is_floating_point():
        raise RuleFailed(f"it returned {merged.dtype}, which is no floating-point type.")
    merged = merged.detach().to(device, torch.float64)
    if not torch.isfinite(merged).all():
        raise RuleFailed("it returned a NaN or an infinity.")
    return merged


class RuleCombiner:
    """Merges tiles by a rule in Python; see `operands.Combiner`."""

    def __init__(self, rule: MergeRule, device: str) -> None:
        self._rule, self._device = rule, device

    def combine(
        self,
        base: Tile,
        operands: Sequence[Operand],
        rule: TileRule,
        *,
        offset: int,
        out: np.ndarray,
        state: np.ndarray | None = None,
        decay: float = 1.0,
    ) -> np.ndarray | None:
        assert decay == 1  # What sums of a rule in Python hold does not fade.
        origin = wide(base, self._device)
        vectors = [task_vector(origin, operand) for operand in operands]
        if not all(torch.isfinite(vector).all() for vector in (origin, *vectors)):
            return None
        weights = [operand.weight for operand in operands]
        mean = torch.zeros_like(origin)
        for vector, weight in zip(vectors, weights, strict=True):
            mean += weight * vector
        changed = _count_nonzero(vectors, origin)
        touched = (changed > 0).double()
        if rule.trims:
            vectors = [trim(vector, operand, rule, offset) for vector, operand in zip(vectors, operands, strict=True)]
        kept = _count_nonzero(vectors, origin)
        entries = Entries(vectors, weights, origin, [operand.key for operand in operands], offset)
        merged = rule.scale * self._apply(entries, rule, state)
        store(rule.base_factor * origin + merged, out)
        back = (rule.base_factor - 1) * origin  # As for the methods that are compiled.
        merged += back
        mean += sum(weights) * back
        conflicts = torch.zeros_like(origin)  # A rule elects no sign that we know of.
        return chunk_sums((merged * merged, mean * mean, merged * mean, origin * origin, conflicts, kept, changed, touched))

    def _apply(self, entries: Entries, rule: TileRule, state: np.ndarray | None) -> Tensor:
        """Merge a tile; where running sums are kept, on top of them, and they become those with its checkpoints. [m, n]"""
        if state is None:
            return apply_rule(self._rule, entries, rule.given)
        sums = add_to_sums(self._rule, entries, torch.from_numpy(state.copy()).to(self._device))
        state[:] = sums.cpu().numpy()
        return finish_sums(self._rule, sums, entries, rule.given)


def _count_nonzero(vectors: Sequence[Tensor], like: Tensor) -> Tensor:
    return sum(((vector != 0).double() for vector in vectors), torch.zeros_like(like))
