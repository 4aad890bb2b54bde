"""The compiled loops against the same in torch, byte for byte, and both against numpy."""

import itertools
import math
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.operands import Operand, Search, TileRule
from gtrturbo.merging.parts import narrow
from gtrturbo.merging.tiles import random_mask
from gtrturbo.store.open_files import Files, StoredTile

DTYPES = (np.float64, np.float32, np.uint16, np.float16)  # uint16 stands for bfloat16
N = 20_011  # more than one chunk of sums, and no multiple of anything


def tile(dtype, *, seed: int, spread: float = 1.0) -> np.ndarray:
    """Numbers of all sizes: ordinary ones, zeros of both signs, subnormals of the type, and those next to its overflow."""
    noise = np.random.default_rng(seed)
    values = noise.normal(size=N) * spread
    values[::7] = np.round(values[::7], 1)
    values[::11], values[5::44] = 0.0, -0.0
    largest, tiniest = {np.float16: (60000.0, 6e-8), np.uint16: (1e38, 1e-40)}.get(dtype, (1e30, 1e-42))
    values[3::101] = noise.normal(size=len(values[3::101])) * tiniest * 20
    values[1::997] = largest * noise.uniform(0.5, 1.0, size=len(values[1::997]))
    return narrow(values, np.dtype(dtype))


def operands(dtypes, *, trims: bool = False, difference: bool = False) -> list[Operand]:
    bounds = {"low": 0.3, "high": 2.5} if trims else {}
    return [
        Operand(tile(dtype, seed=10 + i), difference, weight=(1.0, 0.37, 0.81)[i % 3], key=12345 + 2**63 * i, **bounds)
        for i, dtype in enumerate(dtypes)
    ]


def assert_same_merge(kernels, base, inputs, rule, *, offset=0, state=None, decay=1.0):
    found = []
    for kernel in kernels:
        out, sums = np.empty_like(base), None if state is None else state.copy()
        rows = kernel.combine(base, inputs, rule, offset=offset, out=out, state=sums, decay=decay)
        assert rows is not None
        found.append((out, rows, sums))
    (out, rows, sums), (others, other_rows, other_sums) = found
    assert out.tobytes() == others.tobytes()
    np.testing.assert_allclose(rows, other_rows, rtol=1e-12)
    assert np.array_equal(rows[:, 4:], other_rows[:, 4:])  # counts are exact
    if sums is not None:
        assert sums.tobytes() == other_sums.tobytes()
    return out


