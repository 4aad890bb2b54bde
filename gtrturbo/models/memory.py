"""How much memory a model of a given shape takes, worked out from its shape alone; all sizes in bytes.

What autograd saves is counted operation by operation as transformers runs a decoder layer with RMSNorm, gated MLP and scaled
dot-product attention, in the manner of Korthikanti et al., "Reducing Activation Recomputation" (arXiv 2205.05198), section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

FLOAT32 = 4
# Linear layers of a decoder layer; the vision tower has one for queries, keys and values together.
LINEARS = 7
VISION_LINEARS = 5
# Copies of [rows, V] in float32 that are alive at once: raw logits, scaled ones, and what logsumexp or a gradient takes.
LOGIT_COPIES = 3
# A sampler holds the same, and their cumulative sum in float64 with its input.
SAMPLED_COPIES = 7

Trained = Literal["full", "lora", "nothing"]


@dataclass(frozen=True)
class Layers:
    """Equal transformer layers: how many, and the widths of one.

    width: hidden size.   inner: of the gated MLP, or of all experts that a token meets, together.   queries, keys: heads times
    their size.   heads: of the queries.   experts: to which a token is copied, one by one; 0 where the MLP is one for all.
    """

    count: int
    width: int
    inner: int
    queries: int
    keys: int
    heads: int
    fused: bool = False
    experts: int = 0

    def saved(self, *, trained: Trained, width: int, rank: int) -> int:
        """Bytes that one token of one layer leaves for the backward pass.

        With h, f, q the widths of stream, MLP and queries and e bytes per number:
        two norms 2·4h (their input in float32) · attention 4eq (queries, keys and values as repeated to all heads, output) and
        4 per head · MLP 3ef (gate, its activation, up) · and the inputs of the linear layers that are trained, of which the
        attention's output is there already, but in the vision tower, which joins it from windows:
        full weights 2eh (norms) + 2eh + ef; LoRA, whose factors are float32, 4 bytes of each input, once per linear layer
        where e < 4 (each casts for itself), and its rank. Of k experts each leaves its copy of the token and what it made of it,
        2ekh.

        Args:
            trained: what of the layer is.
            width: e.
            rank: of the adapters.
        """
        h, f, q, e = self.width, self.inner, self.queries, width
        passing = 8 * h + 4 * e * q + FLOAT32 * self.heads + 3 * e * f + self._copies(width=e)
        if trained == "nothing":
            return 0
        if trained == "full":
            return passing + 4 * e * h + e * q * self.fused + e * f
        casts = e < FLOAT32
        readers = (3 if self.fused else 5) if casts else 2
        linears = VISION_LINEARS if self.fused else LINEARS
        return passing + FLOAT32 * (readers * h + q * (casts or self.fused) + f) + FLOAT32 * rank * linears

    def working(self, *, width: int, adapted: bool) -> int:
        """Bytes per token that a layer needs at once and forgets: the stream twice, one norm, and attention or MLP.

        The MLP is at its widest in its second projection. An adapter of float32 adds its output there, alone and in the sum.
        """
        h, f, q, e = self.width, self.inner, self.queries, width
        inner = 2 * e * f + 2 * FLOAT32 * f + FLOAT32 * h if adapted else 3 * e * f
        return 2 * e * h + 8 * h + max(e * (3 * q + 2 * self.keys), inner + self._copies(width=e))

    def _copies(self, *, width: int) -> int:
        """Bytes per token of its copies before experts and behind them."""
        return 2 * width * self.experts * self.width

    def rerun(self, *, trained: Trained, width: int, rank: int) -> int:
        """Bytes per token while a layer that was run again goes backward: all that it saved, and gradients around its MLP."""
        gradients = 2 * width * (self.width + self.inner) + FLOAT32 * self.inner * (trained == "lora")
        return self.saved(trained=trained, width=width, rank=rank) + gradients


@dataclass(frozen=True)
class Shape:
    """A vision-language model without its weights.

    parameters: all, without adapters.   vision, embeddings: those of the vision tower, and of input and output embeddings.
    adapters: of LoRA, float32; 0 without.   width: bytes per weight.   image_cell: pixels along an image token's side.
    patches: of the vision tower per image token, each of `patch_size` numbers.   image_tokens: of every picture, where the model
    scales them to one size.   count: of the tokens of pictures by their heights and breadths, where the processor is at hand.
    layer, outside: parameters of the largest layer, and of all that is in no layer.   dtype: of the weights, torch's.
    holds_base: the checkpoint of a fresh adapter holds the model under it, too.
    """

    name: str
    parameters: int
    vision: int
    embeddings: int
    adapters: int
    rank: int
    width: int
    vocabulary: int
    hidden: int
    text: Layers
    tower: Layers | None
    image_cell: int
    patches: int
    patch_size: int
    image_tokens: int | None = None
    count: Callable[[tuple[tuple[int, int], ...]], int] | None = None
    layer: int = 0
    outside: int = 0
    dtype: Any = None
    holds_base: bool = False

    @property
    def weights(self) -> int:
        """Bytes of the weights, without adapters."""
        return self.parameters * self.width

    @property
    def adapter_bytes(self) -> int:
        return self.adapters * FLOAT32

    @property
    def trained(self) -> Trained:
        return "lora" if self.adapters else "full"

    @property
    def trainable(self) -> int:
        """Parameters that the optimiser moves, without the value head."""
        return self.adapters or self.parameters

    @property
    def trainable_bytes(self) -> int:
        return self.adapter_bytes or self.weights

    @property
    def optimizer_bytes(self) -> int:
        """Two moments in float32, and a float32 copy of weights that are narrower."""
        copy = FLOAT32 if not self.adapters and self.width < FLOAT32 else 0
        return self.trainable * (2 * FLOAT32 + copy)

    def tokens_of_images(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Count the tokens of the pictures of a prompt, of so many pixels in height and breadth."""
        if self.count is not None:
            return self.count(tuple(sizes))
        return sum(self._tokens_of_image(*size) for size in sizes)

    def _tokens_of_image(self, height: int, breadth: int) -> int:
        if self.image_tokens is not None:
            return self.image_tokens
        return max(1, round(height / self.image_cell)) * max(1, round(breadth / self.image_cell))


