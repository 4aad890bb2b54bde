"""Merge rules that look at more than sums: functions of task vectors [k, n] and weights [k], as a rule of the user's own is.

Each is called with tiles, and asks for what else it needs by the names of its keyword-only arguments, see `MergeRule`. Sums over
checkpoints run in their order, one at a time, so that no tile's width decides how they are rounded.
"""

import math
from typing import TYPE_CHECKING

from gtrturbo.algorithms.geometry import PARALLEL
from gtrturbo.algorithms.weights import LEAST

if TYPE_CHECKING:
    from torch import Tensor  # Takes seconds to import; tensors bring all that is used here.

# Below this share of squared sines two vectors are joined by a straight line: mergekit's for NuSLERP.
TINY = 1e-6


def votes(task_vectors: "Tensor", weights: "Tensor", *, normalize: bool, count: bool = False) -> "Tensor":
    """Elect a sign per entry and merge the entries that agree, weights of either sign.

    v_i = w_i τ_i,  γ = sign(Σ v_i), 0 counts as + (count: sign(Σ sign v_i));  m = Σ_{i: sign v_i = γ} v_i / Σ_{i: …} w_i

    A negative weight so votes against its task vector. Where the weights that agree sum to 0, but for rounding, none divides.

    Args:
        task_vectors: τ_i, trimmed. [k, n]
        weights: w_i. [k]
        normalize: divide.
        count: one vote per checkpoint.

    Returns: m. [n]

    Source: Yadav et al., "TIES-Merging" (arXiv 2306.01708), with weights as in mergekit 0.1.5.
    """
    scaled = _columns(weights, task_vectors) * task_vectors
    ballots = scaled.sign() if count else scaled
    elected = (_total(ballots) >= 0).double() * 2 - 1
    agree = (scaled.sign() == elected).double()
    merged = _total(scaled * agree)
    if not normalize:
        return merged
    weighing = _columns(weights, task_vectors) * agree
    divisor = _total(weighing)
    return merged / divisor.where(divisor.abs() > LEAST * _total(weighing.abs()), 1.0)


def dare(
    task_vectors: "Tensor", weights: "Tensor", *, densities: "Tensor", noise: "Tensor", vote: bool = False, rescale: bool = True,
    normalize: bool = False,
) -> "Tensor":  # fmt: skip
    """Drop entries at random and divide the others by the share that is kept, a density of its own for each; then sum or vote.

    Args:
        densities: share that each keeps; 0 drops all. [k]
        noise: uniform in [0, 1). [k, n]
        vote: elect signs, as in `votes`; else Σ w_i τ_i.
        rescale: divide.

    Source: Yu et al., "Language Models are Super Mario" (arXiv 2311.03099), DARE, equation 2.
    """
    share = _columns(densities, task_vectors)
    kept = task_vectors.where(noise < share, 0.0)
    kept = kept / share.clamp(min=math.ulp(0.0)) if rescale else kept
    kept = kept.where(share > 0, 0.0)
    return votes(kept, weights, normalize=normalize) if vote else _total(_columns(weights, kept) * kept)


def della(
    task_vectors: "Tensor", weights: "Tensor", *, densities: "Tensor", noise: "Tensor", normalize: bool,
    epsilon: "float | Tensor" = 0.15, rescale: bool = True,
) -> "Tensor":  # fmt: skip
    """Drop entries at random, small ones of a row rather than large ones, then elect signs as TIES does.

    Source: Deep et al., "DELLA-Merging" (arXiv 2406.11617), section 3, with signs elected as in mergekit; see `magnitude_drop`.
    """
    kept = magnitude_drop(task_vectors, densities=densities, noise=noise, epsilon=epsilon, rescale=rescale)
    return votes(kept, weights, normalize=normalize)


def della_linear(
    task_vectors: "Tensor", weights: "Tensor", *, densities: "Tensor", noise: "Tensor", epsilon: "float | Tensor" = 0.15,
    rescale: bool = True,
) -> "Tensor":  # fmt: skip
    """Drop entries at random, small ones of a row rather than large ones, then sum; see `magnitude_drop`."""
    kept = magnitude_drop(task_vectors, densities=densities, noise=noise, epsilon=epsilon, rescale=rescale)
    return _total(_columns(weights, kept) * kept)


