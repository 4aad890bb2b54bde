"""What the paper's published code does otherwise than the paper says, as plug-ins, so that its cost can be measured.

gtrturbo merge --method examples/reproduce/release.py:MERGE …
gtrturbo distill --mode examples/reproduce/release.py:BLIND …
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gtrturbo.merging.methods import MergeRule
from gtrturbo.models.blind import blind_logprobs
from gtrturbo.play.teachers import Mode, Question, Teacher

CHECKPOINTS = 4


def first_quarter(task_vectors: Tensor, weights: Tensor) -> Tensor:
    """Return a quarter of the first checkpoint's task vector, which the engine has trimmed to --density.

    The published code calls PEFT's TIES with the four checkpoints of an update, one per PPO epoch, at weights w = 1/4. PEFT
    multiplies each A and each B of their adapters by √w, trims them, and averages over the checkpoints that agree, instead of
    dividing by weights that sum to 1. The four are nearly equal, so B·A comes out as w times their mean product. The merge of
    every later update returns at once, because there is an adapter of that name already: the teacher stays the first one.
    Here an update gives one checkpoint, which stands for its four.
    """
    return task_vectors[0] / CHECKPOINTS


MERGE = MergeRule(first_quarter, trims=True)


def score_blind(teacher: Teacher, questions: Sequence[Question]) -> list[np.ndarray]:
    """Give for each reply token log p(that it comes once more | prompt without picture, reply so far), in nats. N × [R]"""
    local = teacher.policy
    transcript = local.transcript()
    return blind_logprobs(
        local.policy, transcript.prompts, transcript.tokens.response_ids, tokens=local.tokens, told=local.on_progress
    )


BLIND = Mode(writes="scores", needs="policy", annotate=score_blind)
