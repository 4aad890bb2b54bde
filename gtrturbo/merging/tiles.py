"""The inner loops in torch, tile by tile: on a GPU, and where there is no C compiler. Same operations, same order, same bytes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gtrturbo.merging.operands import BINS, CHUNK, TABLES, Operand, Search, Tile, TileRule, loaded

_MAGNITUDE = 0x7FFFFFFFFFFFFFFF


class TorchKernel:
    """See `operands.Kernel`. Sums are float64; nothing is fused, so every operation is rounded on its own."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.name = f"torch on {device}"

    def tables(self) -> np.ndarray:
        return np.zeros((TABLES, BINS), np.int64)

    def histogram(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, shift: int, tables: np.ndarray) -> int:
        words = self._magnitudes(base, operand)
        if words is not None and operand.sample:
            part, step = operand.sample
            words = words[torch.arange(len(words), device=words.device) % step < part]
        if words is None:
            return 0
        if prefix_shift < 64:
            words = words[words >> prefix_shift == prefix]
        tables[0] += torch.bincount((words >> shift) & (BINS - 1), minlength=BINS).cpu().numpy()
        return 1 + int(prefix_shift > 63 or bool((words & ((1 << shift) - 1)).any()))

    def span(self, base: Tile, operand: Operand, search: Search) -> bool:
        words = self._magnitudes(base, operand)
        if words is None:
            return False
        start, end = search.first << 47, search.first + search.width << 47
        search.above += int((words >= end).sum())
        words = words[(words >= start) & (words < end)]
        counts = torch.bincount((words >> 31) - (search.first << 16), minlength=TABLES * BINS)
        search.tables += counts.cpu().numpy().reshape(search.tables.shape).astype(search.tables.dtype)
        more = words[(words & ((1 << 31) - 1)) != 0].view(torch.float64).cpu().numpy()
        room = search.rest[search.found : search.found + len(more)]
        room[:] = more[: len(room)]
        search.found += len(more)
        return True

    def gather(self, base: Tile, operand: Operand, *, prefix: int, prefix_shift: int, out: np.ndarray) -> int:
        words = self._magnitudes(base, operand)
        if words is None:
            return -1
        if prefix_shift < 64:
            words = words[words >> prefix_shift == prefix]
        out[: len(words)] = words.view(torch.float64).cpu().numpy()
        return len(words)

    def combine(
        self,
        base: Tile,
        operands: Sequence[Operand],
        rule: TileRule,
        *,
        offset: int,
        out: np.ndarray,
        state: np.ndarray | None = None,
        decay: float = 1.0,
    ) -> np.ndarray | None:
        origin = wide(base, self.device)
        if not torch.isfinite(origin).all():
            return None
        zero = torch.zeros_like(origin)
        touched = torch.zeros_like(origin, dtype=torch.bool)
        sums = [zero.clone() for _ in range(4)] if state is None else list(wide(state.reshape(4, -1), self.device) * decay)
        mean, ballot, kept, changed = zero.clone(), zero.clone(), zero.clone(), zero.clone()
        for operand in operands:
            d = task_vector(origin, operand)
            if not torch.isfinite(d).all():
                return None
            mean += operand.weight * d
            moved = (d != 0).double()
            changed += moved
            touched |= d != 0
            if rule.trims:
                d = trim(d, operand, rule, offset)
                moved = (d != 0).double()
            kept += moved
            for total, part in zip(sums[:2], (d.clamp(min=0), d.clamp(max=0)), strict=True):
                total += operand.weight * part
            for total, part in zip(sums[2:], (d > 0, d < 0), strict=True):
                total += operand.weight * part.double()
            ballot += d.sign()
        if state is not None:
            state.reshape(4, -1)[:] = torch.stack(sums).cpu().numpy()
        merged, conflicts = self._elect(sums, mean, ballot, rule)
        merged *= rule.scale
        store(rule.base_factor * origin + merged, out)
        back = (rule.base_factor - 1) * origin  # Of whole weights, what they change is told.
        merged += back
        mean += sum(operand.weight for operand in operands) * back
        rows = (merged * merged, mean * mean, merged * mean, origin * origin, conflicts, kept, changed, touched.double())
        return chunk_sums(rows)

    def _elect(self, sums: list[Tensor], mean: Tensor, ballot: Tensor, rule: TileRule) -> tuple[Tensor, Tensor]:
        plus, minus, plus_weight, minus_weight = sums
        if rule.vote is None:
            return (plus + minus if rule.trims else mean) / rule.divisor, torch.zeros_like(mean)
        elected = (ballot if rule.vote == "count" else plus + minus) >= 0
        total = torch.where(elected, plus, minus)
        agreeing = torch.where(elected, plus_weight, minus_weight)
        divisor = torch.where(agreeing > 0, agreeing, 1.0) if rule.average else rule.divisor
        return total / divisor, ((plus_weight > 0) & (minus_weight > 0)).double()

    def _magnitudes(self, base: Tile, operand: Operand) -> Tensor | None:
        d = task_vector(wide(base, self.device), operand)
        return d.view(torch.int64) & _MAGNITUDE if torch.isfinite(d).all() else None


