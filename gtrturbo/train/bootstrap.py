"""Values of the states after truncated turns."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import score_all
from gtrturbo.play.recording import Transcript, render


def bootstrap_values(policy: Policy, path: Path, transcript: Transcript, *, tokens: int) -> Tensor:
    """Value the states after truncated turns, whose episodes would have gone on. [N], 0 elsewhere"""
    cut = [(row, turn.successor) for row, turn in enumerate(transcript.turns) if turn.truncated and turn.successor]
    prompts = [render(policy.renderer, path, state.messages, state.images) for _, state in cut]
    end = np.array([policy.processor.tokenizer.eos_token_id])  # A value needs no reply, the forward pass needs one token.
    values = score_all(policy, prompts, [end] * len(cut), temperature=1.0, tokens=tokens).values
    if values is None:
        raise ValueError("without a value head there are no values.")
    placed = torch.zeros(len(transcript.turns))
    placed[[row for row, _ in cut]] = values
    return placed