@dataclass(frozen=True)
class Batch:
    """What one forward pass holds: B rows of up to `prompt` + `reply` tokens, `image` of them of pictures."""

    rows: int
    prompt: int
    reply: int
    image: int

    @property
    def tokens(self) -> int:
        return self.rows * (self.prompt + self.reply)

    def patches(self, shape: Shape) -> int:
        """Count the patches of all pictures, which the vision tower works on."""
        return self.rows * self.image * shape.patches


@dataclass(frozen=True)
class Memory:
    """Peak of one stage by what takes it.

    activations: saved for the backward pass.   cache: keys and values.   passing: what a layer works with, gone before the
    `logits` are made.   gathered: weights and gradients of layers that are whole for a time, where they are split.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    passing: int = 0
    logits: int = 0
    gathered: int = 0

    @property
    def peak(self) -> int:
        lasting = self.weights + self.gradients + self.optimizer + self.activations + self.cache + self.gathered
        return lasting + max(self.passing, self.logits)


def training(shape: Shape, batch: Batch, *, recompute: bool, chunk: int | None, head: int = 0) -> Memory:
    """Estimate the peak of an update with AdamW, at the end of the forward pass or in the backward pass.

    Weights; per trained number a gradient of its own type and the optimiser's state; saved activations of every layer, or with
    `recompute` (Chen et al., arXiv 1604.06174) the input of each and everything of one; what a layer works with; logits.

    Args:
        shape: of the model.
        batch: of one micro-batch.
        recompute: whether layers are run again in the backward pass (gradient checkpointing).
        chunk: tokens whose logits are there at once; None for all reply tokens of the batch.
        head: parameters of the value head.
    """
    towers = [(shape.text, batch.tokens)]
    if shape.tower:
        towers.append((shape.tower, batch.patches(shape)))
    saved, working = 0, 0
    # The gradient of a trained output head is added up in float32 beside the one that is kept.
    output = shape.vocabulary * shape.hidden * (FLOAT32 + shape.width) if shape.trained == "full" and chunk else 0
    how: dict[str, Any] = {"trained": shape.trained, "width": shape.width, "rank": shape.rank}
    for layers, tokens in towers:
        kept = layers.width * shape.width if recompute else layers.saved(**how)
        saved += tokens * layers.count * kept
        once = layers.rerun(**how) if recompute else layers.working(width=shape.width, adapted=shape.rank > 0)
        working = max(working, tokens * once)
    return Memory(
        weights=shape.weights + shape.adapter_bytes + head * FLOAT32,
        gradients=shape.trainable_bytes + head * FLOAT32,
        optimizer=shape.optimizer_bytes + head * 2 * FLOAT32,
        activations=saved + _pixels(shape, batch),
        passing=working,
        logits=_logits(shape, batch.rows * batch.reply, chunk) + output,
    )


def scoring(shape: Shape, batch: Batch, *, chunk: int | None) -> Memory:
    """Estimate the peak of a forward pass without gradients."""
    return Memory(
        weights=shape.weights + shape.adapter_bytes,
        passing=_working(shape, batch, batch.tokens),
        logits=_logits(shape, batch.rows * batch.reply, chunk),
    )


def generating(shape: Shape, batch: Batch) -> Memory:
    """Estimate the peak of sampling: prefill of all prompts at once, the cache of keys and values of every token, logits."""
    layers = shape.text
    # The newest layer's keys and values are copied when a token is appended to them.
    cache = 2 * batch.tokens * layers.keys * shape.width * (layers.count + 1)
    return Memory(
        weights=shape.weights + shape.adapter_bytes,
        passing=_working(shape, batch, batch.rows * batch.prompt),
        logits=batch.rows * shape.vocabulary * (shape.width + SAMPLED_COPIES * FLOAT32),
        cache=cache,
    )


def _working(shape: Shape, batch: Batch, tokens: int) -> int:
    adapted = shape.rank > 0
    text = tokens * shape.text.working(width=shape.width, adapted=adapted)
    tower = batch.patches(shape) * shape.tower.working(width=shape.width, adapted=adapted) if shape.tower else 0
    return max(text, tower) + _pixels(shape, batch)


def _pixels(shape: Shape, batch: Batch) -> int:
    """Pixels as the processor gives them, in float32, and a copy in the type of the weights where it is narrower."""
    return batch.patches(shape) * shape.patch_size * (FLOAT32 + shape.width % FLOAT32)


def _logits(shape: Shape, tokens: int, chunk: int | None) -> int:
    return min(tokens, chunk or tokens) * shape.vocabulary * FLOAT32 * LOGIT_COPIES
