"""Score whole transcripts in micro-batches, without gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms.vocabulary import LogitsReader
from gtrturbo.distributed.collectives import total
from gtrturbo.distributed.processes import group
from gtrturbo.errors import Collapse
from gtrturbo.models.batches import micro_batches
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt


@dataclass(frozen=True)
class ScoredReplies:
    """Of N replies, on the CPU, in every process.

    Attributes:
        logprobs: in nats. N × [R] float32
        values: of the states that they were given in, or before each token; None without a value head. [N] or [N, R]
        read: what a reader saw, one list per tensor that it returns. N × [R, …]
    """

    logprobs: list[np.ndarray]
    values: Tensor | None
    read: list[list[Tensor]]


@torch.no_grad()
def score_all(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    temperature: float,
    tokens: int,
    token_values: bool = False,
    parts: Sequence[Sequence[int]] | None = None,
    reader: Callable[[Sequence[int]], LogitsReader | None] | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ScoredReplies:
    """Score N given replies and value the states that they were given in; the current group of processes shares the work.

    Args:
        policy: what scores.
        prompts, responses: N prompts and the token ids of N replies.
        temperature: of the softmax, the one that was sampled at.
        tokens: per forward pass.
        token_values: a value before each token of a reply, 0 outside the replies, not of its state alone.
        parts: rows that are split into passes apart, together all N. Where they are the minibatches of a training epoch, its
            passes are repeated and give these log-probs again bit by bit. All rows are one part if not given.
        reader: gives what is to be shown the whole distributions of the replies of some rows.
        on_progress: called with the number of replies after each pass.
    """
    if not responses:
        return ScoredReplies([], torch.zeros(0) if policy.value_head else None, [])
    logprobs = torch.zeros(len(responses), max(map(len, responses)))
    values = torch.zeros(logprobs.shape if token_values else len(responses)) if policy.value_head else None
    read = _Ragged([len(response) for response in responses])
    for part in [range(len(responses))] if parts is None else parts:
        for batch in micro_batches(part, prompts, responses, tokens=tokens, world=group().world):
            own = [responses[row] for row in batch.rows]
            asked = [prompts[row] for row in batch.rows]
            how = {"temperature": temperature, "token_values": token_values}
            scored = policy.score(asked, own, **how, read=reader(batch.rows) if reader else None)
            read.add(batch.rows if batch.counted else [], scored.read)
            if batch.counted:
                logprobs[batch.rows, : scored.logprobs.shape[1]] = scored.logprobs.cpu()
                if values is not None and scored.values is not None:
                    found = scored.values.cpu()
                    values[(batch.rows, slice(found.shape[1])) if token_values else batch.rows] = found
                on_progress(len(own))
    rows = zip(total(logprobs), responses, strict=True)
    return ScoredReplies(
        [row[: len(ids)].numpy() for row, ids in rows], total(values) if values is not None else None, read.totals()
    )


@torch.no_grad()
def require_usable(policy: Policy, prompt: Prompt, response_ids: np.ndarray) -> None:
    """Refuse what training made if it cannot score a reply any more: after the last step nothing else looks at it.

    Args:
        policy: that was trained; of split weights each process has its share, and all of them come here.
        prompt, response_ids: one that it learned from. [R]

    Raises:
        Collapse: its log-probs are not finite.
    """
    scored = policy.score([prompt], [response_ids], temperature=1.0, values=False)
    if not scored.logprobs.isfinite().all():
        raise Collapse("after the last step the logits are not finite: nothing was written.", "lower --learning-rate.")


class _Ragged:
    """Tensors of rows of different lengths, which come in parts and from several processes."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self._columns: list[list[Tensor]] = []

    def add(self, rows: Sequence[int], flat: Sequence[Tensor]) -> None:
        """Take tensors [M, …] that hold these rows one after another; without rows they only tell what tensors there are."""
        if not self._columns:
            self._columns = [[values.new_zeros(n, *values.shape[1:], device="cpu") for n in self._lengths] for values in flat]
        for column, values in zip(self._columns, flat, strict=True):
            for row, own in zip(rows, values.cpu().split([self._lengths[row] for row in rows]) if rows else (), strict=True):
                column[row].copy_(own)

    def totals(self) -> list[list[Tensor]]:
        return [[total(row) for row in column] for column in self._columns]


def pad(rows: Sequence[np.ndarray | Tensor], width: int) -> Tensor:
    """Stack rows of different lengths, 0 on the right. [N, width] float32"""
    padded = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.as_tensor(row)
    return padded
