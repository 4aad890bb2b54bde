"""A teacher's scores as guidance for an update: the reverse KL of each turn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from gtrturbo.algorithms.kl import Estimator, kl_k1, turn_kl
from gtrturbo.models.scoring import pad
from gtrturbo.tensors import load_scores

KlTokens = Literal["thought", "reply"]


@dataclass(frozen=True)
class Guidance:
    """What the teacher says of the replies of N turns.

    Attributes:
        teacher_logprobs: of the sampled tokens, in nats. [N, R]
        counted: tokens whose KL counts. [N, R] bool
        estimator: of the KL per token.
    """

    teacher_logprobs: Tensor
    counted: Tensor
    estimator: Estimator

    def kl(self, logprobs: Tensor) -> Tensor:
        """Return the mean KL over each turn's counted tokens, in nats per token, from the student's log-probs. [N, R] -> [N]"""
        return turn_kl(logprobs, self.teacher_logprobs, self.counted, estimator=self.estimator)

    def raw(self, logprobs: Tensor) -> float:
        """Return the mean of k1 over all counted tokens, in nats; it may be negative."""
        return kl_k1(logprobs, self.teacher_logprobs)[self.counted].mean().item()


def read_guidance(file: Path, *, thought: Tensor, action: Tensor, tokens: KlTokens, estimator: Estimator) -> Guidance:
    """Read scores.

    Args:
        file: the scores of N turns.
        thought, action: masks of the turns' tokens. [N, R] bool
        tokens: which of them count: those of the thought, as in the paper, or of the whole reply, thought and action alike.
        estimator: of the KL per token.
    """
    teacher = pad(load_scores(file), thought.shape[1])
    return Guidance(teacher, thought if tokens == "thought" else thought | action, estimator)
