"""Refuse turns that the checkpoint which is to learn from them did not play, as far as its own forward pass tells."""

from collections.abc import Mapping

from gtrturbo.algorithms.importance import SamplerTrainerGap
from gtrturbo.algorithms.repeats import Repeats
from gtrturbo.algorithms.sampled import Drawn
from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.draws import require_anew, require_drawn
from gtrturbo.play.limits import Limits, limits_of
from gtrturbo.play.recording import Transcript
from gtrturbo.train.inputs import Rollout
from gtrturbo.train.ppo_batch import PpoBatch

# How far a token's log-prob may be from that of the same weights here, in nats: rounding of bfloat16 in the logits of an
# unlikely token, and of float32.
FAR, FAR_IN_FLOAT32 = 2.0, 0.1


def require_one_policy(rollout: Rollout, gap: SamplerTrainerGap, limits: Limits) -> None:
    """Refuse turns that another policy sampled, and tell of a gap that is larger than that of the same weights."""
    if not rollout.sampler or gap.mean <= limits.warns:
        return
    said = f"the {rollout.sampler}'s log-probs are {gap.mean:.2g} nats per token from the trainer's"
    if gap.mean > limits.refuses:
        raise GtrTurboError(
            f"{said}: it played another model, or returned log-probs before temperature.",
            "serve the model under the checkpoint; start vLLM with --logprobs-mode processed_logprobs.",
        )
    stderr.print(f"{said}; those of the same weights are within {limits.warns:g}.")


def require_own_logprobs(rollout: Rollout, batch: PpoBatch, metrics: Mapping[str, float], *, whole: bool) -> None:
    """Refuse turns whose log-probs this checkpoint did not give, where it is what played.

    Args:
        rollout: how they were played.
        batch: of its turns.
        metrics: with the gap between sampler and trainer, its mean over tokens and its largest, in nats.
        whole: the trainer computes in float32.

    Raises:
        GtrTurboError: a token's log-prob, or their mean, is further off than rounding takes it.
    """
    exact = whole and rollout.same_type
    most, mean_most = FAR_IN_FLOAT32 if exact else FAR, limits_of("float32" if exact else "bfloat16").refuses
    mean, largest = metrics["sampler_trainer_gap_mean"], metrics["sampler_trainer_gap_max"]
    if rollout.sampler is None and (largest > most or mean > mean_most):
        row = int(batch.sampler_trainer_gap.argmax())
        raise GtrTurboError(
            f"log-probs in {rollout.path} are up to {largest:.3g} nats per token from those that --checkpoint gives "
            f"(most in turn {row}): these tokens were not sampled so.",
            "play again: gtrturbo rollout …",
        )


def require_sampled(rollout: Rollout, transcript: Transcript, metrics: Mapping[str, float]) -> None:
    """Refuse turns that were not sampled from this checkpoint at their temperature, each anew, whatever their log-probs say.

    Raises:
        GtrTurboError: chance does not make them so.
    """
    found = Drawn(metrics["sampling_z"], metrics["sampling_evidence"])
    tokens = sum(map(len, transcript.tokens.response_ids))
    whose = f"the replies in {rollout.path}"
    require_drawn(found, whose, temperatures=[rollout.temperature], tokens=tokens)
    require_anew(Repeats(metrics["repeats_evidence"], metrics["repeat_rate"]), whose)
