"""Sample replies token by token: one row per reply over one cache, each row drawing from numbers of its own.

Against transformers' `generate`: the log-probs that training needs fall out of the sampling itself, a prompt that comes more
than once is prefilled once, rows that have ended leave the batch, and there is no bookkeeping between two forward passes.

On a CPU a row has the same bits whatever rows are beside it, see `MULTIPLE` and `FEWEST_ROWS`; elsewhere it has them up to
the rounding of products of another shape.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer

from gtrturbo.models.adapter_compute import adapter_precision
from gtrturbo.models.inputs import Positions, to_device
from gtrturbo.models.overflow import require_finite
from gtrturbo.models.renderer import Prompt, collate, padded_length
from gtrturbo.models.token_graph import SLOTS, Record, TokenGraph, capture

# On a CPU in float32 a row of a matrix product was measured to have the same bits in every product of at least four rows, and on
# processors with AVX512-FP16 of at least sixteen; attention to have them at one length of the sequence, padding included. So the
# rows of one batch have one length, which is their own: the next multiple above it. It is never reached, as without any padding
# another kernel computes. A picture has four rows or more in the last layer of a vision tower.
MULTIPLE = 32
FEWEST_ROWS = 16
FEWEST_PROMPTS = 4
# A row that has ended costs its share of every step until it leaves, and leaving costs a copy of the cache.
ENDED_SHARE = 0.25


@dataclass(frozen=True)
class Sample:
    """One sampled reply: ids [R], end-of-turn token included, and their log-probs in nats at the sampling temperature [R]."""

    response_ids: np.ndarray
    logprobs: np.ndarray


@dataclass
class _Rows:
    """B rows between two forward passes. `mask` is None where no row is padded, `positions` where the model takes none."""

    cache: DynamicCache
    mask: Tensor | None  # [B, P + R], true for all tokens but padding, also for those to come
    positions: Tensor | None  # [..., B, P] in the first pass, then [..., B, 1], of the newest token
    length: int  # tokens in the cache after the coming pass
    logits: Tensor  # [B, V], of each row's next token
    graph: TokenGraph | None = None  # what makes the steps, on a GPU; rows do not leave it, as they cost next to nothing there

    def keep(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        self.cache.batch_select_indices(rows)
        self.logits = self.logits[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.positions = None if self.positions is None else self.positions.index_select(-2, rows)


class Sampler:
    """Sample replies from a model.

    Args:
        model: a transformers model, or a PEFT model around one.
        pad_id: token that pads a prompt.
        end_ids: tokens that end a reply, each of them.
        forbidden: tokens that are never sampled. [F]
    """

    def __init__(self, model: Any, *, pad_id: int, end_ids: Collection[int], forbidden: Tensor) -> None:
        self.model: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.pad_id = pad_id
        self.end_ids = sorted(end_ids)
        self.forbidden = forbidden
        text = self.model.config.get_text_config()
        self._ready_masks = text._attn_implementation == "sdpa"
        exact = self.model.device.type == "cpu"
        self.multiple, self.fewest_rows = (MULTIPLE, FEWEST_ROWS) if exact else (None, 1)
        # Most models prepare their inputs as the mixin does, which this module does without its cost.
        mixin: Any = GenerationMixin
        self._prepares = type(self.model).prepare_inputs_for_generation is not mixin.prepare_inputs_for_generation
        self._positions = Positions(self.model)
        self.precision = adapter_precision(model)
        # How token steps are recorded; None makes each from Python, as on a CPU, where that costs little.
        self.record: Record | None = capture if self.model.device.type == "cuda" else None
        self._graph: TokenGraph | None = None

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Prompt], uniforms: np.ndarray | None, *, temperature: float, max_new_tokens: int
    ) -> list[Sample]:
        """Sample one reply per prompt; see `Policy.generate`."""
        by_length: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            by_length.setdefault(padded_length(prompt, self.multiple) if self.multiple else 0, []).append(row)
        samples: dict[int, Sample] = {}
        for rows in by_length.values():
            numbers = None if uniforms is None else uniforms[rows]
            chosen = [prompts[row] for row in rows]
            samples |= zip(rows, self._sample(chosen, numbers, temperature, max_new_tokens), strict=True)
        return [samples[row] for row in range(len(prompts))]

    def _sample(
        self, prompts: Sequence[Prompt], uniforms: np.ndarray | None, temperature: float, max_new_tokens: int
    ) -> list[Sample]:
        """Sample one reply per prompt in one batch."""
        count = len(prompts)
        rows = _at_least(np.arange(count), self.fewest_rows)
        batch = self._prefill(prompts, rows, max_new_tokens)
        chooser = _Chooser(self.forbidden, uniforms, temperature=temperature)
        ids = np.zeros((count, max_new_tokens), np.int32)
        places: list[np.ndarray] = []
        logprobs: list[Tensor] = []
        ended = np.zeros(len(rows), bool)
        for step in range(max_new_tokens):
            chosen, chosen_logprobs = chooser.choose(batch.logits, rows, step)
            ids[rows, step] = chosen.cpu().numpy()
            places.append(rows)
            logprobs.append(chosen_logprobs)  # Fetched at the end: a GPU goes on meanwhile.
            ended |= np.isin(ids[rows, step], self.end_ids)
            if ended.all() or step == max_new_tokens - 1:
                break
            if batch.graph is None and ended.mean() >= ENDED_SHARE and _can_leave(batch.cache):
                kept = _at_least(np.flatnonzero(~ended), self.fewest_rows)
                if len(kept) < len(rows):
                    rows, ended = rows[kept], ended[kept]
                    index = torch.from_numpy(kept).to(chosen.device)
                    batch.keep(index)
                    chosen = chosen[index]
            self._step(batch, chosen[:, None])
        table = np.zeros(ids.shape, np.float32)
        steps = np.repeat(np.arange(len(places)), [len(rows) for rows in places])
        told = torch.cat(logprobs).cpu().numpy()
        require_finite(self.model.name_or_path, [told], temperature=temperature, dtype=self.model.dtype)
        table[np.concatenate(places), steps] = told
        return [self._cut(*row, longest=len(places)) for row in zip(ids, table, strict=True)]

    def _prefill(self, prompts: Sequence[Prompt], rows: np.ndarray, max_new_tokens: int) -> _Rows:
        """Run the prompts, each different one once, and lay them out as `rows` of them."""
        cache = DynamicCache(config=self.model.config)
        wanted = [prompts[row] for row in rows]
        different = list(dict.fromkeys(prompts)) if _can_leave(cache) else wanted
        if self.multiple:
            different += different[-1:] * (FEWEST_PROMPTS - len(different))
        inputs = to_device(self.model, collate(different, pad_id=self.pad_id, multiple=self.multiple))
        seen = inputs.pop("attention_mask").bool()
        mask = None if seen.all() else torch.nn.functional.pad(seen, (0, max_new_tokens), value=True)
        positions = self._positions.collated(different, seen.shape[1])
        batch = _Rows(cache, mask, positions, length=seen.shape[1], logits=torch.empty(0))
        self._forward(batch, inputs, first=True)
        if positions is not None:
            batch.positions = positions[..., -1:]
        if wanted != different:
            place = {prompt: index for index, prompt in enumerate(different)}
            batch.keep(torch.tensor([place[prompt] for prompt in wanted], device=self.model.device))
        batch.graph = self._recorded(batch, max_new_tokens)
        return batch

    def _recorded(self, batch: _Rows, max_new_tokens: int) -> TokenGraph | None:
        """Load rows into the last graph, or into a new one where they are other in number or length; None where none can be."""
        plain = self._ready_masks and not self._prepares and _all_see_all(batch.cache)
        if self.record is None or batch.positions is None or not plain:
            return None
        slots = -(-(batch.length + max_new_tokens) // SLOTS) * SLOTS
        if self._graph is None or not self._graph.fits(batch.positions, slots):
            self._graph = None  # Its memory is free before the next one takes its own.
            self._graph = TokenGraph(
                self.model, batch.cache, batch.positions, slots=slots, precision=self.precision, record=self.record
            )
        self._graph.load(batch.cache, batch.mask, batch.positions, length=batch.length)
        return self._graph

    def _step(self, batch: _Rows, chosen: Tensor) -> None:
        """Feed each row its chosen token, [B, 1]."""
        if batch.graph is not None:
            batch.logits = batch.graph.step(chosen)
            return
        batch.length += 1
        if batch.positions is not None:
            batch.positions = batch.positions + 1
        self._forward(batch, {"input_ids": chosen}, first=False)

    def _forward(self, batch: _Rows, inputs: dict[str, Tensor], *, first: bool) -> None:
        mask = None if batch.mask is None else batch.mask[:, : batch.length]
        common = {"attention_mask": mask, "past_key_values": batch.cache, "use_cache": True}
        if batch.positions is not None:
            common["position_ids"] = batch.positions
        if self._prepares:
            inputs = self.model.prepare_inputs_for_generation(is_first_iteration=first, **common, **inputs)
        else:
            inputs = inputs | common
            if mask is not None and not first and self._ready_masks and _all_see_all(batch.cache):
                inputs["attention_mask"] = mask[:, None, None]  # What the model would make of it at every step.
        # More than one position, for FEWEST_ROWS: the output head's product has one row per prompt and position.
        with self.precision():
            logits = self.model(**inputs, logits_to_keep=self.fewest_rows if first else 1).logits
        batch.logits = logits[:, -1]

    def _cut(self, ids: np.ndarray, logprobs: np.ndarray, *, longest: int) -> Sample:
        ends = np.flatnonzero(np.isin(ids[:longest], self.end_ids))
        length = int(ends[0]) + 1 if len(ends) else longest
        return Sample(response_ids=ids[:length].copy(), logprobs=logprobs[:length].copy())


def _at_least(rows: np.ndarray, count: int) -> np.ndarray:
    """Name the last row again until there are `count`: the same row twice samples the same reply twice."""
    return np.concatenate([rows, np.repeat(rows[-1:], max(0, count - len(rows)))])


def _all_see_all(cache: DynamicCache) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _can_leave(cache: DynamicCache) -> bool:
    # Keys and values of other kinds of layers, such as linear attention's states, are not selected by row.
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)


class _Chooser:
    """Choose tokens, each from its own uniform number, or the most likely ones."""

    def __init__(self, forbidden: Tensor, uniforms: np.ndarray | None, *, temperature: float) -> None:
        self.forbidden = forbidden
        self.uniforms = uniforms
        self.temperature = temperature

    def choose(self, logits: Tensor, rows: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """Choose from logits [B, V] of the given rows of `uniforms`; return ids and their log-probs. [B], [B]"""
        allowed = logits.float().index_fill(1, self.forbidden, -torch.inf).div_(self.temperature)
        # Float64 keeps the cumulative sum strictly increasing over every token that has any probability.
        probabilities = torch.softmax(allowed, dim=-1, dtype=torch.float64)
        chosen = allowed.argmax(dim=-1, keepdim=True) if self.uniforms is None else self._draw(probabilities, rows, step)
        return chosen[:, 0], probabilities.gather(1, chosen)[:, 0].log()

    def _draw(self, probabilities: Tensor, rows: np.ndarray, step: int) -> Tensor:
        assert self.uniforms is not None
        numbers = torch.from_numpy(self.uniforms[rows, step]).to(probabilities.device)
        cumulative = probabilities.cumsum(dim=-1)
        total = cumulative[:, -1:]
        target = torch.minimum(numbers[:, None] * total, total.nextafter(torch.zeros_like(total)))
        # Of numbers that are none it answers V, and to look there ends a process on a GPU: they are refused when all is sampled.
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=probabilities.shape[1] - 1)
