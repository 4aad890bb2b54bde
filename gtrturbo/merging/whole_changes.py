"""ΔW of whole tensors in torch, as PEFT's layers say it, read by safetensors itself: the check of what `changes` makes by rows.

Nothing of the row-wise path is used here, neither its reader nor its products.
"""

from collections.abc import Callable

import torch
from safetensors import safe_open
from torch import Tensor

from gtrturbo.merging.changes import Change, Replaced, Scaled, Tokens
from gtrturbo.merging.factored import Directed, Experts, Product, Residual
from gtrturbo.store.safetensors_files import TensorEntry


def whole_tensor(entry: TensorEntry) -> Tensor:
    """Read a tensor of a file in float64."""
    with safe_open(entry.file, "pt") as file:
        found = file.get_tensor(entry.name).double()
    return found[entry.part[0], entry.part[1] :][: entry.shape[0]] if entry.part else found


def whole_change(change: Change, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ΔW, and the size of the terms that it is the sum of.

    Args:
        change: what an adapter does.
        weights: W under the adapter, float64. [shape]
    """
    for kind, compute in KINDS.items():
        if isinstance(change, kind):
            return compute(change, weights)
    raise TypeError(type(change).__name__)


def _product(change: Product, weights: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (whole_tensor(entry).flatten(1) for entry in (change.a, change.b))
    if change.diagonal:
        a = whole_tensor(change.diagonal).reshape(-1, 1) * a
    both = [(left @ right) * change.scale for left, right in ((b, a), (b.abs(), a.abs()))]
    delta, size = (each.T.reshape(change.shape) if change.transposed else each.reshape(change.shape) for each in both)
    return delta, size.abs()


def _experts(change: Experts, weights: Tensor) -> tuple[Tensor, Tensor]:
    a, b = whole_tensor(change.a), whole_tensor(change.b)
    a, b = a.reshape(change.experts, -1, a.shape[-1]), b.reshape(b.shape[0], -1, change.experts)
    kind = "ore,eri->eio" if change.transposed else "ore,eri->eoi"
    both = [torch.einsum(kind, left, right) * change.scale for left, right in ((b, a), (b.abs(), a.abs()))]
    count, height = (change.shape[0] if len(change.shape) == 3 else 1), change.shape[-2]
    part = slice(change.first, change.first + count), slice(change.top, change.top + height)
    delta, size = (each[part].reshape(change.shape) for each in both)
    return delta, size.abs()


def _directed(change: Directed, weights: Tensor) -> tuple[Tensor, Tensor]:
    delta, size = _product(change.product, weights)
    moved, magnitude = weights + delta, whole_tensor(change.magnitude).flatten()
    axis = 0 if change.by_column else 1
    norm = torch.linalg.norm(moved if change.by_column else moved.flatten(1), dim=axis)
    factor = magnitude / norm
    factor = factor if change.by_column else factor.reshape(-1, *(1,) * (moved.dim() - 1))
    return factor * moved - weights, factor.abs() * (weights.abs() + size) + weights.abs()


def _residual(change: Residual, weights: Tensor) -> tuple[Tensor, Tensor]:
    delta, size = _product(change.product, weights)
    rank = change.product.a.shape[0]
    if change.removed == "qr":
        matrix = weights.T if change.product.transposed else weights
        q, r = torch.linalg.qr(matrix)
        gone = change.product.scale * q[:, :rank] @ r[:rank]
        gone = gone.T if change.product.transposed else gone
    else:
        u, s, vt = torch.linalg.svd(weights, full_matrices=False)
        s = s.clone()
        kept = slice(rank, None) if change.removed == "largest" else slice(None, len(s) - rank)
        s[kept] = 0
        gone = (u * s) @ vt
    # A decomposition is as exact as the largest entries of a row and a column let it be.
    return delta - gone, size + torch.linalg.matrix_norm(weights, 2)


def _replaced(change: Replaced, weights: Tensor) -> tuple[Tensor, Tensor]:
    instead = whole_tensor(change.entry)
    moved, size = whole_change(change.above, instead) if change.above else (torch.zeros(()), torch.zeros(()))
    return instead - weights + moved, instead.abs() + weights.abs() + size


def _tokens(change: Tokens, weights: Tensor) -> tuple[Tensor, Tensor]:
    instead = weights.index_copy(0, torch.tensor(change.tokens), whole_tensor(change.entry))
    return instead - weights, instead.abs() + weights.abs()


def _scaled(change: Scaled, weights: Tensor) -> tuple[Tensor, Tensor]:
    delta = whole_tensor(change.entry) * change.scale
    return delta, delta.abs()


KINDS: dict[type, Callable[..., tuple[Tensor, Tensor]]] = {
    Product: _product,
    Experts: _experts,
    Directed: _directed,
    Residual: _residual,
    Replaced: _replaced,
    Tokens: _tokens,
    Scaled: _scaled,
}
