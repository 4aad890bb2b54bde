"""Whole next-token distributions: their most likely tokens, and how to read them without keeping the logits.

Logits here are divided by the temperature, and −inf for tokens that the sampler excludes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Takes logits of some tokens [n, V] and says which of all M tokens they are; returns tensors [n, …].
LogitsReader = Callable[[Tensor, slice], tuple[Tensor, ...]]


def top_logprobs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the most likely tokens of each distribution, and what is left for all others.

    Args:
        logits: of M distributions. [M, V]
        count: K; more than the vocabulary is all of it.

    Returns: token ids [M, K], most likely first; their log-probs in nats [M, K]; the log-prob of all other tokens together [M],
        −inf where there are none.
    """
    possible = int((logits[:1] > -torch.inf).sum()) if len(logits) else logits.shape[-1]
    top, ids = logits.topk(min(count, possible), dim=-1)
    whole = logits.logsumexp(-1)
    return ids, top - whole[:, None], logits.scatter(-1, ids, -torch.inf).logsumexp(-1) - whole


def read_logits(logits: Tensor, read: LogitsReader, *, temperature: float, forbidden: Tensor) -> tuple[Tensor, ...]:
    """Let `read` see M distributions at once; see `read_linear`. `logits` are as the model gives them. [M, V]"""
    return read(_scaled(logits, temperature, forbidden), slice(0, len(logits)))


def read_linear(
    hidden: Tensor, weight: Tensor, read: LogitsReader, *, temperature: float, forbidden: Tensor, chunk: int = 256
) -> tuple[Tensor, ...]:
    """Let `read` see the distributions of logits hidden · weightᵀ, a chunk of tokens at a time.

    No chunk is kept: for gradients it is made again.

    Args:
        hidden: states that predict one token each. [M, H]
        weight: of the output head. [V, H]
        read: what is wanted of the distributions.
        temperature: T of the sampler, above 0.
        forbidden: Token ids that the sampler excludes. [F]
        chunk: tokens at a time.

    Returns: what `read` returned, put together over the chunks. [M, …]
    """

    def see(states: Tensor, part: slice) -> tuple[Tensor, ...]:
        return read(_scaled(states @ weight.T, temperature, forbidden), part)

    parts = [slice(start, start + chunk) for start in range(0, max(1, len(hidden)), chunk)]
    seen: list[tuple[Tensor, ...]] = [
        checkpoint(see, hidden[part], part, use_reentrant=False, preserve_rng_state=False)  # type: ignore[misc]
        for part in parts
    ]
    return tuple(torch.cat(column) for column in zip(*seen, strict=True))


def _scaled(logits: Tensor, temperature: float, forbidden: Tensor) -> Tensor:
    return (logits.float() / temperature).index_fill(-1, forbidden, -torch.inf)
