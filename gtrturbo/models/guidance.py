"""A teacher's scores as guidance for an update: the reverse KL of each turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    def part(self, rows: Sequence[int]) -> "Guidance":
        """Return what is said of some of the turns."""
        return replace(self, teacher_logprobs=self.teacher_logprobs[rows], counted=self.counted[rows])

    def kl(self, logprobs: Tensor) -> Tensor:
        """Return the mean KL over each turn's counted tokens, in nats per token, from the student's log-probs.

        Gradients flow where the log-probs have them.

        Args:
            logprobs: of the sampled tokens; R may be cut to the longest reply. [N, R]

        Returns: [N]
        """
        width, device = logprobs.shape[1], logprobs.device
        teacher, counted = self.teacher_logprobs[:, :width].to(device), self.counted[:, :width].to(device)
        return turn_kl(logprobs, teacher, counted, estimator=self.estimator)

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
