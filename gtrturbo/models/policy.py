"""A policy: a vision-language model that generates replies and scores replies, both at one temperature over the same tokens.

Placeholder ids of pictures are excluded from sampling and from the log-prob's softmax alike: a sampled placeholder would
break the next forward pass, and excluding it on one side only would make the ratio of the two differ from 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from gtrturbo.algorithms.vocabulary import LogitsReader
from gtrturbo.models.context import most_new_tokens, require_context, require_ends
from gtrturbo.models.decoding import Sample, Sampler
from gtrturbo.models.end_of_turn import end_ids
from gtrturbo.models.families import Family, family_of, forbidden_ids
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.models.scorer import Scorer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.models.window_attention import attend_at_once


@dataclass(frozen=True)
class ScoredBatch:
    """What one forward pass says of B replies of up to R tokens: log-probs [B, R], values [B], [B, R] or None, mask [B, R].

    `read` is what a reader saw in the distributions of the M real tokens, in the order of the mask. [M, …] each
    """

    logprobs: Tensor
    values: Tensor | None
    mask: Tensor
    read: tuple[Tensor, ...] = ()


class Policy:
    """A model with its processor and, for PPO, a value head on the last prompt token.

    The model stays in eval mode, also in training: dropout would make the ratio of two equal policies differ from 1.
    """

    def __init__(self, model: Any, processor: Any, value_head: ValueHead | None = None, family: Family | None = None) -> None:
        self.model = model.eval()
        attend_at_once(model)
        self.processor = processor
        self.value_head = value_head
        family = family or family_of(model.config.model_type)
        self.renderer = Renderer(processor, family)
        self.forbidden = torch.tensor(sorted(forbidden_ids(model.config, family)), dtype=torch.long, device=model.device)
        self.scorer = Scorer(model, pad_id=self.pad_id, forbidden=self.forbidden)
        self.end_ids = end_ids(self.renderer.end_id, processor.tokenizer, model.generation_config)
        self.renderer.end_at(self.end_ids)
        self.sampler = Sampler(model, pad_id=self.pad_id, end_ids=self.end_ids, forbidden=self.forbidden)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pad_id(self) -> int:
        return self.processor.tokenizer.pad_token_id

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

        Raises:
            GtrTurboError: a prompt is longer than what the model reads, or a reply does not end in what is left of that.
        """
        config, name = self.model.config, self.model.name_or_path
        require_context(prompts, config, name)
        longest = most_new_tokens(prompts, config, asked=max_new_tokens)
        samples = self.sampler.sample(prompts, uniforms, temperature=temperature, max_new_tokens=longest)
        replies = [sample.response_ids for sample in samples]
        require_ends(prompts, replies, config, name, asked=max_new_tokens, end_ids=self.end_ids)
        return samples

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[np.ndarray],
        *,
        temperature: float,
        values: bool = True,
        token_values: bool = False,
        detach_value: bool = False,
        read: LogitsReader | None = None,
    ) -> ScoredBatch:
        """Score given replies, token by token, and value the states that they were given in.

        One forward pass serves both: the input of the output head at the last prompt token is the value head's input, and
        from there on its logits predict the reply. `values` asks for values where there is a value head, `token_values` for those
        before each reply token instead, 0 outside the replies; `detach_value` keeps their gradient out of the model. `read` is
        shown the whole distribution of each reply token.

        Raises:
            GtrTurboError: a prompt and its reply are longer than what the model reads.
        """
        require_context(prompts, self.model.config, self.model.name_or_path, replies=responses)
        scored = self.scorer.score(prompts, responses, temperature=temperature, read=read)
        states = scored.states if token_values else scored.states[:, 0]
        states = (states.detach() if detach_value else states).float()
        valued = self.value_head(states) if values and self.value_head else None
        if valued is not None and token_values:
            valued = valued.masked_fill(~scored.mask, 0.0)
        return ScoredBatch(logprobs=scored.logprobs, values=valued, mask=scored.mask, read=scored.read)

    def recompute_activations(self) -> None:
        """Keep one activation per layer and compute the others again in the backward pass (gradient checkpointing)."""
        base: Any = self.scorer.model
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable  # before 5.23
        enable({"use_reentrant": False})
        for module in base.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # The layer's own flag, which switches recomputing on; dropout below it stays off.
        self.scorer.shares_prompts = False  # A layer that is run twice would write its keys and values twice.

    def metrics(self) -> dict[str, float]:
        """Say nothing: what answers in this process is the checkpoint itself."""
        return {}

    def machine(self) -> dict[str, Any]:
        """Say where the model is and, on a GPU, the most memory that it took."""
        if self.device.type != "cuda":
            return {"device": str(self.device)}
        peak = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
        return {"device": torch.cuda.get_device_name(self.device), "peak_gpu_gib": peak}

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Name the model's trainable parameters, in a fixed order, without the value head's."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