RULES = [
    TileRule(divisor=1.7),
    TileRule(scale=0.5),
    TileRule(vote="total", average=True, trims=True),
    TileRule(vote="total", divisor=1.3, trims=True),
    TileRule(vote="count", average=True, trims=True, scale=1.5),
    TileRule(vote="total", average=True),
    TileRule(trims=True, keep=0.4, divisor=2.0),
    TileRule(vote="total", trims=True, keep=0.7),
    TileRule(base_factor=0.0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
def test_compiled_and_torch_merge_to_the_same_bytes(kernels, dtype, rule):
    inputs = operands([dtype] * 3, trims=rule.trims)
    assert_same_merge(kernels, tile(dtype, seed=1), inputs, rule, offset=3 << 14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_any_type_mix_with_a_base_of_any_other(kernels, dtype):
    inputs = [*operands(DTYPES, trims=True), Operand(tile(np.float32, seed=5), difference=True, weight=0.5)]
    assert_same_merge(kernels, tile(dtype, seed=1), inputs, RULES[2])


@pytest.mark.parametrize("decay", [1.0, 0.3])
@pytest.mark.parametrize("k", [0, 2])
def test_running_sums_come_out_the_same(kernels, k, decay):
    noise = np.random.default_rng(3)
    state = np.stack([noise.random(N), -noise.random(N), noise.integers(0, 3, N), noise.integers(0, 3, N)]).astype(np.float64)
    assert_same_merge(kernels, tile(np.uint16, seed=1), operands([np.uint16] * k), RULES[5], state=state, decay=decay)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 16384])
def test_tiles_of_any_length_are_merged_to_the_last_entry(kernels, length):
    base, inputs = tile(np.float32, seed=1)[:length], operands([np.float32] * 2)
    inputs = [replace(operand, data=operand.data[:length]) for operand in inputs]
    out = assert_same_merge(kernels, base, inputs, TileRule(divisor=1.37))
    wide = base.astype(np.float64)
    expected = wide + sum(operand.weight * (operand.data - wide) for operand in inputs) / 1.37
    assert np.array_equal(out, expected.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("prefix_shift", "shift"), [(64, 47), (47, 31), (31, 15), (15, 0)])
def test_magnitudes_are_counted_and_gathered_alike(kernels, dtype, prefix_shift, shift):
    base, operand = tile(dtype, seed=1), Operand(tile(dtype, seed=2))
    wide = [widened(values) for values in (base, operand.data)]
    words = np.abs(wide[1] - wide[0]).view(np.uint64)
    prefix = int(words[17] >> np.uint64(prefix_shift)) if prefix_shift < 64 else 0
    chosen = words[words >> np.uint64(prefix_shift) == prefix] if prefix_shift < 64 else words
    expected = np.bincount(((chosen >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)
    for kernel in kernels:
        tables, out = kernel.tables(), np.empty(N + 1)
        seen = kernel.histogram(base, operand, prefix=prefix, prefix_shift=prefix_shift, shift=shift, tables=tables)
        below = bool((chosen & np.uint64((1 << shift) - 1)).any())
        assert seen == (2 if below or prefix_shift == 64 else 1)
        assert np.array_equal(tables.sum(axis=0), expected)
        count = kernel.gather(base, operand, prefix=prefix, prefix_shift=prefix_shift, out=out)
        assert np.array_equal(out[:count].view(np.uint64), chosen)


def widened(values: np.ndarray) -> np.ndarray:
    wide = (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values
    return wide.astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "input"])
def test_a_number_that_is_not_finite_is_told_by_every_loop(kernels, dtype, bad, where):
    base, data = tile(dtype, seed=1), tile(dtype, seed=2)
    broken = base if where == "base" else data
    broken[N - 2] = np.array([bad], np.float32).view(np.uint16)[1] if dtype == np.uint16 else bad
    for kernel in kernels:
        for rule in RULES:
            assert kernel.combine(base, [Operand(data)], rule, offset=0, out=np.empty_like(base)) is None
        assert not kernel.histogram(base, Operand(data), prefix=0, prefix_shift=64, shift=47, tables=kernel.tables())
        assert kernel.gather(base, Operand(data), prefix=0, prefix_shift=64, out=np.empty(N)) == -1


def test_every_half_and_every_bfloat16_is_read_exactly_and_rounded_back(kernels):
    words = np.arange(1 << 16, dtype=np.uint16)
    halves = words[np.isfinite(words.view(np.float16))].view(np.float16)
    brains = words[np.isfinite((words.astype(np.uint32) << 16).view(np.float32))]
    for values in (halves, brains):
        zero = np.zeros_like(values)
        out = assert_same_merge(kernels, zero, [Operand(values)], TileRule())
        exact = np.empty(len(values))
        kernels[0].combine(np.zeros(len(values)), [Operand(values, difference=True)], TileRule(), offset=0, out=exact)
        assert np.array_equal(exact, widened(values))
        assert np.array_equal(widened(out), widened(values))


@pytest.mark.parametrize("dtype", [np.float16, np.uint16, np.float32])
def test_rounding_is_to_nearest_ties_to_even(kernels, dtype):
    # Half-way points between neighbours, and their neighbours in float32: numpy and torch are the oracles.
    noise = np.random.default_rng(0)
    words = noise.integers(0, 0x7000, 4000).astype(np.uint16)
    low, high = (widened(part.view(np.float16) if dtype == np.float16 else part) for part in (words, words + np.uint16(1)))
    middle = ((low + high) / 2).astype(np.float32)
    around = [middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9e9))]
    values = np.concatenate([*around, *(-part for part in around)]).astype(np.float64)
    out = np.empty(len(values), dtype)
    for kernel in kernels:
        kernel.combine(np.zeros(len(values), dtype), [Operand(values, difference=True)], TileRule(), offset=0, out=out)
        assert out.tobytes() == narrow(values, np.dtype(dtype)).tobytes()


