"""What the paper's published code does otherwise than its text says, as plug-ins, to see what it costs.

BLIND, a mode of distill: log-probs without the picture, one token off, at temperature 1. Only what compares the student in the
same way may read them.
"""

from collections.abc import Sequence

import numpy as np

from gtrturbo.models.blind import blind_logprobs
from gtrturbo.play.teachers import Mode, Question, Teacher


def score_blind(teacher: Teacher, questions: Sequence[Question]) -> list[np.ndarray]:
    """Give for each reply token log p(that it comes once more | prompt without picture, reply so far), in nats. N × [R]"""
    local = teacher.policy
    transcript = local.transcript()
    return blind_logprobs(
        local.policy, transcript.prompts, transcript.tokens.response_ids, tokens=local.tokens, told=local.on_progress
    )


BLIND = Mode(writes="scores", needs="policy", annotate=score_blind)
