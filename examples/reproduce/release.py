"""What the paper's published code does otherwise than the paper says, as plug-ins, so that its cost can be measured.

    gtrturbo merge --method examples/reproduce/release.py:MERGE …
    gtrturbo distill --mode examples/reproduce/release.py:BLIND …
    gtrturbo ppo-step --kl-estimator examples/reproduce/release.py:BLIND_KL --kl-placement return …

Teacher and student are compared without the picture and one token off, each by its own half of the two. Rebuilt of the published
KL: no pixels, so that placeholders keep their generic embedding and positions are one-dimensional; the logits at a token are read
at that same token, the probability of repeating it, and not of the token at the logits before; temperature 1 whatever was sampled
at. Not rebuilt: the thought tokenised anew without its action, a KL of 100 for replies that do not parse, dropout in the student.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms.kl import kl_k1_clipped
from gtrturbo.algorithms.vocabulary import LogitsReader
from gtrturbo.merging.methods import MergeRule
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.models.scoring import pad, score_all
from gtrturbo.play.teachers import Mode, Question, Teacher
from gtrturbo.train.guidance import StudentView

SEEN = ("input_ids", "attention_mask")


def blind_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    tokens: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[np.ndarray]:
    """Return log p(y_t | prompt without picture, y_1 … y_t) of each reply token: that it comes once more.

    Args: see `score_all`.

    Returns: in nats, at temperature 1. N × [R] float32
    """
    # One token more is predicted: what is read there is the last token of the reply.
    end = policy.processor.tokenizer.eos_token_id
    longer = [np.append(response, end) for response in responses]
    blind = _without_pictures(prompts)

    def reader(rows: Sequence[int]) -> LogitsReader:
        before = torch.as_tensor(np.concatenate([[end, *responses[row]] for row in rows]), dtype=torch.long)

        def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
            ids = before[part].to(logits.device)
            return (logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1),)

        return read

    scoring = {"temperature": 1.0, "tokens": tokens, "reader": reader, "on_progress": on_progress}
    scored = score_all(policy, [blind[prompt] for prompt in prompts], longer, **scoring)
    return [row[1:].numpy() for row in scored.read[0]] if scored.read else []


def _without_pictures(prompts: Sequence[Prompt]) -> dict[Prompt, Prompt]:
    """Keep of each prompt its token ids, placeholders among them; prompts of the same ids become one."""
    by_ids: dict[bytes, Prompt] = {}
    return {
        prompt: by_ids.setdefault(prompt.ids.tobytes(), Prompt({name: prompt.tensors[name] for name in SEEN}))
        for prompt in dict.fromkeys(prompts)
    }


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
        local.policy, transcript.prompts, transcript.tokens.response_ids, tokens=local.tokens, on_progress=local.on_progress
    )


def blind_kl(student: StudentView) -> Tensor:
    """Give min(max(0, r), 10) of each reply token, r the student's blind log-prob less the teacher's. [N, R]"""
    transcript = student.transcript
    own = blind_logprobs(student.policy, transcript.prompts, transcript.tokens.response_ids, tokens=student.tokens)
    return kl_k1_clipped(pad(own, student.logprobs.shape[1]), student.teacher_logprobs)


BLIND = Mode(writes="scores", needs="policy", annotate=score_blind)
BLIND_KL = blind_kl