def test_what_is_counted_while_merging_is_what_numpy_counts(kernels):
    base, inputs = tile(np.float32, seed=1, spread=0.1), operands([np.float32] * 3, trims=True)
    base[1::997] = 0.5  # Squares of entries next to overflow would hide all others.
    inputs = [replace(operand, data=np.clip(operand.data, -9, 9)) for operand in inputs]
    rule = TileRule(vote="total", average=True, trims=True)
    wide = base.astype(np.float64)
    moved = [operand.data - wide for operand in inputs]
    kept = [np.where((np.abs(d) >= 0.3) & (np.abs(d) <= 2.5), d, 0) for d in moved]
    total = sum(operand.weight * d for operand, d in zip(inputs, moved, strict=True))
    for kernel in kernels:
        out = np.empty_like(base)
        rows = kernel.combine(base, inputs, rule, offset=0, out=out)
        assert rows is not None and rows.shape == (2, 8)
        merged_square, total_square, dot, base_square, conflicts, counted, changed, touched = rows.sum(axis=0)
        assert total_square == pytest.approx((total**2).sum(), rel=1e-12)
        assert base_square == pytest.approx((wide**2).sum(), rel=1e-12)
        assert merged_square == pytest.approx(((out - wide) ** 2).sum(), rel=1e-4)
        assert dot == pytest.approx(((out - wide) * total).sum(), rel=1e-4)
        assert conflicts == sum((d > 0 for d in kept), False).astype(bool)[sum((d < 0 for d in kept), False).astype(bool)].sum()
        assert counted == sum(np.count_nonzero(d) for d in kept)
        assert changed == sum(np.count_nonzero(d) for d in moved)
        assert touched == np.count_nonzero(np.any([d != 0 for d in moved], axis=0))


def test_the_random_drop_keeps_its_share_and_knows_only_key_and_index():
    kept = {key: random_mask(key, 200_000, 0.3).numpy() for key in (1, 2, 2**63 + 5)}
    for mask in kept.values():
        # A share of 200,000 independent draws: standard deviation sqrt(0.3 · 0.7 / 2e5) = 0.001.
        assert abs(mask.mean() - 0.3) < 0.005
        # Neighbours are independent: both are kept in 0.09 of all pairs.
        assert abs((mask[1:] & mask[:-1]).mean() - 0.09) < 0.004
    for one, other in itertools.combinations(kept.values(), 2):
        assert abs((one & other).mean() - 0.09) < 0.004
    assert np.array_equal(random_mask(1, 50, 0.3).numpy(), kept[1][:50])


def test_the_drop_follows_splitmix64(kernels):
    # The generator's published test vector for seed 1234567: 6457827717110365317, 3203168211198807973, 9817491932198370423.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for word, index in zip(expected, range(3), strict=True):
        uniform = (word >> 11) * 2.0**-53
        for edge, kept in ((np.nextafter(uniform, 1), True), (uniform, False)):
            assert bool(random_mask(1234567, 3, float(edge))[index]) is kept
            for kernel in kernels:
                out = np.empty(3)
                inputs = [Operand(np.ones(3), difference=True, key=1234567)]
                kernel.combine(np.zeros(3), inputs, TileRule(trims=True, keep=float(edge)), offset=0, out=out)
                assert (out[index] != 0) == kept


PAGED = Path("/proc/kallsyms")  # Which the kernel gives out a page at a time, however much is asked for.


def test_a_read_that_stops_short_is_gone_on_with(kernels):
    if not PAGED.exists():
        pytest.skip("needs Linux")
    descriptor = os.open(PAGED, os.O_RDONLY)
    whole = np.frombuffer(PAGED.read_bytes()[: 4 * N], np.uint16)  # Text, in which no bfloat16 is infinite.
    assert len(whole) == 2 * N and len(os.pread(descriptor, 4 * N, 0)) < 4 * N
    base = tile(np.uint16, seed=1)
    merged = []
    for data in (whole[1 : N + 1].copy(), StoredTile(PAGED, descriptor, 2, N, np.dtype(np.uint16))):
        out = np.empty_like(base)
        assert kernels[0].combine(base, [Operand(data, weight=0.5)], TileRule(), offset=0, out=out) is not None
        merged.append(out.tobytes())
    os.close(descriptor)
    assert merged[0] == merged[1]


