"""The faster loops for a base in bfloat16 against torch: where float32 is just exact enough, where it is not, at all edges."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gtrturbo.merging.operands import TABLES, Operand, Search, TileRule
from gtrturbo.store.open_files import StoredTile

TIES = TileRule(vote="total", average=True, trims=True)
RULES = {
    "ties": TIES,
    "ties sum": TileRule(vote="total", divisor=1.3, trims=True, scale=0.7),
    "votes": TileRule(vote="total", average=True),
    "linear": TileRule(divisor=3.0),
    "scaled": TileRule(divisor=4.0, scale=0.3, base_factor=0.5),
}


def numbers(rng, n: int, exponents) -> np.ndarray:
    """bfloat16 of both signs, of any 8 bits and of exponents in a range: field 0 holds zeros and subnormal numbers."""
    low, high = exponents
    return (rng.integers(0, 2, n) << 15 | rng.integers(low, high + 1, n) << 7 | rng.integers(0, 128, n)).astype(np.uint16)


def wide(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def differences(rng, n: int, exponents) -> np.ndarray:
    """float32 of both signs, of any 24 bits and of exponents in a range, some of them zeros of both signs."""
    values = (numbers(rng, n, exponents).astype(np.uint32) << 16 | rng.integers(0, 1 << 16, n, np.uint32)).view(np.float32)
    values[::11], values[3::23] = 0.0, -0.0
    return values


def trimmed(operands: list[Operand], rule: TileRule, low: float) -> list[Operand]:
    return [replace(operand, low=low) for operand in operands] if rule.trims else operands


def assert_same(kernels, base, operands, rule):
    found = []
    for kernel in kernels:
        out = np.empty_like(base)
        rows = kernel.combine(base, operands, rule, offset=0, out=out)
        assert rows is not None
        found.append((out, rows))
    (out, rows), (others, other_rows) = found
    assert out.tobytes() == others.tobytes()
    # A sum that was rounded to float32 somewhere would be off by 1e-8, float64 in another order by 1e-13.
    np.testing.assert_allclose(rows, other_rows, rtol=1e-12)
    assert np.array_equal(rows[:, 4:], other_rows[:, 4:])
    return out, rows


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("exponents", [(0, 12), (0, 30), (110, 125), (118, 127), (225, 240), (236, 247), (0, 246)])
def test_numbers_of_any_size_give_torchs_bytes(kernels, rule, k, exponents):
    rng = np.random.default_rng(k)
    base = numbers(rng, 20_011, exponents)
    inputs = [numbers(rng, 20_011, exponents) for _ in range(k)]
    for i in range(k):  # Some as in the base, and zeros, of both signs.
        inputs[i][i::7] = base[i::7]
        inputs[i][i::11] = (rng.integers(0, 2, len(inputs[i][i::11])) << 15).astype(np.uint16)
    low = float(np.median(np.abs(wide(inputs[0]) - wide(base)))) if RULES[rule].trims else 0.0
    assert_same(kernels, base, [Operand(values, low=low) for values in inputs], RULES[rule])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 2, 4, 5])
@pytest.mark.parametrize("weights", [(1.0,), (1.0, math.pi / 4, 0.0, 1e-9)])
@pytest.mark.parametrize("exponents", [(0, 12), (110, 125), (0, 246)])
@pytest.mark.parametrize("length", [7, 20_011])
@pytest.mark.parametrize("factor", [np.float32(1), np.float64(math.pi)])
def test_differences_give_torchs_bytes(kernels, rule, k, weights, exponents, length, factor):
    rng = np.random.default_rng(k)
    base = numbers(rng, length, exponents)
    inputs = [factor * differences(rng, length, exponents) for _ in range(k)]
    operands = [Operand(values, difference=True, weight=weights[i % len(weights)]) for i, values in enumerate(inputs)]
    low = float(np.median(np.abs(inputs[0])))
    for bound in (low, np.nextafter(low, 9), 0.0):
        assert_same(kernels, base, trimmed(operands, RULES[rule], bound), RULES[rule])


@pytest.mark.parametrize("place", [5, 16, 16390, 19_999])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_difference_or_its_base_that_is_not_finite_is_found(kernels, place, bad, k, dtype):
    rng = np.random.default_rng(0)
    base, inputs = numbers(rng, 20_000, (115, 125)), [differences(rng, 20_000, (115, 125)).astype(dtype) for _ in range(k)]
    operands = [Operand(values, difference=True) for values in inputs]
    inputs[-1][place] = bad
    assert not kernels[0].span(base, operands[-1], Search(100, kernels[0].tables(), np.empty(9)))
    assert all(kernels[0].combine(base, operands, rule, offset=0, out=np.empty_like(base)) is None for rule in RULES.values())
    inputs[-1][place], base[place] = 0.0, np.array([bad], np.float32).view(np.uint16)[1]
    assert all(kernels[0].combine(base, operands, rule, offset=0, out=np.empty_like(base)) is None for rule in RULES.values())


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 16, 100, 256, 257])
@pytest.mark.parametrize("vote", [True, False])
def test_no_sum_is_rounded_at_the_edge_of_what_float32_holds(kernels, k, vote):
    large = 127
    for spread in range(4, 19):
        # All but one input are 2 · 254 units of 2^spread from the base, and one is 254 of them and 255 units of 1.
        base = np.full(64, 1 << 15 | large << 7 | 126, np.uint16)
        inputs = [np.full(64, large << 7 | 126, np.uint16) for _ in range(k)]
        inputs[k // 2] = np.full(64, (large - spread) << 7 | 127, np.uint16)
        total = sum(wide(values) - wide(base) for values in inputs)
        units = 254 * (2 * k - 1) * 2**spread + 255  # Odd: exact in float32 as long as it has 24 bits.
        assert np.array_equal(total, total.astype(np.float32)) == (units < 2**24)
        rule = TileRule(vote="total", average=True) if vote else TileRule(divisor=float(k))
        _, rows = assert_same(kernels, base, [Operand(values) for values in inputs], rule)
        assert rows[0, 1] == pytest.approx(64 * (units * 2.0 ** -(7 + spread)) ** 2, rel=1e-13)


def test_sums_that_float32_cannot_hold_are_taken_in_float64(kernels):
    # 2 · 1.9 · 2^127 overflows float32; its half, which is the answer, does not. The sum of all four is 0.
    base, bits = np.zeros(64, np.uint16), 254 << 7 | 115
    inputs = [np.full(64, sign << 15 | bits, np.uint16) for sign in (0, 1, 0, 1)]
    out, _ = assert_same(kernels, base, [Operand(values) for values in inputs], TileRule(vote="total", average=True))
    assert (out == bits).all()


def test_sums_of_all_pairs_of_exponents_are_those_of_float64(kernels):
    # Every pair of exponents, each with every other 8 bits: 256 × 256 differences, of one and of two inputs.
    fields = np.arange(255)
    first, second = (grid.reshape(-1) for grid in np.meshgrid(fields, fields))
    for step in range(0, 128, 43):
        bits = (np.arange(len(first)) * 37 + step) % 128
        base, other = (first << 7 | bits).astype(np.uint16), (1 << 15 | second << 7 | (127 - bits)).astype(np.uint16)
        keep = (first < 250) & (second < 250)  # Sums of larger ones overflow bfloat16, though not float64.
        base, other = base[keep], other[keep]
        for inputs in ([other], [other, np.ascontiguousarray(base[::-1])]):
            for rule in (TileRule(vote="total", average=True), TileRule()):
                assert_same(kernels, base, [Operand(values) for values in inputs], rule)


def test_a_threshold_between_two_numbers_of_float32_cuts_where_it_is(kernels):
    rng = np.random.default_rng(0)
    base, values = numbers(rng, 4096, (118, 122)), numbers(rng, 4096, (118, 122))
    magnitudes = np.abs(wide(values) - wide(base))
    for place in (7, 300, 4000):
        for low in (magnitudes[place], np.nextafter(magnitudes[place], 9), np.nextafter(magnitudes[place], 0)):
            _, rows = assert_same(kernels, base, [Operand(values, low=float(low))], TIES)
            assert rows[:, 5].sum() == (magnitudes >= low).sum()
    _, rows = assert_same(kernels, base, [Operand(values, low=1e300)], TIES)  # above all that float32 holds
    assert rows[:, 5].sum() == 0


@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 31, 255, 16383, 16384, 16385, 16400, 33000])
def test_every_entry_is_merged_once_whatever_the_length(kernels, length):
    rng = np.random.default_rng(length)
    base = numbers(rng, length, (115, 125))
    operands = [Operand(numbers(rng, length, (115, 125))) for _ in range(3)]
    for rule in RULES.values():
        assert_same(kernels, base, trimmed(operands, rule, 0.01), rule)
    _, rows = assert_same(kernels, base, operands, TileRule())
    assert rows[:, 6].sum() == sum((wide(operand.data) != wide(base)).sum() for operand in operands)


@pytest.mark.parametrize("place", [5, 16, 16390, 19_999])
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
@pytest.mark.parametrize("k", [1, 4, 6])
def test_what_is_not_finite_is_found_wherever_it_is(kernels, place, bits, k):
    rng = np.random.default_rng(0)
    base, *inputs = (numbers(rng, 20_000, (115, 125)) for _ in range(k + 1))
    for broken in (base, inputs[-1]):
        before, broken[place] = broken[place], bits
        for rule in RULES.values():
            operands = [Operand(values) for values in inputs]
            assert kernels[0].combine(base, operands, rule, offset=0, out=np.empty_like(base)) is None
        if broken is base or k == 1:
            search = Search(100, kernels[0].tables(), np.empty(9))
            assert not kernels[0].span(base, Operand(inputs[0]), search)
        broken[place] = before


@pytest.mark.parametrize("exponents", [(0, 3), (110, 125), (119, 121), (0, 254)])
@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("width", [1, 3, TABLES])
def test_bins_are_counted_as_torch_and_numpy_count_them(kernels, exponents, quantile, width):
    rng = np.random.default_rng(1)
    base, values = numbers(rng, 20_011, exponents), numbers(rng, 20_011, exponents)
    values[::9], values[3::50] = base[::9], 0
    assert_counted(kernels, base, Operand(values), wide(values) - wide(base), quantile, width)
    for factor in (np.float32(1), np.float64(math.pi)):
        values = factor * differences(rng, 20_011, exponents)
        assert_counted(kernels, base, Operand(values, difference=True), values.astype(np.float64), quantile, width)


def assert_counted(kernels, base, operand, vector, quantile, width):
    words = np.abs(vector).view(np.uint64)
    first = int(np.sort(words)[int(quantile * (len(words) - 1))] >> np.uint64(47))
    searches = []
    for kernel in kernels:
        searches.append(Search(first, kernel.tables(), np.empty(5000), width=width))
        assert kernel.span(base, operand, searches[-1])
    ours, theirs = searches
    bins = (words >> np.uint64(47)).astype(np.int64) - first
    inside = words[(bins >= 0) & (bins < width)]
    assert ours.above == theirs.above == (bins >= width).sum()
    assert ours.tables.sum() == len(inside)
    assert np.array_equal(ours.tables, theirs.tables)
    rest = np.sort(inside[(inside & np.uint64(0x7FFFFFFF)) != 0])
    for search in searches:
        assert search.found == len(rest)
        held = search.rest[: min(search.found, len(search.rest))].view(np.uint64)
        assert np.isin(held, rest).all() and (len(rest) > 5000 or np.array_equal(np.sort(held), rest))


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_tiles_in_files_are_merged_as_tiles_in_memory(kernels, tmp_path, dtype, k):
    # 90,001 entries: several pieces, with a short one at the end; they begin at odd bytes of the file.
    rng, n = np.random.default_rng(0), 90_001
    arrays = [numbers(rng, n, (110, 120)) for _ in range(k + 1)]
    arrays = arrays if dtype == np.uint16 else [wide(values).astype(dtype) for values in arrays]
    file = tmp_path / "file"
    file.write_bytes(b"\0\0\0" + b"".join(values.tobytes() for values in arrays))
    with file.open("rb") as opened:
        stored = [StoredTile(file, opened.fileno(), 3 + i * arrays[0].nbytes, n, arrays[0].dtype) for i in range(k + 1)]
        states = [np.linspace(0, 4, 4 * n).reshape(4, n) for _ in range(3)]
        outs = [np.empty_like(arrays[0]) for _ in range(3)]
        runs = [(kernels[0], arrays), (kernels[0], stored), (kernels[1], stored)]
        for rule, sums in ((TIES, states), (TIES, [None] * 3), (TileRule(divisor=2.0), [None] * 3)):
            for (kernel, tiles), out, state in zip(runs, outs, sums, strict=True):
                operands = trimmed([Operand(tile) for tile in tiles[1:]], rule, 1e-3)
                assert kernel.combine(tiles[0], operands, rule, offset=0, out=out, state=state, decay=0.5) is not None
            assert outs[0].tobytes() == outs[1].tobytes() == outs[2].tobytes()
        assert states[0].tobytes() == states[1].tobytes() == states[2].tobytes()
        counted, gathered, spans = [], [], []
        for kernel, tiles in runs:
            operand = Operand(tiles[1])
            counted.append(kernel.tables())
            assert kernel.histogram(tiles[0], operand, prefix=0, prefix_shift=64, shift=47, tables=counted[-1]) == 2
            gathered.append(np.empty(n))
            assert kernel.gather(tiles[0], operand, prefix=0, prefix_shift=64, out=gathered[-1]) == n
            spans.append(Search(1010 << 5, kernel.tables(), np.empty(n)))
            assert kernel.span(tiles[0], operand, spans[-1])
        for others in (counted, [span.tables for span in spans]):
            assert all(np.array_equal(others[0].sum(axis=0), other.sum(axis=0)) for other in others[1:])
        assert all(np.array_equal(gathered[0], other) for other in gathered[1:])
        assert len({(span.above, span.found) for span in spans}) == 1


def test_weights_that_are_not_1_are_added_in_float64(kernels):
    rng = np.random.default_rng(2)
    base = numbers(rng, 5000, (115, 125))
    operands = [Operand(numbers(rng, 5000, (115, 125)), weight=w) for w in (1.0, 0.9, math.pi / 4, 1e-9, 0.0)]
    for rule in RULES.values():
        assert_same(kernels, base, trimmed(operands, rule, 0.02), rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("exponents", [(0, 30), (118, 127), (0, 246)])
def test_older_processors_give_torchs_bytes(older_kernels, rule, k, exponents):
    test_numbers_of_any_size_give_torchs_bytes(older_kernels, rule, k, exponents)
    test_differences_give_torchs_bytes(older_kernels, rule, k, (1.0, math.pi / 4), exponents, 20_011, np.float64(math.pi))
    test_bins_are_counted_as_torch_and_numpy_count_them(older_kernels, exponents, 0.2, 3)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 7, 8, 9, 11])
@pytest.mark.parametrize(
    "rule", [TIES, TileRule(divisor=3.0), TileRule(divisor=7.0), TileRule(divisor=(1 << 20) + 1.0), TileRule(divisor=1.3)]
)
def test_division_by_multiplication_is_division(kernels, k, rule):
    # All 8 bits of mantissa for base and inputs, and exponents so near that quotients fall on the middle between two results.
    rng = np.random.default_rng(k)
    base = numbers(rng, 200_000, (120, 123))
    inputs = [numbers(rng, 200_000, (120, 123)) for _ in range(k)]
    assert_same(kernels, base, [Operand(values) for values in inputs], rule)
