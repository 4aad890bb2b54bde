"""KL estimators against the exact KL of small categoricals and by hand."""

import math
import subprocess
import sys

import pytest
import torch

from gtrturbo.algorithms.kl import ESTIMATORS, exact_reverse_kl, kl_k1, kl_k1_clipped, kl_k2, kl_k3

P = [0.5, 0.3, 0.15, 0.05]
Q = [0.2, 0.4, 0.1, 0.3]
SAMPLED = {name: estimator for name, estimator in ESTIMATORS.items() if not estimator.distributions}
EXACT = sum(p * math.log(p / q) for p, q in zip(P, Q, strict=True))


def expected_over_student(estimator):
    """E_{y ~ P} k(y), summed over the vocabulary instead of sampled."""
    values = estimator(torch.tensor(P, dtype=torch.float64).log(), torch.tensor(Q, dtype=torch.float64).log())
    return sum(p * value for p, value in zip(P, values.tolist(), strict=True))


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_unbiased_estimators_average_to_the_exact_kl(estimator):
    assert expected_over_student(estimator) == pytest.approx(EXACT, abs=1e-12)


def test_exact_kl_is_the_sum_over_the_vocabulary():
    # Logits are logs up to a constant per position; the second position is the KL the other way round.
    student = torch.tensor([[P, Q]]).log() + 3.0
    teacher = torch.tensor([[Q, P]]).log() - 1.0
    other = sum(q * math.log(q / p) for p, q in zip(P, Q, strict=True))
    assert exact_reverse_kl(student, teacher).tolist()[0] == pytest.approx([EXACT, other], abs=1e-6)


def test_estimators_by_hand():
    # r = ln 2 for the first token (student twice as sure), −ln 2 for the second.
    p, q = torch.tensor([[math.log(0.5), math.log(0.25)]]), torch.tensor([[math.log(0.25), math.log(0.5)]])
    ln2 = math.log(2)
    expected = {
        "k1": [ln2, -ln2],
        "k1-clip": [ln2, 0.0],
        "abs": [ln2, ln2],
        "k2": [ln2**2 / 2, ln2**2 / 2],
        "k3": [0.5 - 1 + ln2, 2 - 1 - ln2],
    }
    assert expected.keys() == SAMPLED.keys()
    for name, values in expected.items():
        assert SAMPLED[name].per_token(p, q).tolist()[0] == pytest.approx(values, abs=1e-6), name


@pytest.mark.parametrize("name", SAMPLED)
def test_every_estimator_is_exactly_zero_for_equal_models(name):
    logprobs = torch.tensor([[-0.1, -7.3, -55.0]])
    assert SAMPLED[name].per_token(logprobs, logprobs.clone()).tolist() == [[0.0, 0.0, 0.0]]


def test_exact_kl_of_equal_models_is_exactly_zero():
    logits = torch.randn(2, 3, 11)
    assert exact_reverse_kl(logits, logits.clone()).abs().max() == 0.0


def test_clip_bounds_each_token_below_at_zero_and_above_at_ten():
    p, q = torch.tensor([[0.0, -3.0, -1.0, -30.0]]), torch.tensor([[-25.0, -4.0, -2.5, -1.0]])
    assert kl_k1_clipped(p, q).tolist() == [[10.0, 1.0, 1.5, 0.0]]
    assert kl_k1_clipped(p, q, upper=1.25).tolist() == [[1.25, 1.0, 1.25, 0.0]]


def test_estimators_that_cannot_be_negative_are_not():
    p, q = torch.linspace(-9, -0.1, 50).view(1, -1), torch.linspace(-0.2, -8, 50).view(1, -1)
    for name in ("k1-clip", "abs", "k2", "k3"):
        assert SAMPLED[name].per_token(p, q).min() >= 0, name


def test_gradient_of_k2_as_a_loss_is_that_of_the_exact_kl():
    # E[r ∇ log p] is the gradient of the KL: k2 may serve as a loss, k1 (E[∇ log p] = 0) may not.
    logits = torch.tensor(P, dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor(Q, dtype=torch.float64).log()
    weights = torch.tensor(P, dtype=torch.float64)
    loss = {k: (weights * k(logits.log_softmax(-1), teacher)).sum() for k in (kl_k1, kl_k2)}
    exact = (logits.log_softmax(-1).exp() * (logits.log_softmax(-1) - teacher)).sum()
    (g1,), (g2,), (g,) = (torch.autograd.grad(term, logits) for term in (loss[kl_k1], loss[kl_k2], exact))
    torch.testing.assert_close(g2, g, atol=1e-12, rtol=0)
    assert g1.abs().max() < 1e-12


def test_exact_kl_leaves_out_excluded_tokens_and_stays_differentiable():
    excluded = torch.tensor([-math.inf])
    student = torch.cat([torch.tensor(P).log(), excluded]).view(1, 1, -1).requires_grad_()
    teacher = torch.cat([torch.tensor(Q).log(), excluded]).view(1, 1, -1)
    found = exact_reverse_kl(student, teacher)
    found.sum().backward()
    assert student.grad is not None
    assert found.item() == pytest.approx(EXACT, abs=1e-6)
    # dKL/dz_v = p_v (log p_v − log q_v − KL)
    expected = [p * (math.log(p / q) - EXACT) for p, q in zip(P, Q, strict=True)] + [0.0]
    assert student.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"logprobs \[2, 3\], teacher_logprobs \[1, 3\]"):
        kl_k3(torch.zeros(2, 3), torch.zeros(1, 3))


def test_the_tables_reasons_are_those_of_estimators_that_are_no_loss():
    assert {name for name, estimator in ESTIMATORS.items() if not estimator.no_loss} == {"k2", "full"}
    assert [name for name, estimator in ESTIMATORS.items() if estimator.distributions] == ["full"]


def test_the_table_is_read_without_pytorch():
    code = "import sys, gtrturbo.algorithms.kl; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"
