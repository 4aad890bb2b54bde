"""How much memory a process takes of an update whose weights are split over several, in bytes."""

from dataclasses import replace

from gtrturbo.models.memory import FLOAT32, Memory, Shape


def split_over(found: Memory, shape: Shape, *, processes: int) -> Memory:
    """Turn the estimate of a whole update into that of one of the processes that split it.

    Weights, gradients and the optimiser's state are divided; activations and logits are those of a process's own samples.

    Args:
        found: estimate of the samples of one process with a whole model.
        shape: of the model, all of which is trained.
        processes: how many split it.
    """
    parts = {name: -(-getattr(found, name) // processes) for name in ("weights", "gradients", "optimizer")}
    return replace(found, **parts, gathered=gathered(shape))


def gathered(shape: Shape) -> int:
    """Estimate what is whole at once of split weights and gradients, at the worst moment of a backward pass.

    With e bytes per number, what is in no layer is whole all the time, weights and gradients: 2e. Within, two layers' weights, as
    the next is gathered while one works, a layer's gradients, and these in float32 while they are summed: 3e + 4. In the end the
    gradients of what is in no layer are summed: 2e + 4.
    """
    e, outside = shape.width, shape.outside
    return max(outside * 2 * e + shape.layer * (3 * e + FLOAT32), outside * (2 * e + FLOAT32))
