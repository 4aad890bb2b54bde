"""Log-probs as the paper's release compares them: without the picture, one token off. Only to measure what that costs.

Student and teacher are compared alike, so `distill --compat release` and `ppo-step` on its scores both call this.
Rebuilt of the release's KL, by the numbers of its defects: no pixels, so that placeholders keep their generic embedding and
positions are one-dimensional (D15); the logits at a token are read at that same token, the probability of repeating it, and not
of the token at the logits before (D16); temperature 1 whatever was sampled at (of D17).
Not rebuilt: the thought tokenised anew without its action (the rest of D17), a KL of 100 for replies that do not parse (D19),
dropout in the student (D20).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gtrturbo.algorithms.vocabulary import Reader
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.models.scoring import score_all

SEEN = ("input_ids", "attention_mask")


def blind_logprobs(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    *,
    tokens: int,
    told: Callable[[int], None] = lambda _: None,
) -> list[np.ndarray]:
    """Return log p(y_t | prompt without picture, y_1 … y_t) of each reply token: that it comes once more.

    Args: see `score_all`.

    Returns: in nats, at temperature 1. N × [R] float32
    """
    # One token more is predicted: what is read there is the last token of the reply.
    end = policy.processor.tokenizer.eos_token_id
    longer = [np.append(response, end) for response in responses]
    blind = _without_pictures(prompts)

    def reader(rows: Sequence[int]) -> Reader:
        before = torch.as_tensor(np.concatenate([[end, *responses[row]] for row in rows]), dtype=torch.long)

        def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
            ids = before[part].to(logits.device)
            return (logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1),)

        return read

    scored = score_all(
        policy, [blind[prompt] for prompt in prompts], longer, temperature=1.0, tokens=tokens, reader=reader, told=told
    )
    return [row[1:].numpy() for row in scored.read[0]] if scored.read else []


def _without_pictures(prompts: Sequence[Prompt]) -> dict[Prompt, Prompt]:
    """Keep of each prompt its token ids, placeholders among them; prompts of the same ids become one."""
    by_ids: dict[bytes, Prompt] = {}
    return {
        prompt: by_ids.setdefault(prompt.ids.tobytes(), Prompt({name: prompt.tensors[name] for name in SEEN}))
        for prompt in dict.fromkeys(prompts)
    }
