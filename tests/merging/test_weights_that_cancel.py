"""Methods that elect signs where weights cancel, against exact fractions: what rounding leaves of a sum is no divisor."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from checkpoints import read

from gtrturbo import merge_tensors

CANCELLING = ["0.1,0.2,-0.3,1", "0.2,0.1,-0.3,1", "1,2,-3,10", "1,-1,0.5,2", "1,-1,2,-2", "0.1,0.2,-0.3,0"]


def elected(moved: np.ndarray, weights: str) -> np.ndarray:
    """The mean of the entries [k, n] that agree, with weights as they are written, not as binary numbers hold them."""
    written = [Fraction(text) for text in weights.split(",")]
    merged = []
    for column in moved.T:
        values = [weight * Fraction(value) for weight, value in zip(written, column, strict=True)]
        up = sum(values) >= 0
        agree = [i for i, value in enumerate(values) if value and (value > 0) == up]
        merged.append(float(sum((values[i] for i in agree), Fraction(0)) / (sum(written[i] for i in agree) or 1)))
    return np.array(merged)


@pytest.mark.parametrize("weights", CANCELLING)
@pytest.mark.parametrize("method", ["ties", "dare-ties", "breadcrumbs-ties", "della"])
def test_votes_divide_by_no_remainder_of_rounding(method, weights):
    base, *moved = np.random.default_rng(0).normal(size=(5, 400))
    own = {"epsilon": 0.0} if method == "della" else {}
    given = [{"a": torch.tensor((base + vector).reshape(20, 20))} for vector in moved]
    numbers = [float(text) for text in weights.split(",")]
    found = merge_tensors(
        {"a": torch.tensor(base.reshape(20, 20))}, given, method, weights=numbers, density=1.0, normalize=True, parameters=own
    )
    expected = base + elected(np.stack([each["a"].numpy().ravel() - base for each in given]), weights)
    assert np.allclose(found["a"].numpy().ravel(), expected, rtol=1e-12, atol=1e-12)
    assert np.abs(expected - base).max() > 1


@pytest.mark.parametrize("weights", ["1,-1", "0.1,-0.1", "-3e-300,3e-300"])
def test_folders_whose_weights_sum_to_nothing_elect_all_the_same(folders, weights):
    base, *moved = np.random.default_rng(1).normal(size=(3, 64))
    arrays = {"base": base, "first": base + moved[0], "other": base + moved[1]}
    paths = [folders.write(name, {"a": values.reshape(8, 8)}, "F64") for name, values in arrays.items()]
    found = read(folders.merge(*paths[1:], base=paths[0], method="ties", density="1", weights=weights, verify=64))["a"]
    expected = base + elected(np.stack([arrays["first"] - base, arrays["other"] - base]), weights)
    assert np.allclose(found.ravel(), expected, rtol=1e-12, atol=1e-12)
