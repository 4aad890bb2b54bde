"""Score given replies: the hidden states that predict them, and log-probs from these, with gradients where they are wanted.

No work is done twice. A prompt that comes more than once in a batch is run once, picture and all, and its keys and values serve
every reply to it; the output head runs where a reply token is predicted and nowhere else; and where the vocabulary is large its
logits are made chunk by chunk and never kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from gtrturbo.algorithms.tokens import gather_logprobs, linear_logprobs
from gtrturbo.algorithms.vocabulary import LogitsReader, read_linear, read_logits
from gtrturbo.models.adapter_compute import adapter_precision
from gtrturbo.models.budget import LOGIT_CHUNK, logit_chunk
from gtrturbo.models.inputs import Positions, following, to_device
from gtrturbo.models.renderer import Prompt, append_responses, collate, stack_responses

# A shared prompt takes a second pass for the replies, so it must save at least this share of the tokens.
WORTH_SHARING = 0.2


@dataclass(frozen=True)
class _Predicted:
    """Input [B, R, H] and output [B, R, V] of the output head at the positions that predict the R reply tokens."""

    hidden: Tensor
    logits: Tensor

    def joined(self, rows: Tensor, following: "_Predicted") -> "_Predicted":
        return _Predicted(
            torch.cat([self.hidden[rows], following.hidden], dim=1), torch.cat([self.logits[rows], following.logits], dim=1)
        )


@dataclass(frozen=True)
class Reading:
    """What one pass says of B replies of up to R tokens.

    Attributes:
        logprobs: of the reply's tokens, in nats, 0 outside the replies. [B, R] float32
        states: the output head's input at the last prompt token and at each reply token but the last; outside the replies
            whatever it is. [B, R, H]
        mask: real reply tokens. [B, R] bool
        read: what a reader saw in the distributions of the M real reply tokens, in the order of the mask. [M, …] each
    """

    logprobs: Tensor
    states: Tensor
    mask: Tensor
    read: tuple[Tensor, ...] = ()


class Scorer:
    """Run a model on prompts with replies.

    Args:
        model: a transformers model, or a PEFT model around one.
        pad_id: token that pads.
        forbidden: tokens that are excluded from the softmax. [F]
    """

    def __init__(self, model: Any, *, pad_id: int, forbidden: Tensor) -> None:
        self.model: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.pad_id = pad_id
        self.forbidden = forbidden
        self.shares_prompts = True
        self._positions = Positions(self.model)
        self.precision = adapter_precision(model)
        self._ends_in_head: bool | None = None

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[np.ndarray], *, temperature: float, read: LogitsReader | None = None
    ) -> Reading:
        """Score B replies of up to R tokens; `read` is shown the whole distribution of each token."""
        ids, mask = (tensor.to(self.model.device) for tensor in stack_responses(responses, pad_id=self.pad_id))
        head = self.model.get_output_embeddings()
        sampling: dict[str, Any] = {"temperature": temperature, "forbidden": self.forbidden}
        if not self._chunks_logits(head, prompts[0]):
            predicted = self._run(prompts, responses, ids, mask)
            ids = ids.masked_fill(~mask, 0)
            rows = gather_logprobs(predicted.logits, ids, **sampling)
            seen = read_logits(predicted.logits[mask], read, **sampling) if read else ()
            return Reading(rows.masked_fill(~mask, 0.0), predicted.hidden, mask, seen)
        with _without_logits(head):
            hidden = self._run(prompts, responses, ids, mask).hidden
        flat = linear_logprobs(hidden[mask], head.weight, ids[mask], chunk=LOGIT_CHUNK, **sampling)
        seen = read_linear(hidden[mask], head.weight, read, **sampling) if read else ()
        return Reading(torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, flat), hidden, mask, seen)

    def _chunks_logits(self, head: Any, prompt: Prompt) -> bool:
        if type(head) is not nn.Linear or head.bias is not None or logit_chunk(head.out_features) is None:
            return False
        if self._ends_in_head is None:
            # Some models scale or cap what the head gives: their logits are not its output, and must come from the model.
            one = np.zeros(1, np.int32)
            ids, mask = (tensor.to(self.model.device) for tensor in stack_responses([one], pad_id=self.pad_id))
            with torch.no_grad():
                predicted = self._run([prompt], [one], ids, mask)
                self._ends_in_head = torch.equal(head(predicted.hidden).to(predicted.logits.dtype), predicted.logits)
        return self._ends_in_head

    def _run(self, prompts: Sequence[Prompt], responses: Sequence[np.ndarray], ids: Tensor, mask: Tensor) -> _Predicted:
        """Run the model up to the last token but one of each reply: the last one predicts nothing."""
        different, replies = list(dict.fromkeys(prompts)), ids.shape[1]
        cache = DynamicCache(config=self.model.config)
        if self._worth_sharing(prompts, different, replies, cache):
            return self._run_shared(prompts, different, ids, mask, cache)
        batch = collate(prompts, pad_id=self.pad_id)
        positions = self._positions.collated(prompts, batch["input_ids"].shape[1])
        batch, _ = append_responses(
            batch,
            [response[:-1] for response in responses],
            pad_id=self.pad_id,
            per_token=prompts[0].per_token,
            in_replies=prompts[0].in_replies,
        )
        if positions is not None and (after := following(positions, replies - 1)) is not None:
            batch["position_ids"] = torch.cat([positions, after], dim=-1)
        return self._forward(batch, positions=replies, use_cache=False)

    def _worth_sharing(self, prompts: Sequence[Prompt], different: Sequence[Prompt], replies: int, cache: DynamicCache) -> bool:
        longest = max(len(prompt.ids) for prompt in different)
        saved = (len(prompts) - len(different)) * longest / (len(prompts) * (longest + replies - 1))
        plain = all(type(layer) is DynamicLayer for layer in cache.layers)
        return self.shares_prompts and plain and saved >= WORTH_SHARING

    def _run_shared(
        self, prompts: Sequence[Prompt], different: Sequence[Prompt], ids: Tensor, mask: Tensor, cache: DynamicCache
    ) -> _Predicted:
        """Run each different prompt once, then all replies over its keys and values, through which gradients flow back."""
        batch = collate(different, pad_id=self.pad_id)
        positions = self._positions.collated(different, batch["input_ids"].shape[1])
        place = {prompt: index for index, prompt in enumerate(different)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=ids.device)
        first = self._forward(batch, positions=1, position_ids=positions, past_key_values=cache, use_cache=True)
        if ids.shape[1] == 1:
            return _Predicted(first.hidden[rows], first.logits[rows])
        cache.batch_select_indices(rows)
        seen = batch["attention_mask"].to(ids.device)[rows]
        tail = {"input_ids": ids[:, :-1], "attention_mask": torch.cat([seen, mask[:, :-1].to(seen.dtype)], dim=1)}
        after = following(positions, ids.shape[1] - 1)
        if after is not None:
            tail["position_ids"] = after.index_select(-2, rows)
        return first.joined(rows, self._forward(tail, positions=ids.shape[1] - 1, past_key_values=cache, use_cache=True))

    def _forward(self, batch: dict[str, Tensor], *, positions: int, **settings: Any) -> _Predicted:
        """Run the model; return what its output head takes and gives at the last positions."""
        seen: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        settings = {name: value for name, value in settings.items() if value is not None}
        try:
            with self.precision():
                logits = self.model(**to_device(self.model, batch), logits_to_keep=positions, **settings).logits
        finally:
            hook.remove()
        return _Predicted(seen[0][:, -positions:], logits[:, -positions:])


@contextmanager
def _without_logits(head: nn.Module) -> Iterator[None]:
    """Let the output head hand on its input for as long as the block runs."""
    head.forward = lambda hidden: hidden  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward
