"""Score whole transcripts in micro-batches, without gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.models.batches import micro_batches
from gtrturbo.models.chat import Prompt
from gtrturbo.models.parallel import total
from gtrturbo.models.policy import Policy
from gtrturbo.models.transcript import Transcript, render
from gtrturbo.processes import group


@torch.no_grad()
def score_all(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    temperature: float,
    tokens: int,
    parts: Sequence[Sequence[int]] | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[list[np.ndarray], Tensor]:
    """Score N given replies and value the states that they were given in; the current group of processes shares the work.

    Args:
        policy: what scores.
        prompts, responses: N prompts and the token ids of N replies.
        temperature: of the softmax, the one that was sampled at.
        tokens: per forward pass.
        parts: rows that are split into passes apart, together all N. Where they are the minibatches of a training epoch, its
            passes are repeated and give these log-probs again bit by bit. All rows are one part if not given.
        told: called with the number of replies after each pass.

    Returns: log-probs in nats, N × [R] float32, and values [N], 0 without a value head; both on the CPU, in every process.
    """
    if not responses:
        return [], torch.zeros(0)
    logprobs = torch.zeros(len(responses), max(map(len, responses)))
    values = torch.zeros(len(responses))
    for part in [range(len(responses))] if parts is None else parts:
        for batch in micro_batches(part, prompts, responses, tokens=tokens, world=group().world):
            own = [responses[row] for row in batch.rows]
            scored = policy.score([prompts[row] for row in batch.rows], own, temperature=temperature)
            if batch.counted:
                logprobs[batch.rows, : scored.logprobs.shape[1]] = scored.logprobs.cpu()
                if scored.values is not None:
                    values[batch.rows] = scored.values.cpu()
                told(len(own))
    rows = zip(total(logprobs), responses, strict=True)
    return [row[: len(ids)].numpy() for row, ids in rows], total(values)


def bootstrap_values(policy: Policy, path: Path, transcript: Transcript, *, tokens: int) -> Tensor:
    """Value the states after truncated turns, whose episodes would have gone on. [N], 0 elsewhere"""
    cut = [(row, turn.successor) for row, turn in enumerate(transcript.turns) if turn.truncated and turn.successor]
    prompts = [render(policy.renderer, path, state.messages, state.images) for _, state in cut]
    end = np.array([policy.processor.tokenizer.eos_token_id])  # A value needs no reply, the forward pass needs one token.
    _, values = score_all(policy, prompts, [end] * len(cut), temperature=1.0, tokens=tokens)
    placed = torch.zeros(len(transcript.turns))
    placed[[row for row, _ in cut]] = values
    return placed


def pad(rows: Sequence[np.ndarray], width: int) -> Tensor:
    """Stack rows of different lengths, 0 on the right. [N, width] float32"""
    padded = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.from_numpy(np.asarray(row, np.float32))
    return padded
