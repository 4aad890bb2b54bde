"""A teacher's scores as guidance for an update: the reverse KL of each turn."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from gtrturbo.algorithms.kl import ESTIMATORS, Estimator, kl_k1
from gtrturbo.algorithms.tokens import masked_mean
from gtrturbo.algorithms.vocabulary import LogitsReader
from gtrturbo.config.choices import KlTokens
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy
from gtrturbo.models.scoring import pad
from gtrturbo.play.recording import Transcript
from gtrturbo.plugins import calling, find
from gtrturbo.store.tensors import TopLogprobs
from gtrturbo.store.turns import read_scores

ESTIMATOR_SEAM = "KL estimator"


@dataclass(frozen=True)
class StudentView:
    """What an estimator of the user's own may look at: N turns, before the first step.

    It is given copies, but for the policy and the prompts.

    Attributes:
        policy: the student, which is to be trained; give it as many tokens per forward pass as `tokens` says.
        transcript: prompts, token ids, masks and rows of the turns.
        logprobs: the student's, of the tokens that it sampled, in nats at `temperature`; 0 after a reply. [N, R]
        teacher_logprobs: as the scores hold them, 0 after a reply. [N, R]
        counted: tokens whose KL counts. [N, R] bool
        temperature: that the turns were sampled at.
        tokens: per forward pass, see `score_all`.
    """

    policy: Policy
    transcript: Transcript
    logprobs: Tensor
    teacher_logprobs: Tensor
    counted: Tensor
    temperature: float
    tokens: int


# Gives the KL of each reply token in nats, [N, R]; what it gives outside `counted` is not read.
OwnEstimator = Callable[[StudentView], Tensor]


@dataclass(frozen=True)
class Guidance:
    """What the teacher says of the replies of N turns.

    Attributes:
        teacher_logprobs: of the sampled tokens, in nats. [N, R]
        counted: tokens whose KL counts. [N, R] bool
        estimator: of the KL per token.
        top: the teacher's most likely tokens, where the KL is that of whole distributions.
    """

    teacher_logprobs: Tensor
    counted: Tensor
    estimator: Estimator | OwnEstimator
    top: TopLogprobs | None = None

    def part(self, rows: Sequence[int]) -> "Guidance":
        """Return what is said of some of the turns, but for their most likely tokens."""
        return replace(self, teacher_logprobs=self.teacher_logprobs[rows], counted=self.counted[rows], top=None)

    def reader(self, rows: Sequence[int]) -> LogitsReader | None:
        """Return what makes the KL per token of some turns out of the student's distributions, if those are needed."""
        if self.top is None or not isinstance(self.estimator, Estimator):
            return None
        per_token = self.estimator.per_token
        columns = (self.top.ids, self.top.logprobs, self.top.rest)
        ids, logprobs, rest = (torch.cat([torch.as_tensor(column[row]) for row in rows]) for column in columns)

        def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
            device = logits.device
            teacher = {"teacher_logprobs": logprobs[part].to(device), "teacher_rest": rest[part].to(device)}
            return (per_token(logits, ids=ids[part].to(device).long(), **teacher),)

        return read

    def kl(self, logprobs: Tensor, read: Tensor | None = None) -> Tensor:
        """Return the mean KL over each turn's counted tokens, in nats per token.

        KL(th) = 1/L Σ_l k(th_l | th_{<l}), 0 for a turn without such tokens; gradients flow where the arguments have them.

        Args:
            logprobs: the student's, of the sampled tokens; R may be cut to the longest reply. [N, R]
            read: the KL per token that the reader made, where the estimator is of whole distributions. [N, R]

        Returns: [N]

        Source: GTR-Turbo (arXiv 2512.13043), KL guidance.
        """
        width, device = logprobs.shape[1], logprobs.device
        counted = self.counted[:, :width].to(device)
        if not isinstance(self.estimator, Estimator):
            raise ValueError("an estimator of the user's own is asked once, before the first step.")
        if not self.estimator.distributions:
            return masked_mean(self.estimator.per_token(logprobs, self.teacher_logprobs[:, :width].to(device)), counted)
        if read is None:
            raise ValueError("the KL of whole distributions is made by the reader.")
        return masked_mean(read, counted)

    def measure(self, view: StudentView, read: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        """Return each turn's KL before the first step, and what is told of it. [N]

        Beside it stands the mean of k1 over all counted tokens, in nats, which may be negative; not where an estimator of the
        user's own may compare other log-probs than these.
        """
        if not isinstance(self.estimator, Estimator):
            kl = masked_mean(self.estimator(view), self.counted)
            return kl, {"kl_mean": kl.mean().item()}
        kl = self.kl(view.logprobs, read)
        raw = kl_k1(view.logprobs, self.teacher_logprobs)[self.counted].mean().item()
        return kl, {"kl_mean": kl.mean().item(), "kl_k1_mean": raw}


def find_estimator(name: str) -> Estimator | OwnEstimator:
    """Return what is built in under a name, or the user's own, whose answer is checked.

    Raises:
        GtrTurboError: there is none, or it is neither an Estimator nor a function.
    """
    found = find(ESTIMATOR_SEAM, name, ESTIMATORS)
    if isinstance(found, Estimator):
        return found
    if not callable(found):
        raise GtrTurboError(
            f"{name} is a {type(found).__name__}, no {ESTIMATOR_SEAM}.",
            "give a function from StudentView to the KL of each token, [N, R].",
        )
    return lambda view: _checked(name, cast(OwnEstimator, found), view)


def _checked(name: str, estimator: OwnEstimator, view: StudentView) -> Tensor:
    with calling(ESTIMATOR_SEAM, name), torch.no_grad():
        kl = estimator(_copied(view))
    if not isinstance(kl, Tensor) or kl.shape != view.logprobs.shape:
        found = list(kl.shape) if isinstance(kl, Tensor) else type(kl).__name__
        raise GtrTurboError(f"{ESTIMATOR_SEAM} {name} must give a tensor of shape {list(view.logprobs.shape)}, got {found}.")
    bad = ~kl.isfinite() & view.counted
    if bad.any():
        row, token = bad.nonzero()[0].tolist()
        raise GtrTurboError(
            f"{ESTIMATOR_SEAM} {name} gives {kl[row, token].item()} at turn {row}, token {token}.", "nothing was written."
        )
    return kl.float()


def _copied(view: StudentView) -> StudentView:
    tensors = {name: getattr(view, name).clone() for name in ("logprobs", "teacher_logprobs", "counted")}
    said = view.transcript  # Its prompts are told apart by identity.
    transcript = replace(said, turns=deepcopy(said.turns), tokens=deepcopy(said.tokens))
    return replace(view, transcript=transcript, **tensors)


def read_guidance(
    scores: Path,
    *,
    lengths: Sequence[int],
    thought: Tensor,
    action: Tensor,
    tokens: KlTokens,
    estimator: Estimator | OwnEstimator,
    vocabulary: int,
) -> Guidance:
    """Read scores.

    Args:
        scores: of N turns.
        lengths: tokens of each reply. N
        thought, action: masks of the turns' tokens. [N, R] bool
        tokens: which of them count: those of the thought, as in the paper, or of the whole reply, thought and action alike.
        estimator: of the KL per token; one of distributions needs the teacher's most likely tokens.
        vocabulary: token ids that the student has.

    Raises:
        GtrTurboError: they are of other replies or no scores, or the teacher has more tokens than the student.
    """
    logprobs, top = read_scores(scores, lengths, top=isinstance(estimator, Estimator) and estimator.distributions)
    teacher = pad(logprobs, thought.shape[1])
    if top and any(ids.size and ids.max() >= vocabulary for ids in top.ids):
        raise GtrTurboError(
            f"the teacher's most likely tokens in {scores} are not all among the student's {vocabulary}.",
            "distill again with a smaller --top-logprobs.",
        )
    return Guidance(teacher, thought if tokens == "thought" else thought | action, estimator, top)
