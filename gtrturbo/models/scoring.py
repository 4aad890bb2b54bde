"""Score whole transcripts in micro-batches, without gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.models.chat import Prompt
from gtrturbo.models.policy import Policy
from gtrturbo.models.transcript import Transcript, render


@torch.no_grad()
def score_all(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    temperature: float,
    micro_batch_size: int,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[list[np.ndarray], Tensor]:
    """Score N given replies and value the states that they were given in.

    Args:
        policy: what scores.
        prompts, responses: N prompts and the token ids of N replies.
        temperature: of the softmax, the one that was sampled at.
        micro_batch_size: replies per forward pass.
        told: called with the number of replies after each pass.

    Returns: log-probs in nats, N × [R] float32, and values [N], 0 without a value head; both on the CPU.
    """
    logprobs: list[np.ndarray] = []
    values = torch.zeros(len(responses))
    for start in range(0, len(responses), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        scored = policy.score(prompts[part], responses[part], temperature=temperature)
        rows = scored.logprobs.float().cpu().numpy()
        logprobs += [row[: len(ids)] for row, ids in zip(rows, responses[part], strict=True)]
        if scored.values is not None:
            values[part] = scored.values.cpu()
        told(len(rows))
    return logprobs, values


def bootstrap_values(policy: Policy, path: Path, transcript: Transcript, *, micro_batch_size: int) -> Tensor:
    """Value the states after truncated turns, whose episodes would have gone on. [N], 0 elsewhere"""
    cut = [(row, turn.successor) for row, turn in enumerate(transcript.turns) if turn.truncated and turn.successor]
    prompts = [render(policy.renderer, path, state.messages, state.images) for _, state in cut]
    end = np.array([policy.processor.tokenizer.eos_token_id])  # A value needs no reply, the forward pass needs one token.
    _, values = score_all(policy, prompts, [end] * len(cut), temperature=1.0, micro_batch_size=micro_batch_size)
    placed = torch.zeros(len(transcript.turns))
    placed[[row for row, _ in cut]] = values
    return placed


def pad(rows: Sequence[np.ndarray], width: int) -> Tensor:
    """Stack rows of different lengths, 0 on the right. [N, width] float32"""
    padded = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.from_numpy(np.asarray(row, np.float32))
    return padded
