"""A merge rule of sums, which --state can keep: as far as the checkpoints moved on average (RMS), the way their mean went."""

from torch import Tensor, ones_like, stack

from gtrturbo.merging.methods import MergeRule


def add(sums: Tensor, task_vector: Tensor, weight: float) -> Tensor:
    return sums + weight * stack([task_vector, task_vector.square(), ones_like(task_vector)])


RULE = MergeRule(lambda sums: sums[0].sign() * (sums[1] / sums[2]).sqrt(), sums=3, add=add)