def wide(tile: Tile, device: str) -> Tensor:
    """Bring a tile to a device, in float64."""
    tile = loaded(tile)
    tensor = torch.from_numpy(tile)
    tensor = tensor.view(torch.bfloat16) if tile.dtype == np.uint16 else tensor
    return tensor.to(device).double()


def task_vector(base: Tensor, operand: Operand) -> Tensor:
    """Return what a checkpoint's tile changed, in float64."""
    values = wide(operand.data, str(base.device))
    return values if operand.difference else values - base


def trim(d: Tensor, operand: Operand, rule: TileRule, offset: int) -> Tensor:
    """Zero what is out of bounds, and drop entries at random where the rule does."""
    magnitude = d.abs()
    d = d.where((magnitude >= operand.low) & (magnitude <= operand.high), 0.0)
    if rule.keep < 1:
        index = torch.arange(offset + 1, offset + 1 + len(d), dtype=torch.int64, device=d.device)
        d = torch.where(uniform(operand.key, index) < rule.keep, d / rule.keep, 0.0)
    return d


def store(values: Tensor, out: np.ndarray) -> None:
    """Round float64 to a tile's type, by way of float32, as torch's own conversion of one number goes."""
    target = torch.from_numpy(out)
    target = target.view(torch.bfloat16) if out.dtype == np.uint16 else target
    narrow = values if target.dtype == torch.float64 else values.float()
    target.copy_(narrow.to(target.dtype))


def chunk_sums(rows: Sequence[Tensor]) -> np.ndarray:
    """Sum each row over chunks. [chunks, rows]"""
    short = -len(rows[0]) % CHUNK
    padded = [torch.nn.functional.pad(row, (0, short)).view(-1, CHUNK).sum(dim=1).cpu().numpy() for row in rows]
    return np.stack(padded, axis=1)


def random_mask(key: int, entries: int, keep: float) -> Tensor:
    """Say which entries of a tensor a random drop keeps, each with probability `keep`; decided by key and index alone."""
    return uniform(key, torch.arange(1, entries + 1, dtype=torch.int64)) < keep


def uniform(key: int, index: Tensor) -> Tensor:
    """Splitmix64 of key and index as numbers in [0, 1); torch's int64 wraps as uint64 does, only shifts need care."""
    word = _signed(key) + index * _signed(0x9E3779B97F4A7C15)
    word = (word ^ _right(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _right(word, 27)) * _signed(0x94D049BB133111EB)
    word = word ^ _right(word, 31)
    return _right(word, 11).double() * 2.0**-53


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _right(word: Tensor, bits: int) -> Tensor:
    return (word >> bits) & ((1 << (64 - bits)) - 1)