def magnitude_drop(
    task_vectors: "Tensor", *, densities: "Tensor", noise: "Tensor", epsilon: "float | Tensor", rescale: bool
) -> "Tensor":
    """Keep the entry of rank r among a row's c magnitudes, 0 the smallest, with probability p, and divide it by p.

    p = density − ε + 2 ε r / (c − 1);  p = density in rows of one entry. Equal magnitudes are ranked by place.

    Args:
        task_vectors: τ_i in rows. [k, rows, c]
        densities: 1 keeps everything, 0 nothing. [k]
        noise: uniform in [0, 1). [k, rows, c]
        epsilon: ε, one for all or one each. [k]

    Raises: ValueError: density − ε or density + ε is not in (0, 1).

    Source: Deep et al., "DELLA-Merging" (arXiv 2406.11617), section 3.1, MAGPRUNE.
    """
    density, half = _columns(densities, task_vectors), _columns(epsilon, task_vectors)
    partial = (density > 0) & (density < 1)
    if bool((partial & ((density - half <= 0) | (density + half >= 1))).any()):
        raise ValueError("density − epsilon and density + epsilon must be in (0, 1).")
    width = task_vectors.shape[-1]
    order = task_vectors.abs().argsort(dim=-1, stable=True)
    ranks = order.argsort(dim=-1).double()
    place = ranks / (width - 1) if width > 1 else ranks + 0.5
    chance = (density - half + 2 * half * place).where(partial, density)
    kept = task_vectors.where(noise < chance, 0.0)
    return kept / chance.where(chance > 0, 1.0) if rescale else kept


def nearswap(task_vectors: "Tensor", weights: "Tensor", *, t: float) -> "Tensor":
    """Go all the way to the other checkpoint where it differs by at most t, and a step of t where it differs more.

    m = τ · clamp(t / |τ|, 0, 1) = sign(τ) min(|τ|, t)

    Source: alchemonaut, QuartetAnemoi-70B-t0.0001, as in mergekit.
    """
    return task_vectors[0].clamp(min=-t, max=t)


def importance(task_vectors: "Tensor", weights: "Tensor", *, base: "Tensor") -> "Tensor":
    """Say how much each entry's change matters: |τ| times the KL divergence of its row's softmax from the base's.

    I = |τ| · Σ_row p log(p / q),  p = softmax(θ_row) + 1e-8,  q = softmax(θ₀ row) + 1e-8

    Args:
        task_vectors: one. [1, rows, c]
        base: θ₀. [rows, c]

    Returns: I, at least 0. [rows, c]

    Source: Arcee Fusion, as in mergekit 0.1.5.
    """
    moved = task_vectors[0]
    p, q = (base + moved).softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    return moved.abs() * (p * (p / q).log()).sum(-1, keepdim=True).clamp(min=0)


def arcee_fusion(task_vectors: "Tensor", weights: "Tensor", *, base: "Tensor", measured: "Tensor") -> "Tensor":
    """Take the changes whose importance lies far above the median: I ≥ median + 1.5 (third quartile − first quartile).

    Args:
        measured: first quartile, median and third quartile of the tensor's `importance`. [3]

    Source: Arcee Fusion, as in mergekit 0.1.5, whose quartiles are of a sample above a million entries; here of all.
    """
    first, median, third = measured
    return task_vectors[0].where(importance(task_vectors, weights, base=base) >= median + 1.5 * (third - first), 0.0)


def ram(task_vectors: "Tensor", weights: "Tensor", *, epsilon: float = 1e-5) -> "Tensor":
    """Keep what one checkpoint alone changed, and average what several did: sparse task vectors of RL are not diluted.

    With c the number of checkpoints whose |τ_i| > ε:  m = Σ_{i: |τ_i| > ε} τ_i / max(1, c)

    Source: "Reinforced Agent Merging" (arXiv 2601.13572), RAM.
    """
    active = (task_vectors.abs() > epsilon).double()
    return _total(task_vectors * active) / _total(active).clamp(min=1)


def shared_and_unique(task_vectors: "Tensor", weights: "Tensor", *, epsilon: float = 1e-5) -> "Tensor":
    """Count the entries that each checkpoint changed with others, then those that it changed alone. [2 k]"""
    active = (task_vectors.abs() > epsilon).double()
    count = _total(active)
    shared, unique = ((active * which.double()).flatten(1).sum(1) for which in (count > 1, count == 1))
    return shared.new_tensor([*shared.tolist(), *unique.tolist()])


