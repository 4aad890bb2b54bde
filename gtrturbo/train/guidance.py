"""A teacher's scores as guidance for an update: the reverse KL of each turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gtrturbo.algorithms.kl import Estimator, kl_k1, turn_kl
from gtrturbo.algorithms.tokens import masked_mean
from gtrturbo.algorithms.vocabulary import Reader, top_reverse_kl
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.scoring import pad
from gtrturbo.store.tensors import TopLogprobs, load_scores, load_top_logprobs

KlTokens = Literal["thought", "reply"]
FULL = "full"


@dataclass(frozen=True)
class Guidance:
    """What the teacher says of the replies of N turns.

    Attributes:
        teacher_logprobs: of the sampled tokens, in nats. [N, R]
        counted: tokens whose KL counts. [N, R] bool
        estimator: of the KL per token, where it is one of the sampled token.
        top: the teacher's most likely tokens, where the KL is that of whole distributions.
        blind: the teacher's log-probs are `blind_logprobs`, and the student's must be too.
    """

    teacher_logprobs: Tensor
    counted: Tensor
    estimator: Estimator | Literal["full"]
    top: TopLogprobs | None = None
    blind: bool = False

    def part(self, rows: Sequence[int]) -> "Guidance":
        """Return what is said of some of the turns, but for their most likely tokens."""
        return replace(self, teacher_logprobs=self.teacher_logprobs[rows], counted=self.counted[rows], top=None)

    def reader(self, rows: Sequence[int]) -> Reader | None:
        """Return what makes the KL per token of some turns out of the student's distributions, if those are needed."""
        if self.top is None:
            return None
        columns = (self.top.ids, self.top.logprobs, self.top.rest)
        ids, logprobs, rest = (torch.cat([torch.as_tensor(column[row]) for row in rows]) for column in columns)

        def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
            device = logits.device
            told = {"teacher_logprobs": logprobs[part].to(device), "teacher_rest": rest[part].to(device)}
            return (top_reverse_kl(logits, ids=ids[part].to(device).long(), **told),)

        return read

    def kl(self, logprobs: Tensor, read: Tensor | None = None) -> Tensor:
        """Return the mean KL over each turn's counted tokens, in nats per token.

        Gradients flow where the arguments have them.

        Args:
            logprobs: the student's, made as the teacher's are; R may be cut to the longest reply. [N, R]
            read: the KL per token that the reader made, where the estimator is full. [N, R]

        Returns: [N]
        """
        width, device = logprobs.shape[1], logprobs.device
        counted = self.counted[:, :width].to(device)
        if self.estimator == FULL:
            if read is None:
                raise ValueError("the KL of whole distributions is made by the reader.")
            return masked_mean(read, counted)
        return turn_kl(logprobs, self.teacher_logprobs[:, :width].to(device), counted, estimator=self.estimator)

    def raw(self, logprobs: Tensor) -> float:
        """Return the mean of k1 over all counted tokens, in nats; it may be negative."""
        return kl_k1(logprobs, self.teacher_logprobs)[self.counted].mean().item()


def read_guidance(
    file: Path,
    *,
    thought: Tensor,
    action: Tensor,
    tokens: KlTokens,
    estimator: Estimator | Literal["full"],
    vocabulary: int,
    blind: bool = False,
) -> Guidance:
    """Read scores.

    Args:
        file: the scores of N turns.
        thought, action: masks of the turns' tokens. [N, R] bool
        tokens: which of them count: those of the thought, as in the paper, or of the whole reply, thought and action alike.
        estimator: of the KL per token; full is over the vocabulary, and needs the teacher's most likely tokens.
        vocabulary: token ids that the student has.
        blind: the scores are `blind_logprobs`.

    Raises:
        GtrTurboError: the teacher has more tokens than the student.
    """
    teacher = pad(load_scores(file), thought.shape[1])
    top = load_top_logprobs(file) if estimator == FULL else None
    if top and any(ids.size and ids.max() >= vocabulary for ids in top.ids):
        raise GtrTurboError(
            f"the teacher's most likely tokens in {file.parent} are not all among the student's {vocabulary}.",
            "distill again with a smaller --top-logprobs.",
        )
    return Guidance(teacher, thought if tokens == "thought" else thought | action, estimator, top, blind)
