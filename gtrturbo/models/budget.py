"""Budgets of memory: tokens of a forward pass, and of logits. Nothing heavy is imported here, so that every room may ask."""

# Measured with the tiny model on one core: fewer leave dispatch to be paid more often, more outgrow the cache.
CPU_TOKENS = 8192
# Bytes that the backward pass keeps per token and layer, in units of the layer's widths: norms, projections and attention of
# width `hidden_size`, gate, up and product of width `intermediate_size`; bfloat16, with norms in float32.
PER_HIDDEN, PER_INTERMEDIATE = 24, 8
SHARE_OF_FREE = 0.5  # The vision tower's own activations, logits and fragments of memory take from the other half.
# Below this the logits are smaller than the model's other activations, and chunks of them would only cost time.
LARGE_VOCABULARY = 8192
# Tokens whose logits are made at a time where the vocabulary is large.
LOGIT_CHUNK = 512


def tokens_that_fit(free: int, *, hidden: int, inner: int, layers: int, recomputes: bool) -> int:
    """Return the most tokens of a forward pass with a backward pass after it.

    Args:
        free: bytes of the device's memory that nothing else will take.
        hidden, inner: widths of the language model and inside its MLP.
        layers: how many it has.
        recomputes: gradient checkpointing keeps one width per layer, and the rest of one layer at a time.
    """
    layer = PER_HIDDEN * hidden + PER_INTERMEDIATE * inner
    per_token = layer + 2 * hidden * layers if recomputes else layer * layers
    return max(1, int(SHARE_OF_FREE * free / per_token))


def logit_chunk(vocabulary: int) -> int | None:
    """Return how many tokens have their logits made at a time; None for all at once."""
    return LOGIT_CHUNK if vocabulary >= LARGE_VOCABULARY else None
