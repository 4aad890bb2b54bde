"""A policy: a vision-language model that generates replies and scores replies, both at one temperature over the same tokens.

Placeholder ids of pictures are excluded from sampling and from the log-prob's softmax alike: a sampled placeholder would
break the next forward pass, and excluding it on one side only would make the ratio of the two differ from 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from gtrturbo.algorithms.tokens import gather_logprobs
from gtrturbo.models.chat import Prompt, Renderer, append_responses, collate
from gtrturbo.models.value_head import ValueHead

FORBIDDEN = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass(frozen=True)
class Sample:
    """One sampled reply: ids [R], end-of-turn token included, and their log-probs in nats at the sampling temperature [R]."""

    response_ids: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True)
class Scored:
    """What one forward pass says of B replies of up to R tokens: log-probs [B, R], values [B] or None, mask [B, R]."""

    logprobs: Tensor
    values: Tensor | None
    mask: Tensor


class Policy:
    """A model with its processor and, for PPO, a value head on the last prompt token.

    The model stays in eval mode, also in training: dropout would make the ratio of two equal policies differ from 1.
    """

    def __init__(self, model: Any, processor: Any, value_head: ValueHead | None = None) -> None:
        self.model = model.eval()
        self.processor = processor
        self.value_head = value_head
        self.renderer = Renderer(processor)
        self.forbidden = torch.tensor(sorted(forbidden_ids(model.config)), dtype=torch.long, device=model.device)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pad_id(self) -> int:
        return self.processor.tokenizer.pad_token_id

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], uniforms: np.ndarray | None, *, temperature: float, max_new_tokens: int
    ) -> list[Sample]:
        """Sample one reply per prompt.

        Args:
            prompts: B rendered prompts.
            uniforms: numbers in [0, 1) that decide each token, so that a reply depends on its own numbers and on nothing
                else in the batch; None takes the most likely token. [B, max_new_tokens]
            temperature: of the softmax that is sampled from; the log-probs are at the same one.
            max_new_tokens: longest reply.
        """
        batch = self._to_device(collate(prompts, pad_id=self.pad_id))
        chooser = _Chooser(self.forbidden, uniforms, temperature=temperature)
        prompt_length = batch["input_ids"].shape[1]
        with self._plain_generation(max_new_tokens):
            sequences = self.model.generate(**batch, logits_processor=LogitsProcessorList([chooser]))
        responses = sequences[:, prompt_length:].cpu().numpy()
        logprobs = torch.stack(chooser.logprobs, dim=1).cpu().numpy()
        return [self._cut(ids, lps) for ids, lps in zip(responses, logprobs, strict=True)]

    @contextmanager
    def _plain_generation(self, max_new_tokens: int) -> Iterator[None]:
        # A model's own generation config may penalise repetition, which would sample from another distribution than is scored.
        owner: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        own = owner.generation_config
        owner.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.pad_id,
            eos_token_id=self.processor.tokenizer.eos_token_id,
        )
        try:
            yield
        finally:
            owner.generation_config = own

    def _cut(self, ids: np.ndarray, logprobs: np.ndarray) -> Sample:
        ends = np.flatnonzero(ids == self.processor.tokenizer.eos_token_id)
        length = int(ends[0]) + 1 if len(ends) else len(ids)
        return Sample(response_ids=ids[:length].astype(np.int32), logprobs=logprobs[:length].astype(np.float32))

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[np.ndarray],
        *,
        temperature: float,
        values: bool = True,
        detach_value: bool = False,
    ) -> Scored:
        """Score given replies, token by token, and value the states that they were given in.

        One forward pass serves both: the input of the output head at the last prompt token is the value head's input, and
        from there on its logits predict the reply. `values` asks for values where there is a value head; `detach_value` keeps
        their gradient out of the model.
        """
        batch, mask = append_responses(collate(prompts, pad_id=self.pad_id), responses, pad_id=self.pad_id)
        batch, mask = self._to_device(batch), mask.to(self.device)
        replies = mask.shape[1]
        logits, hidden = self._forward(batch, positions=replies + 1)
        ids = batch["input_ids"][:, -replies:]
        # logits[:, t] predicts reply token t: position -1 - R is the last prompt token.
        logprobs = gather_logprobs(
            logits[:, :-1], ids.masked_fill(~mask, 0), temperature=temperature, forbidden=self.forbidden
        ).masked_fill(~mask, 0.0)
        state = hidden[:, 0].float()
        valued = self.value_head(state.detach() if detach_value else state) if values and self.value_head else None
        return Scored(logprobs=logprobs, values=valued, mask=mask)

    def _forward(self, batch: dict[str, Tensor], *, positions: int) -> tuple[Tensor, Tensor]:
        """Run the model; return logits [B, positions, V] and the output head's input [B, positions, H] of the last positions."""
        seen: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.model(**batch, logits_to_keep=positions, use_cache=False).logits
        finally:
            hook.remove()
        return logits[:, -positions:], seen[0][:, -positions:]

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {name: value.to(self.device) for name, value in batch.items()}
        dtype = self.model.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()}

    def machine(self) -> dict[str, Any]:
        """Say where the model is and, on a GPU, the most memory that it took."""
        if self.device.type != "cuda":
            return {"device": str(self.device)}
        peak = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
        return {"device": torch.cuda.get_device_name(self.device), "peak_gpu_gib": peak}

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Name the model's trainable parameters, in a fixed order, without the value head's."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


class _Chooser(LogitsProcessor):
    """Choose each next token from its own uniform number and leave it the only finite logit."""

    def __init__(self, forbidden: Tensor, uniforms: np.ndarray | None, *, temperature: float) -> None:
        self.forbidden = forbidden
        self.uniforms = None if uniforms is None else torch.from_numpy(uniforms).to(forbidden.device)
        self.temperature = temperature
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See the next token's logits [B, V]; record the chosen one's log-prob and return logits with it alone."""
        allowed = scores.float().index_fill(1, self.forbidden, -torch.inf) / self.temperature
        logprobs = torch.log_softmax(allowed, dim=-1)
        chosen = logprobs.argmax(dim=-1) if self.uniforms is None else self._draw(logprobs)
        self.logprobs.append(logprobs.gather(1, chosen[:, None])[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def _draw(self, logprobs: Tensor) -> Tensor:
        assert self.uniforms is not None
        step = len(self.logprobs)
        # Float64 keeps the cumulative sum strictly increasing over every token that has any probability.
        cumulative = logprobs.double().exp().cumsum(dim=-1)
        total = cumulative[:, -1:]
        target = torch.minimum(self.uniforms[:, step : step + 1] * total, total.nextafter(torch.zeros_like(total)))
        return torch.searchsorted(cumulative, target, right=True)[:, 0]


def forbidden_ids(config: Any) -> set[int]:
    """Name the ids that stand for pictures and must never be sampled."""
    return {identity for name in FORBIDDEN if isinstance(identity := getattr(config, name, None), int)}