@pytest.mark.parametrize("shorter", ["base", "input"])
@pytest.mark.parametrize("loop", ["histogram", "span", "gather", "combine"])
def test_a_file_that_ends_within_a_piece_is_named(kernels, tmp_path, loop, shorter):
    values = np.ones(N, np.float32)
    (tmp_path / "shorter").write_bytes(values.tobytes()[:-5])
    descriptor = os.open(tmp_path / "shorter", os.O_RDONLY)
    tiles = {"base": values, "input": values, shorter: StoredTile(tmp_path / "shorter", descriptor, 0, N, np.dtype(np.float32))}
    base, operand, kernel = tiles["base"], Operand(tiles["input"]), kernels[0]
    all_bits = {"prefix": 0, "prefix_shift": 64}
    with pytest.raises(GtrTurboError, match="shorter became shorter while it was read"):
        match loop:
            case "histogram":
                kernel.histogram(base, operand, **all_bits, shift=48, tables=kernel.tables())
            case "span":
                kernel.span(base, operand, Search(first=0, tables=kernel.tables(), rest=np.empty(N)))
            case "gather":
                kernel.gather(base, operand, **all_bits, out=np.empty(N))
            case "combine":
                kernel.combine(base, [operand], TileRule(), offset=0, out=np.empty_like(values))
    os.close(descriptor)


@pytest.mark.parametrize("loop", ["histogram", "span", "gather", "combine"])
def test_a_mapped_file_that_becomes_shorter_between_two_reads_is_named(kernels, tmp_path, loop):
    # Its pages are gone then, and to read one ends a process that does not take care.
    values, path = np.ones(N, np.float32), tmp_path / "shorter"
    path.write_bytes(values.tobytes())
    files, kernel = Files(), kernels[0]
    files.open(path)
    tile = StoredTile(path, -1, 0, N, np.dtype(np.float32), files)
    all_bits = {"prefix": 0, "prefix_shift": 64}
    loops = {
        "histogram": lambda: kernel.histogram(values, Operand(tile), **all_bits, shift=48, tables=kernel.tables()),
        "span": lambda: kernel.span(values, Operand(tile), Search(first=0, tables=kernel.tables(), rest=np.empty(N))),
        "gather": lambda: kernel.gather(values, Operand(tile), **all_bits, out=np.empty(N)),
        "combine": lambda: kernel.combine(values, [Operand(tile)], TileRule(), offset=0, out=np.empty_like(values)),
    }
    assert loops[loop]() is not None
    os.truncate(path, 5000)
    with pytest.raises(GtrTurboError, match="shorter became shorter while it was read"):
        loops[loop]()
    files.close()
    # Other files are read as ever.
    path.write_bytes(values.tobytes())
    files.open(path)
    assert loops[loop]() is not None
    files.close()


@pytest.mark.parametrize(("part", "step"), [(1, 1), (3, 7), (64, 4096), (5, 100_000)])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_sample_counts_the_first_entries_of_each_step(kernels, tmp_path, part, step, mapped):
    values = np.random.default_rng(step).normal(size=50_021).astype(np.float32)
    chosen = np.abs(values[np.arange(len(values)) % step < part].astype(np.float64)).view(np.uint64) >> np.uint64(47)
    (tmp_path / "values").write_bytes(values.tobytes())
    with closing(Files()) as files:
        files.open(tmp_path / "values")
        tile = StoredTile(tmp_path / "values", -1, 0, len(values), values.dtype, files) if mapped else values
        for kernel in kernels:
            tables = kernel.tables()
            operand = Operand(tile, difference=True, sample=(part, step))
            assert kernel.histogram(np.zeros(1), operand, prefix=0, prefix_shift=64, shift=47, tables=tables) == 2
            assert np.array_equal(tables.sum(axis=0), np.bincount(chosen.astype(np.int64), minlength=1 << 16))
