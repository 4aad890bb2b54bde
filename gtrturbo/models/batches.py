"""Micro-batches: which samples share a forward pass, by a budget of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gtrturbo.config.choices import AUTO
from gtrturbo.distributed.processes import World
from gtrturbo.models.budget import CPU_TOKENS, tokens_that_fit
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.models.split_model import own
from gtrturbo.models.widths import text_layers


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one forward pass. One that is not counted keeps this process in step with the others and has no weight."""

    rows: list[int]
    counted: bool = True


def micro_batches(
    rows: Sequence[int],
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    tokens: int,
    world: World,
) -> list[MicroBatch]:
    """Split samples into forward passes of about equal lengths, at most `tokens` tokens each with padding, at least one sample.

    Samples of one prompt stand together. Of several processes each gets its own part of every pass, and all get as many passes.

    Args:
        rows: samples to split, as indices of `prompts` and `responses`.
        prompts, responses: prompts and the token ids of replies.
        tokens: most tokens per pass and process.
        world: this process among how many.
    """
    first = {prompt: place for place, prompt in reversed(list(enumerate(prompts[row] for row in rows)))}
    length = {row: len(prompts[row].ids) + len(responses[row]) for row in rows}
    # The longest come first, so that what does not fit into memory fails at once.
    waiting = sorted(rows, key=lambda row: (-length[row], first[prompts[row]]))
    passes = []
    while waiting:
        size = world.size * max(1, tokens // length[waiting[0]])
        part, waiting = waiting[:size], waiting[size:]
        own = part[len(part) * world.rank // world.size : len(part) * (world.rank + 1) // world.size]
        passes.append(MicroBatch(own) if own else MicroBatch(part[:1], counted=False))
    return passes


def token_budget(setting: str, policy: Policy, *, recomputes: bool) -> int:
    """Return the most tokens per forward pass: the number given or, for auto, a measured one (CPU) or what fits (CUDA).

    Args:
        setting: auto or a number.
        policy: what is trained, already in memory.
        recomputes: gradient checkpointing keeps one width per layer, and the rest of one layer at a time.
    """
    if setting != AUTO:
        return int(setting)
    if policy.device.type != "cuda":
        return CPU_TOKENS
    layers = text_layers(policy.model.config.get_text_config())
    free = torch.cuda.mem_get_info(policy.device)[0] - _still_to_come(policy)
    return tokens_that_fit(free, hidden=layers.width, inner=layers.inner, layers=layers.count, recomputes=recomputes)


def _still_to_come(policy: Policy) -> int:
    """Bytes of gradients and of the optimiser's two moments, of the process's own rows; of a float32 copy too for bfloat16."""
    heads = policy.value_head.parameters() if policy.value_head else ()
    trained = [*(parameter for _, parameter in policy.parameters()), *heads]
    return sum(own(p).numel() * (p.element_size() + 8 + (4 if p.dtype == torch.bfloat16 else 0)) for p in trained)
