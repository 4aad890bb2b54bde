"""The k-th largest magnitude against a full sort, however the numbers are spread."""

import math

import numpy as np
import pytest
from checkpoints import DEVICES

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import magnitudes
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.magnitudes import NotFinite, kth_largest
from gtrturbo.merging.operands import Operand
from gtrturbo.merging.tiles import TorchKernel

N = 3001
NOISE = np.random.default_rng(0)
SPREADS = {
    "dense": NOISE.normal(size=N),
    "ties": np.round(NOISE.normal(size=N) * 2) / 2,
    "mostly unchanged": NOISE.normal(size=N) * (NOISE.random(N) < 0.2),
    "zeros": np.zeros(N),
    "all equal": np.full(N, -0.1),
    # All in one bin of 16 bits, then in one of 32, then in one of 48: each level has to be walked.
    "one bin": 1 + NOISE.random(N) * 2.0**-6,
    "one bin of the second level": 1 + NOISE.random(N) * 2.0**-22,
    "one bin of the third level": 1 + NOISE.integers(0, 1 << 14, N) * 2.0**-52,
    # Each the first number of its bin of 16 bits.
    "edges of bins": 1 + NOISE.integers(0, 32, N) / 32,
    "all sizes": NOISE.normal(size=N) * 10.0 ** NOISE.integers(-300, 300, N),
    "subnormal": NOISE.integers(0, 99, N) * 5e-324,
}


def kernels():
    return [kernel for kernel in (compiled_kernel(), *map(TorchKernel, DEVICES)) if kernel]


def tiles_of(values: np.ndarray, length: int):
    def tiles(share: int = 1):
        for start in range(0, len(values), length):
            stop = min(start + length, len(values))
            yield np.zeros(1), Operand(values[start : start + max(1, (stop - start) // share)], difference=True)

    return tiles


@pytest.mark.parametrize(("gather", "sampled"), [(1 << 20, False), (40, True), (0, False), (0, True)])
@pytest.mark.parametrize("spread", SPREADS)
def test_the_kth_largest_is_that_of_a_full_sort(monkeypatch, spread, gather, sampled):
    monkeypatch.setattr(magnitudes, "FEW", gather)
    monkeypatch.setattr(magnitudes, "WORTH_SAMPLING", 1 if sampled else 1 << 60)
    monkeypatch.setattr(magnitudes, "SHARE", 1)  # A sample of all, which always leads to the right place.
    values = SPREADS[spread]
    ordered = np.sort(np.abs(values))[::-1]
    ranks = [1, 300, 600, N]
    for kernel in kernels():
        assert kth_largest(kernel, tiles_of(values, 700), N, ranks) == [ordered[rank - 1] for rank in ranks]


@pytest.mark.parametrize("gather", [1 << 20, 0])
def test_one_entry_is_its_own_threshold(monkeypatch, gather):
    monkeypatch.setattr(magnitudes, "FEW", gather)
    for kernel in kernels():
        assert kth_largest(kernel, tiles_of(np.array([-3.5]), 1), 1, [1]) == [3.5]


def test_a_sample_that_misleads_does_no_harm(monkeypatch):
    # The first part of each tile, which is the sample, is 1000 times larger than the rest, or smaller.
    monkeypatch.setattr(magnitudes, "FEW", 40)
    monkeypatch.setattr(magnitudes, "WORTH_SAMPLING", 1)
    for factor in (1000.0, 1e-3):
        values = SPREADS["dense"].copy()
        for start in range(0, N, 700):
            values[start : start + 100] *= factor
        ordered = np.sort(np.abs(values))[::-1]
        for kernel in kernels():
            ranks = [1, 900, 2400, N]
            assert kth_largest(kernel, tiles_of(values, 700), N, ranks) == [ordered[rank - 1] for rank in ranks]


@pytest.mark.parametrize("gather", [1 << 20, 0])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_number_that_is_not_finite_is_told(monkeypatch, gather, bad):
    monkeypatch.setattr(magnitudes, "FEW", gather)
    values = SPREADS["dense"].copy()
    values[-1] = bad
    for kernel in kernels():
        with pytest.raises(NotFinite):
            kth_largest(kernel, tiles_of(values, 700), N, [5])


def test_a_file_that_grows_more_equal_between_passes_is_told_and_overflows_nothing(monkeypatch):
    passes = iter([SPREADS["dense"], np.ones(N)])
    # First pass: 1.0 ± 2^-4 holds few entries. Second pass: everything is there.
    rank = int((np.abs(SPREADS["dense"]) >= 1).sum())
    kernel = kernels()[0]
    monkeypatch.setattr(magnitudes, "FEW", 500)
    with pytest.raises(GtrTurboError, match="changed while it was read"):
        kth_largest(kernel, lambda *share: tiles_of(next(passes), 700)(*share), N, [rank])
