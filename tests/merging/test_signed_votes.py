"""TIES with weights of both signs, and options that a method makes nothing of."""

import pytest
import torch

import gtrturbo
from gtrturbo.errors import GtrTurboError


def filled(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 2), value)}


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_where_agreeing_weights_sum_to_0_nothing_is_divided(factor):
    # 2, 3 and -0.5 times the factor: + is elected, and the two that agree weigh 1 - 1. mergekit 0.1.5 divides by 1 there.
    weights = [factor, -factor, factor / 2]
    merged = gtrturbo.merge_tensors(filled(0.0), [filled(2.0), filled(-3.0), filled(-1.0)], "ties", weights=weights, density=1.0)
    assert merged["w"].tolist() == [[5.0 * factor] * 2] * 2


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("linear", {"density": 0.3}, "linear trims nothing, got --density 0.3"),
        ("model-stock", {"density": 0.1}, "model-stock trims nothing"),
    ],
)
def test_a_density_that_trims_nothing_is_refused(method, options, said):
    with pytest.raises(GtrTurboError, match=said):
        gtrturbo.merge_tensors(filled(0.0), [filled(2.0), filled(3.0)], method, **options)
