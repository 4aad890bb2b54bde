"""Methods of arcs on vectors that are opposite, or the same, up to rounding: no arc is theirs, and none may be magnified."""

import numpy as np
import pytest
import torch

from gtrturbo.algorithms import rules
from gtrturbo.algorithms.geometry import slerp_coefficients
from gtrturbo.merging.methods import METHODS


def arcs(first: np.ndarray, second: np.ndarray, kind: str) -> np.ndarray:
    vectors, weights = torch.tensor(np.stack([first, second])), torch.tensor([0.3, 0.7], dtype=torch.float64)
    if kind == "rows":
        return rules.slerp_rows(vectors, weights).numpy()
    if kind == "columns":
        return rules.slerp_columns(vectors, weights, measured=rules.column_products(vectors, weights)).numpy()
    flat = np.stack([first.ravel(), second.ravel()])
    found = METHODS["nuslerp"].coefficients
    assert found is not None
    one, other = found(flat @ flat.T, [0.3, 0.7])
    return one * first + other * second


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("kind", "shape"), [("rows", (2000, 1)), ("columns", (1, 2000)), ("rows", (500, 3)), ("columns", (3, 500))]
)
def test_what_is_parallel_up_to_rounding_is_joined_straight(kind, shape, sign):
    rng = np.random.default_rng(0)
    first = rng.normal(size=shape)
    scale = rng.uniform(0.1, 10, size=(shape[0], 1) if kind == "rows" else (1, shape[1]))
    second = sign * scale * first
    expected = 0.3 * first + 0.7 * second
    assert np.allclose(arcs(first, second, kind), expected, rtol=1e-9, atol=1e-9 * np.abs(first).max())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_so_are_whole_tensors(sign):
    rng = np.random.default_rng(1)
    for _ in range(300):
        first = rng.normal(size=rng.integers(1, 4))
        second = sign * rng.uniform(0.1, 10) * first
        assert np.allclose(arcs(first, second, "whole"), 0.3 * first + 0.7 * second, rtol=1e-9, atol=1e-9)


def test_an_angle_that_can_be_told_keeps_its_arc():
    angle = 1e-5
    one, other = slerp_coefficients(np.array([[1.0, np.cos(angle)], [np.cos(angle), 1.0]]), t=0.7, lerp_above=rules.PARALLEL)
    assert [one, other] != [0.3, 0.7] and (one, other) == pytest.approx((0.3, 0.7), abs=1e-6)
