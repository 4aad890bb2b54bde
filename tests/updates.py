"""Parts of ppo-step, as the stage calls them for a config."""

from gtrturbo.config import PpoStepConfig
from gtrturbo.models.policy import Policy
from gtrturbo.play.recording import Transcript
from gtrturbo.stages import ppo_step
from gtrturbo.train.inputs import read_rollout
from gtrturbo.train.ppo_batch import Losses, PpoBatch, losses
from gtrturbo.train.steps import Student, add_gradients


def prepare(config: PpoStepConfig, policy: Policy, transcript: Transcript) -> tuple[PpoBatch, dict[str, float]]:
    """Return what an update holds fixed, and what is told before it."""
    return ppo_step.prepared(config, policy, transcript, read_rollout(config.rollouts))


def losses_of(config: PpoStepConfig, policy: Policy, transcript: Transcript, batch: PpoBatch, rows: list[int]) -> Losses:
    """Run the policy on some turns once more, with gradients."""
    return losses(policy, transcript, batch, rows, settings=ppo_step.loss_settings(config, read_rollout(config.rollouts)))


def gradients_of(config: PpoStepConfig, policy: Policy, transcript: Transcript, rows: list[int]) -> dict[str, float]:
    """Add the gradients of one minibatch of turns; return its losses and ratios."""
    batch, _ = prepare(config, policy, transcript)
    student = Student(policy, ppo_step.optimizer_of(config, policy), transcript, batch)
    return add_gradients(student, rows, [], settings=ppo_step.loss_settings(config, read_rollout(config.rollouts)))