def ram_plus(
    task_vectors: "Tensor", weights: "Tensor", *, measured: "Tensor", epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2
) -> "Tensor":
    """RAM, with what one checkpoint alone changed scaled up for what averaging takes from it elsewhere.

    λ_i = 1 + r · clamp(ρ_i, 0, α),  ρ_i = shared_i / unique_i, counted in this tensor

    Args:
        measured: `shared_and_unique` of the tensor. [2 k]

    Source: "Reinforced Agent Merging" (arXiv 2601.13572), RAM+, per tensor as mergekit's ramplus_tl.
    """
    k = len(task_vectors)
    ratios = (measured[:k] / measured[k:].clamp(min=epsilon)).clamp(min=0, max=alpha)
    active = (task_vectors.abs() > epsilon).double()
    count = _total(active)
    alone = _total(task_vectors * active * _columns(1 + r * ratios, task_vectors))
    return alone.where(count == 1, _total(task_vectors * active) / count.clamp(min=1))


def slerp_rows(task_vectors: "Tensor", weights: "Tensor") -> "Tensor":
    """Go from the first of two vectors to the second along the arc between them, each row on an arc of its own.

    Source: NuSLERP of mergekit, nuslerp_flatten false. See `geometry.slerp_coefficients`.
    """
    first, second = task_vectors
    products = (first * first).sum(-1), (second * second).sum(-1), (first * second).sum(-1)
    start, end = _arc(*products, weights)
    return start[..., None] * first + end[..., None] * second


def column_products(task_vectors: "Tensor", weights: "Tensor") -> "Tensor":
    """Sum ⟨v_0, v_0⟩, ⟨v_1, v_1⟩ and ⟨v_0, v_1⟩ of each column, over the rows at hand. [3 c]"""
    first, second = task_vectors
    pairs = ((first, first), (second, second), (first, second))
    return task_vectors.new_tensor([total for a, b in pairs for total in (a * b).sum(0).tolist()])


def slerp_columns(task_vectors: "Tensor", weights: "Tensor", *, measured: "Tensor") -> "Tensor":
    """The same, each column on an arc of its own. `measured`: `column_products` of the tensor. [3 c]

    Source: NuSLERP of mergekit, nuslerp_flatten false, nuslerp_row_wise true.
    """
    first, second = task_vectors
    heads, ends, products = measured.reshape(3, -1)
    start, end = _arc(heads, ends, products, weights)
    return start * first + end * second


def _arc(first: "Tensor", second: "Tensor", product: "Tensor", weights: "Tensor") -> "tuple[Tensor, Tensor]":
    """Coefficients of two vectors from their inner products; straight where they are parallel or one is 0."""
    t = float(weights[1] / (weights[0] + weights[1]))
    norms = (first * second).sqrt()
    cosine = (product / norms.where(norms > 0, 1.0)).where(norms > 0, 1.0).clamp(-1, 1)
    straight = cosine.abs() > PARALLEL
    angle = cosine.where(~straight, 0.0).acos()
    return (((1 - t) * angle).sin() / angle.sin()).where(~straight, 1 - t), ((t * angle).sin() / angle.sin()).where(~straight, t)


def model_stock_rows(task_vectors: "Tensor", weights: "Tensor") -> "Tensor":
    """Model Stock with an angle for each row, see `geometry.model_stock_coefficients`.

    Source: Jang et al., "Model Stock" (arXiv 2403.19522), filter by filter.
    """
    k = len(task_vectors)
    norms = (task_vectors * task_vectors).sum(-1).sqrt()
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    cosines = [
        ((task_vectors[i] * task_vectors[j]).sum(-1) / (norms[i] * norms[j]).where(norms[i] * norms[j] > 0, 1.0)).clamp(-1, 1)
        for i, j in pairs
    ]
    cosine = _total(cosines) / len(pairs)
    divisor = 1 + (k - 1) * cosine
    ratio = (k * cosine / divisor.where(divisor.abs() >= TINY, 1.0)).where(divisor.abs() >= TINY, 0.0)
    return ratio[..., None] * _total(task_vectors) / k


def _columns(values: "float | Tensor", like: "Tensor") -> "Tensor":
    """One number per checkpoint, beside its vector. [k, 1, …]"""
    numbers = like.new_tensor(values) if isinstance(values, float | int) else values
    return numbers.expand(len(like)).reshape(-1, *[1] * (like.dim() - 1))


def _total(vectors: "Tensor | list[Tensor]") -> "Tensor":
    total = vectors[0].clone()
    for vector in vectors[1:]:
        total += vector
    return total
