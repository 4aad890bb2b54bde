"""Which tokens of a reply are thought and which are action, and what their log-probabilities add up to."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gtrturbo.algorithms.shapes import require_same_shape


@dataclass(frozen=True)
class TokenMasks:
    """One flag per token of a reply; every token is either thought or action.

    thought: lies wholly before the action.
    action: overlaps or follows the start of the action: key, value, closing brace, end of turn.
    action_value: overlaps the action's value; a subset of `action`.
    """

    thought: list[bool]
    action: list[bool]
    action_value: list[bool]


def span_masks(
    offsets: list[tuple[int, int]],
    *,
    action_start: int | None,
    action_span: tuple[int, int] | None,
    thought_span: tuple[int, int] | None = None,
) -> TokenMasks:
    """Split the tokens of a reply into thought and action by their character offsets.

    A token that straddles the boundary is action, so that no thought loss or penalty touches an action character.
    Searching for the tokens of the isolated text `"action":` instead fails wherever the tokenizer merges a
    neighbouring character into one of them.

    Args:
        offsets: [start, end) of each token in the reply's text, in characters. A token without text, such as the
            end of turn, is (n, n) with n the position at which it stands, not (0, 0).
        action_start: First character of the action part (the quote of its key); None if the reply did not parse,
            and then every token is thought.
        action_span: [start, end) of the action's value; None if there is none.
        thought_span: [start, end) of the thought, where it does not end at `action_start`: then what lies wholly inside it is
            thought, and all else is action.

    Raises: ValueError: Offsets run backwards, the value does not lie in the action part, or the thought overlaps it.

    Source: RL4VLM (arXiv 2405.10292), section 4.3, the split of thought and action tokens.
    """
    _check_offsets(offsets)
    if action_span is not None and (action_start is None or not action_start <= action_span[0] <= action_span[1]):
        raise ValueError(f"action_span {action_span} does not lie in the action, which starts at {action_start}.")
    value_start, value_end = action_span or (0, 0)
    if thought_span is None:
        action = [action_start is not None and (end > action_start or start >= action_start) for start, end in offsets]
    else:
        if thought_span[0] < value_end and thought_span[1] > value_start:
            raise ValueError(f"thought_span {thought_span} overlaps the action's value, {action_span}.")
        # A token without text, the end of turn among them, belongs to no thought.
        action = [not (thought_span[0] <= start < end <= thought_span[1]) for start, end in offsets]
    return TokenMasks(
        thought=[not flag for flag in action],
        action=action,
        action_value=[start < value_end and end > value_start for start, end in offsets],
    )


def gather_logprobs(logits: Tensor, ids: Tensor, *, temperature: float, forbidden: Tensor | None = None) -> Tensor:
    """Return the log-probability of each sampled token under the distribution that it was sampled from.

    log p(y) = z_y / T − log Σ_{v not forbidden} exp(z_v / T), in float32 whatever the dtype of the logits: a sum of
    bfloat16 log-probabilities is coarser than PPO's clip range.

    Args:
        logits: z, where logits[:, t] is the prediction *of* ids[:, t], hence already shifted. [B, R, V]
        ids: y, sampled token ids; padding may be any permitted id. [B, R]
        temperature: T of the sampler, above 0.
        forbidden: Token ids that the sampler excludes (image placeholders). [F]

    Returns: Log-probabilities in nats. [B, R] float32

    Raises: ValueError: Shapes do not match, temperature is not positive, or a sampled id is forbidden.
    """
    if logits.shape[:-1] != ids.shape:
        raise ValueError(f"shapes differ: logits {list(logits.shape)} for ids {list(ids.shape)}.")
    _check_sampling(ids, temperature, forbidden)
    scaled = logits.float() / temperature
    if forbidden is not None:
        scaled.index_fill_(-1, forbidden, -torch.inf)  # in place: `scaled` is a fresh [B, R, V]
    return scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def _check_sampling(ids: Tensor, temperature: float, forbidden: Tensor | None) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    if forbidden is not None and torch.isin(ids, forbidden).any():
        raise ValueError(f"sampled id {int(ids[torch.isin(ids, forbidden)][0])} is forbidden in sampling.")


def linear_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor, *, temperature: float, forbidden: Tensor, chunk: int) -> Tensor:
    """Return what `gather_logprobs` gives for logits hidden · weightᵀ, without ever holding more than a chunk of them.

    The backward pass makes each chunk again: dlog p(y) / dz = (onehot(y) − softmax(z / T)) / T. Log-probs are float32 whatever
    the dtype of the states; `torch.nn.functional.linear_cross_entropy` rounds them to that dtype.

    Args:
        hidden: states that predict one token each. [N, H]
        weight: of the output head. [V, H]
        ids: y, sampled token ids. [N]
        temperature: T of the sampler, above 0.
        forbidden: Token ids that the sampler excludes. [F]
        chunk: N at a time.

    Returns: Log-probabilities in nats. [N] float32

    Raises: ValueError: Shapes do not match, temperature is not positive, or a sampled id is forbidden.
    """
    if hidden.shape[:-1] != ids.shape or hidden.shape[-1] != weight.shape[-1]:
        raise ValueError(f"shapes differ: hidden {list(hidden.shape)}, weight {list(weight.shape)}, ids {list(ids.shape)}.")
    _check_sampling(ids, temperature, forbidden)
    result: Tensor = _LinearLogprobs.apply(hidden, weight, ids, temperature, forbidden, chunk)  # type: ignore[assignment]
    return result


class _LinearLogprobs(torch.autograd.Function):
    """log p(y) = z_y − logsumexp(z) with z = hidden · weightᵀ / T, a chunk of tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, forbidden: Tensor, chunk: int
    ) -> Tensor:
        chosen, normalizer = (torch.empty(len(ids), dtype=torch.float32, device=ids.device) for _ in range(2))
        for part in _chunks(len(ids), chunk):
            logits = _scaled_logits(hidden[part], weight, temperature, forbidden)
            chosen[part] = logits.gather(-1, ids[part, None])[:, 0]
            normalizer[part] = logits.logsumexp(-1)
        ctx.save_for_backward(hidden, weight, ids, normalizer, forbidden)
        ctx.temperature, ctx.chunk = temperature, chunk
        return chosen - normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, normalizer, forbidden = ctx.saved_tensors
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        scale = (gradients[0] / ctx.temperature)[:, None]
        for part in _chunks(len(ids), ctx.chunk):
            logits = _scaled_logits(hidden[part], weight, ctx.temperature, forbidden)
            slopes = logits.sub_(normalizer[part, None]).exp_().mul_(-scale[part])
            slopes = slopes.scatter_add_(1, ids[part, None], scale[part]).to(hidden.dtype)
            if for_hidden is not None:
                for_hidden[part] = slopes @ weight
            if for_weight is not None:
                for_weight += slopes.T @ hidden[part]
        return for_hidden, None if for_weight is None else for_weight.to(weight.dtype), None, None, None, None


