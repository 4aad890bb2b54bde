"""The critic of an update: its value head, and what it says of states."""

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms.ppo import explained_variance
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import score_all
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import Transcript, render
from gtrturbo.train.inputs import Rollout


def give_value_head(policy: Policy, *, needed: bool, seed: int) -> ValueHead | None:
    """Make a value head where one is needed and there is none; take off and return one that has no part in this update."""
    if not needed:
        idle, policy.value_head = policy.value_head, None
        return idle
    if policy.value_head is None:
        width = policy.model.config.get_text_config().hidden_size
        policy.value_head = ValueHead.new(width, seed=seed).to(policy.device)
    return None


def bootstrap_values(policy: Policy, rollout: Rollout, transcript: Transcript, *, tokens: int) -> Tensor:
    """Value the states after truncated turns, whose episodes would have gone on. [N], 0 elsewhere

    Raises:
        GtrTurboError: of a truncated turn there is no such state.
    """
    lost = next((row for row, turn in enumerate(transcript.turns) if turn.truncated and turn.successor is None), None)
    if lost is not None:
        raise GtrTurboError(
            f"row {lost} of {rollout.path} is truncated, and the state after it is not there.", "play again: gtrturbo rollout …"
        )
    cut = [(row, turn.successor) for row, turn in enumerate(transcript.turns) if turn.truncated and turn.successor]
    prompts = [render(policy.renderer, rollout.path, state.messages, state.images) for _, state in cut]
    end = np.array([policy.renderer.end_id])  # A value needs no reply, the forward pass needs one token.
    values = score_all(policy, prompts, [end] * len(cut), temperature=1.0, tokens=tokens).values
    if values is None:
        raise ValueError("without a value head there are no values.")
    placed = torch.zeros(len(transcript.turns))
    placed[[row for row, _ in cut]] = values
    return placed


def critic_metrics(values: Tensor | None, targets: Tensor | None, replies: Tensor) -> dict[str, float]:
    """Say how well the values before the update foretell their targets; nothing where there are none.

    Args:
        values, targets: of turns [N], or of tokens [N, R]
        replies: real tokens of each reply. [N, R] bool
    """
    if values is None or targets is None:
        return {}
    if values.ndim == 2:
        values, targets = values[replies], targets[replies]
    error = (values - targets).square().mean().sqrt().item()
    return {"explained_variance": explained_variance(values, targets), "value_error": error}
