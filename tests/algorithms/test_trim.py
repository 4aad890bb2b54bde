"""Trimming against a full sort."""

import math

import pytest
import torch

from gtrturbo.algorithms.trim import trim, trim_threshold


def test_trim_keeps_the_largest_magnitudes_of_either_sign():
    # Half of four entries: 4 and −3.
    assert trim(torch.tensor([1.0, -3.0, 4.0, -2.0]), density=0.5).tolist() == [0.0, -3.0, 4.0, 0.0]


def test_trim_keeps_every_entry_tied_with_the_threshold():
    # ⌊0.5 · 4⌋ = 2 entries: the second largest magnitude is 2, and three entries have it.
    assert trim(torch.tensor([2.0, -5.0, -2.0, 2.0]), density=0.5).tolist() == [2.0, -5.0, -2.0, 2.0]
    assert trim(torch.tensor([2.0, -5.0, -1.0, 2.0]), density=0.5).tolist() == [2.0, -5.0, 0.0, 2.0]


def test_trim_keeps_one_entry_however_small_the_density():
    assert trim(torch.tensor([1.0, -3.0, 2.0]), density=1e-9).tolist() == [0.0, -3.0, 0.0]


def test_trim_rounds_the_number_of_entries_down():
    # 0.8 · 4 = 3.2 -> 3 entries.
    assert trim(torch.tensor([1.0, 2.0, 3.0, 4.0]), density=0.8).tolist() == [0.0, 2.0, 3.0, 4.0]


def test_density_one_keeps_everything():
    vector = torch.randn(5, 7)
    assert torch.equal(trim(vector, density=1.0), vector)


def test_threshold_is_zero_when_fewer_entries_changed_than_are_kept():
    vector = torch.tensor([0.0, 0.0, 0.0, 7.0])
    assert trim_threshold(vector, density=0.5) == 0.0
    assert trim_threshold(vector, density=0.25) == 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "ties", "unchanged", "one bin"])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.8, 1.0])
def test_threshold_equals_that_of_a_full_sort(dtype, kind, density):
    # 300,000 entries: more than one tile.
    generator = torch.Generator().manual_seed(7)
    vector = torch.randn(300, 1000, generator=generator)
    if kind == "ties":
        vector = (vector * 4).round()
    if kind == "unchanged":
        vector = vector * (torch.rand(vector.shape, generator=generator) < 0.3)
    if kind == "one bin":
        vector = 1 + vector.abs() * 1e-4
    vector = vector.to(dtype)
    ordered = vector.abs().flatten().double().sort(descending=True).values
    assert trim_threshold(vector, density=density) == ordered[int(density * 300_000) - 1].item()


def test_trim_keeps_shape_and_dtype():
    trimmed = trim(torch.randn(2, 3, 4).bfloat16(), density=0.5)
    assert (trimmed.shape, trimmed.dtype) == ((2, 3, 4), torch.bfloat16)


def test_trim_of_zeros_is_zeros():
    assert trim(torch.zeros(4), density=0.5).tolist() == [0.0] * 4


def test_trim_of_a_single_number():
    assert trim(torch.tensor(-2.0), density=0.1).item() == -2.0


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, 3.0, math.nan])
def test_a_density_outside_zero_and_one_is_refused(density):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got"):
        trim(torch.ones(3), density=density)


@pytest.mark.parametrize("vector", [[], [1.0, math.nan], [math.inf, 1.0], [-math.inf, 1.0]])
def test_empty_and_non_finite_task_vectors_are_refused(vector):
    with pytest.raises(ValueError, match="empty or holds a number that is not finite"):
        trim(torch.tensor(vector), density=0.5)