def _scaled_logits(hidden: Tensor, weight: Tensor, temperature: float, forbidden: Tensor) -> Tensor:
    return (hidden @ weight.T).float().div_(temperature).index_fill_(-1, forbidden, -torch.inf)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def weighted_turn_logprobs(logprobs: Tensor, thought_mask: Tensor, action_mask: Tensor, *, thought_coef: float) -> Tensor:
    """Return the log-probability of each turn, with its thoughts weighted down.

    log π(a | o) = λ Σ_{thought} log p + Σ_{action} log p

    Args:
        logprobs: log p of the sampled tokens, in nats. [B, R]
        thought_mask, action_mask: Tokens of the two parts; tokens in neither (padding) do not count. [B, R] bool
        thought_coef: λ, in [0, 1].

    Returns: One log-probability per turn, in nats. [B]

    Raises: ValueError: Shapes differ, or a token is in both masks.

    Source: RL4VLM (arXiv 2405.10292), section 4.3, with its λ.
    """
    require_same_shape(logprobs=logprobs, thought_mask=thought_mask, action_mask=action_mask)
    if (thought_mask & action_mask).any():
        raise ValueError("a token is both thought and action.")
    thought, action = (logprobs.where(mask, 0.0).sum(-1) for mask in (thought_mask, action_mask))
    return thought_coef * thought + action


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each row over the masked entries, 0 where a row has none.

    Args:
        x: Values; those outside the mask may be anything, nan included. [B, R]
        mask: Entries that count. [B, R] bool

    Returns: One mean per row. [B]

    Raises: ValueError: Shapes differ.
    """
    require_same_shape(x=x, mask=mask)
    return x.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def _check_offsets(offsets: list[tuple[int, int]]) -> None:
    starts = [start for start, _ in offsets]
    # Tokenizers report specials as (0, 0) unless told where they stand; unchecked, the end of turn would be thought.
    if any(start > end for start, end in offsets) or starts != sorted(starts):
        raise ValueError(f"offsets run backwards: {offsets}.")
