"""The KL over whole distributions, against sums written out and the exact KL."""

import math

import numpy as np
import pytest
import torch

from gtrturbo.algorithms.kl import exact_reverse_kl, top_reverse_kl
from gtrturbo.algorithms.vocabulary import read_linear, read_logits, top_logprobs

M, V, H = 7, 11, 5
FORBIDDEN = torch.tensor([3, 8])


def distributions(seed: int) -> torch.Tensor:
    """Logits of M distributions, float64, some of them sharp, without the forbidden tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(M, V, generator=generator, dtype=torch.float64)
    return logits.index_fill(-1, FORBIDDEN, -torch.inf)


def kl_to(logits: torch.Tensor, teacher: torch.Tensor, count: int) -> torch.Tensor:
    ids, logprobs, rest = top_logprobs(teacher, count)
    return top_reverse_kl(logits, ids=ids, teacher_logprobs=logprobs, teacher_rest=rest)


def by_hand(logits: torch.Tensor, teacher: torch.Tensor, count: int) -> list[float]:
    """Sort, bucket and sum in plain Python."""
    found = []
    for z, w in zip(logits.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (z, w))
        order = sorted(range(V), key=lambda v: -q[v])
        top, others = order[:count], order[count:]
        buckets = [(p[v], q[v]) for v in top] + [(sum(p[v] for v in others), sum(q[v] for v in others))]
        found.append(sum(a * math.log(a / b) for a, b in buckets if a > 0))
    return found


def test_the_most_likely_tokens_are_those_of_a_sort_and_the_rest_is_their_complement():
    logits = distributions(1)
    ids, logprobs, rest = top_logprobs(logits, 4)
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    order = np.argsort(-shares, axis=-1)[:, :4]
    assert np.array_equal(ids.numpy(), order)
    chosen = np.take_along_axis(shares, order, -1)
    np.testing.assert_allclose(logprobs.exp().numpy(), chosen, atol=1e-12)
    np.testing.assert_allclose(rest.exp().numpy(), 1 - chosen.sum(-1), atol=1e-12)


@pytest.mark.parametrize("count", [9, 10, 500])
def test_more_than_the_vocabulary_is_all_that_may_be_sampled(count):
    ids, _, rest = top_logprobs(distributions(1), count)
    assert all(sorted(row) == [0, 1, 2, 4, 5, 6, 7, 9, 10] for row in ids.tolist())
    assert (rest == -torch.inf).all()


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_the_kl_is_the_sum_over_the_top_and_one_bucket(count):
    logits, teacher = distributions(0), distributions(1)
    assert kl_to(logits, teacher, count).tolist() == pytest.approx(by_hand(logits, teacher, count), abs=1e-10)


def test_over_the_whole_vocabulary_value_and_gradient_are_those_of_the_exact_kl():
    ours, exact = (distributions(0).requires_grad_() for _ in range(2))
    teacher = distributions(1)
    found, expected = kl_to(ours, teacher, V), exact_reverse_kl(exact, teacher)
    (found * torch.arange(1, M + 1)).sum().backward()
    (expected * torch.arange(1, M + 1)).sum().backward()
    assert ours.grad is not None and exact.grad is not None
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)  # The exact KL is in float32.
    torch.testing.assert_close(ours.grad, exact.grad, atol=1e-5, rtol=1e-5)
    assert (ours.grad[:, FORBIDDEN] == 0).all()


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_gradient_is_each_tokens_share_times_how_far_its_bucket_is_above_the_kl(count):
    # dKL/dz_v = p_v (log p_b − log q_b − KL), b the bucket of v.
    logits, teacher = distributions(0).requires_grad_(), distributions(1)
    kl = kl_to(logits, teacher, count)
    kl.sum().backward()
    p, q = logits.detach().softmax(-1), teacher.softmax(-1)
    expected = torch.zeros(M, V, dtype=torch.float64)
    for m in range(M):
        top = q[m].argsort(descending=True)[:count].tolist()
        others = [v for v in range(V) if v not in top]
        for v in range(V):
            bucket = [v] if v in top else others
            if p[m, v] > 0:
                expected[m, v] = p[m, v] * (p[m, bucket].sum().log() - q[m, bucket].sum().log() - kl[m].item())
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, atol=1e-10, rtol=0)


def test_telling_more_tokens_apart_never_lowers_the_kl_and_none_is_above_the_exact_one():
    values = torch.stack([kl_to(distributions(0), distributions(1), count) for count in range(1, V)])
    assert (values.diff(dim=0) >= -1e-12).all() and (values[-1] - values[0] > 0.1).any()


@pytest.mark.parametrize("count", [2, V])
def test_the_kl_of_equal_distributions_is_zero(count):
    # In float32: single shares of log-softmax and of the top may differ by rounding.
    logits = distributions(2).float()
    assert kl_to(logits, logits.clone(), count).abs().max() < 1e-6


def test_a_share_far_below_rounding_of_one_is_still_told_from_none():
    # p = (1 − 1e-30, 1e-30), q = (½, ½): P log(P / Q) is 1e-30 · (−69.1 + 0.7), and the KL ln 2.
    logits, teacher = torch.tensor([[69.0776, 0.0]], requires_grad=True), torch.zeros(1, 2)
    kl = kl_to(logits, teacher, 1)
    kl.sum().backward()
    assert kl.item() == pytest.approx(math.log(2), abs=1e-6)
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("count", [2, V])
def test_in_chunks_the_kl_and_both_gradients_are_those_of_all_at_once(count, chunk):
    torch.manual_seed(0)
    exact = [torch.randn(M, H, dtype=torch.float64).requires_grad_(), torch.randn(V, H, dtype=torch.float64).requires_grad_()]
    ours = [tensor.detach().float().requires_grad_() for tensor in exact]
    ids, logprobs, rest = top_logprobs(distributions(1), count)
    upstream = torch.linspace(-1, 2, M, dtype=torch.float64)
    logits = (exact[0] @ exact[1].T / 0.7).index_fill(-1, FORBIDDEN, -torch.inf)
    expected = top_reverse_kl(logits, ids=ids, teacher_logprobs=logprobs, teacher_rest=rest)
    (expected * upstream).sum().backward()

    def read(logits, part):
        told = {"teacher_logprobs": logprobs[part].float(), "teacher_rest": rest[part].float()}
        return (top_reverse_kl(logits, ids=ids[part], **told),)

    settings = {"temperature": 0.7, "forbidden": FORBIDDEN}
    (found,) = read_linear(*ours, read, **settings, chunk=chunk)
    (found * upstream.float()).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)
    for left, right in zip(ours, exact, strict=True):
        assert left.grad is not None and right.grad is not None
        torch.testing.assert_close(left.grad.double(), right.grad, atol=2e-5, rtol=1e-4)
    (whole,) = read_logits(ours[0].detach() @ ours[1].detach().T, read, **settings)
    torch.testing.assert_close(whole, found.detach(), atol=1e-5, rtol=1e-5)


def test_no_more_than_a_chunk_of_logits_is_seen_at_once_and_the_backward_pass_makes_them_again():
    seen = []

    def read(logits, part):
        seen.append((len(logits), part.start))
        return (logits.logsumexp(-1),)

    hidden, weight = torch.randn(M, H, requires_grad=True), torch.randn(V, H)
    (found,) = read_linear(hidden, weight, read, temperature=1.0, forbidden=FORBIDDEN, chunk=3)
    assert seen == [(3, 0), (3, 3), (1, 6)]
    found.sum().backward()
    assert sorted(seen[3:]) == sorted(seen[:3])


def test_tops_that_do_not_fit_are_refused():
    ids, logprobs, rest = top_logprobs(distributions(1), 2)
    with pytest.raises(ValueError, match=r"ids \[7, 2\], teacher_logprobs \[7, 1\]"):
        top_reverse_kl(distributions(0), ids=ids, teacher_logprobs=logprobs[:, :1], teacher_rest=rest)
    with pytest.raises(ValueError, match=r"teacher_rest \[1\]"):
        top_reverse_kl(distributions(0), ids=ids, teacher_logprobs=logprobs, teacher_rest=rest[:1])
