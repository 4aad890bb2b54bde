"""A KL estimator of the user's own: log p − log q, bounded on both sides, so that no single token outweighs a thought."""

from torch import Tensor

from gtrturbo.train.guidance import StudentView

BOUND = 2.0  # nats


def bounded(student: StudentView) -> Tensor:
    """Give log p − log q of each token that the student sampled, within [−2, 2] nats. [N, R]"""
    return (student.logprobs - student.teacher_logprobs).clamp(-BOUND, BOUND)
