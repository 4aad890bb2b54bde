"""TIES by hand, against a slow loop, and by its invariances."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gtrturbo.algorithms.ties import apply_task_vector, elect_and_merge, linear, task_vector, ties
from gtrturbo.algorithms.weights import checkpoint_weights

EQUAL = [1 / 3] * 3
# Small integers: exact ties at the threshold, exact conflicts and exact zero sums are all frequent.
VECTORS = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(-4, 4), min_size=n, max_size=n), min_size=1, max_size=5)
)


def slow_ties(vectors, weights, density):
    """TIES entry by entry."""
    trimmed = []
    for vector in vectors:
        kept = max(1, int(density * len(vector)))
        threshold = sorted((abs(x) for x in vector), reverse=True)[kept - 1]
        trimmed.append([x if abs(x) >= threshold else 0.0 for x in vector])
    merged = []
    for column in zip(*trimmed, strict=True):
        plus = sum(w * x for w, x in zip(weights, column, strict=True)) >= 0
        agreeing = [(w, x) for w, x in zip(weights, column, strict=True) if x != 0 and (x > 0) == plus]
        merged.append(sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing) if agreeing else 0.0)
    return merged


def drifted(n, size, *, base, scale, dtype):
    generator = torch.Generator().manual_seed(n)
    return [(base.double() + scale * torch.randn(size, generator=generator).double()).to(dtype) for _ in range(n)]


def test_ties_of_three_checkpoints_by_hand():
    vectors = [
        torch.tensor([4.0, 1.0, -2.0, 0.5]),
        torch.tensor([2.0, -3.0, 1.0, 0.5]),
        torch.tensor([-3.0, -1.5, 2.0, 0.5]),
    ]
    # Density 0.75 keeps three of four: the 0.5 of each goes.
    # Entry 0: 4 + 2 − 3 > 0, mean of 4 and 2.   Entry 1: 1 − 3 − 1.5 < 0, mean of −3 and −1.5.
    # Entry 2: −2 + 1 + 2 > 0, mean of 1 and 2.  Entry 3: nobody.
    assert ties(vectors, weights=EQUAL, density=0.75).tolist() == [3.0, -2.25, 1.5, 0.0]


def test_weights_decide_the_sign_and_the_mean():
    vectors = [torch.tensor([4.0, 4.0]), torch.tensor([-1.0, 1.0])]
    # 0.1 · 4 − 0.9 · 1 < 0: minus wins, only the second agrees.  (0.1 · 4 + 0.9 · 1) / 1 = 1.3.
    assert ties(vectors, weights=[0.1, 0.9], density=1.0).tolist() == pytest.approx([-1.0, 1.3], abs=1e-12)


def test_the_sign_is_elected_by_weighted_size_not_by_weight_alone():
    # 0.4 · 4 − 0.6 · 1 > 0, although minus has more weight.
    vectors = [torch.tensor([4.0]), torch.tensor([-1.0])]
    assert ties(vectors, weights=[0.4, 0.6], density=1.0).tolist() == pytest.approx([4.0], abs=1e-12)


def test_a_zero_sum_counts_as_plus():
    vectors = [torch.tensor([-2.0]), torch.tensor([2.0])]
    assert ties(vectors, weights=[0.5, 0.5], density=1.0).tolist() == [2.0]


@settings(max_examples=150, deadline=None)
@given(VECTORS, st.data())
def test_ties_equals_the_slow_loop(vectors, data):
    # Powers of two as weights, so that sums that are 0 on paper are 0 in either computation.
    weights = data.draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=len(vectors), max_size=len(vectors)))
    density = data.draw(st.sampled_from([0.01, 0.2, 0.5, 0.8, 1.0]))
    found = ties([torch.tensor(vector, dtype=torch.float32) for vector in vectors], weights=weights, density=density)
    assert found.tolist() == pytest.approx(slow_ties(vectors, weights, density), abs=1e-12)


def test_ties_of_a_tensor_larger_than_a_tile_equals_its_slices():
    vectors = [torch.randn(3, 50_000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    whole = elect_and_merge(vectors, weights=[0.2, 0.3, 0.5])
    rows = [elect_and_merge([vector[i] for vector in vectors], weights=[0.2, 0.3, 0.5]) for i in range(3)]
    assert torch.equal(whole, torch.stack(rows))


def test_a_transposed_tensor_is_merged_in_its_own_order():
    vector = torch.arange(6.0).view(2, 3).T
    assert torch.equal(elect_and_merge([vector, vector], weights=[1.0, 1.0]), vector.double())


@pytest.mark.parametrize("merge", [lambda v, w: ties(v, weights=w, density=0.8), lambda v, w: linear(v, weights=w)])
def test_the_order_of_checkpoints_does_not_matter(merge):
    vectors = [torch.randn(200, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    weights = [0.4, 0.3, 0.2, 0.1]
    expected = merge(vectors, weights)
    for order in itertools.permutations(range(4)):
        found = merge([vectors[i] for i in order], [weights[i] for i in order])
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_equal_weights_keep_exact_sign_ties_in_any_order():
    # 1 + 1 + 1 + 3 − 6 = 0: plus wins, (1 + 1 + 1 + 3) / 4.
    # Were each weighted by 0.2 first, the positive terms would sum to 1.2000000000000002 or 1.2, by their order.
    for order in set(itertools.permutations([1.0, 1.0, 1.0, 3.0, -6.0])):
        assert elect_and_merge([torch.tensor([x]) for x in order], weights=[0.2] * 5).item() == 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("related", [True, False])
@pytest.mark.parametrize("n", range(1, 17))
def test_copies_of_one_checkpoint_give_that_checkpoint_bit_by_bit(n, related, dtype):
    generator = torch.Generator().manual_seed(100 + n)
    base = (0.02 * torch.randn(2000, generator=generator)).to(dtype)
    drift = 1e-3 if related else 1.0
    (checkpoint,) = drifted(1, 2000, base=base, scale=drift, dtype=dtype)
    vectors = [task_vector(checkpoint, base)] * n
    for weights in ([1 / n] * n, torch.rand(n, generator=generator).add(0.01).tolist(), checkpoint_weights("ema:0.3", n)):
        assert torch.equal(apply_task_vector(base, ties(vectors, weights=weights, density=1.0)), checkpoint)
        assert torch.equal(apply_task_vector(base, linear(vectors, weights=weights)), checkpoint)


def test_merging_is_not_shrunk_by_the_number_of_checkpoints():
    # PEFT's TIES on normalised weights returns 1/n of this.
    vectors = [torch.full((3,), 2.0)] * 4
    assert ties(vectors, weights=[0.25] * 4, density=1.0).tolist() == [2.0] * 3
    assert linear(vectors, weights=[0.25] * 4).tolist() == [2.0] * 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 4.0, 1e3])
def test_only_the_ratios_of_weights_matter(scale):
    vectors = [torch.randn(50, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    weights = [0.2, 0.3, 0.5]
    for merge in (lambda w: ties(vectors, weights=w, density=0.8), lambda w: linear(vectors, weights=w)):
        torch.testing.assert_close(merge([scale * w for w in weights]), merge(weights), atol=1e-14, rtol=0)


def test_sma_is_the_arithmetic_mean_without_trim_or_conflict():
    vectors = [torch.rand(100, generator=torch.Generator().manual_seed(i)).add(0.1) for i in range(5)]
    mean = sum(vector.double() for vector in vectors) / 5
    for merged in (ties(vectors, weights=checkpoint_weights("sma", 5), density=1.0), linear(vectors, weights=[0.2] * 5)):
        torch.testing.assert_close(merged, mean, atol=1e-15, rtol=0)


def test_linear_is_the_weighted_mean_despite_conflicts():
    vectors = [torch.tensor([4.0, 1.0]), torch.tensor([-2.0, 5.0])]
    # (3 · 4 − 2) / 4, (3 + 5) / 4
    assert linear(vectors, weights=[3.0, 1.0]).tolist() == pytest.approx([2.5, 2.0], abs=1e-14)


def test_near_identical_checkpoints_keep_the_length_and_direction_of_their_mean():
    common = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    vectors = [common + 0.05 * torch.randn(5000, generator=torch.Generator().manual_seed(i)) for i in range(1, 5)]
    merged, mean = ties(vectors, weights=[0.25] * 4, density=0.8), linear(vectors, weights=[0.25] * 4)
    assert 0.8 <= merged.norm() / mean.norm() <= 1.2
    assert 0.95 <= merged @ mean / merged.norm() / mean.norm() <= 1.0


def test_zeros_stay_zero():
    assert ties([torch.zeros(3)] * 2, weights=[0.5, 0.5], density=0.8).tolist() == [0.0] * 3


def test_one_entry_is_kept_however_small_the_density():
    vectors = [torch.tensor([1.0, 5.0, 2.0]), torch.tensor([-7.0, 1.0, 2.0])]
    assert ties(vectors, weights=[0.5, 0.5], density=1e-9).tolist() == [-7.0, 5.0, 0.0]


def test_unchanged_entries_do_not_dilute_the_mean():
    # Only the first checkpoint changed this entry: the mean is over those that agree, not over all.
    assert ties([torch.tensor([3.0]), torch.tensor([0.0])], weights=[0.5, 0.5], density=1.0).tolist() == [3.0]


def test_a_checkpoint_of_weight_zero_counts_for_nothing():
    vectors = [torch.tensor([3.0, 0.0]), torch.tensor([-9.0, 5.0])]
    assert ties(vectors, weights=[1.0, 0.0], density=1.0).tolist() == [3.0, 0.0]


def test_task_vectors_are_read_once_one_at_a_time():
    alive: list[int] = []

    def stream():
        for i in range(3):
            alive.append(i)
            yield torch.ones(2) * (i + 1)

    assert ties(stream(), weights=EQUAL, density=1.0).tolist() == [2.0, 2.0]
    assert alive == [0, 1, 2]


def test_merging_leaves_its_inputs_alone():
    vectors = [torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 2.0], dtype=torch.float64)]
    copies = [vector.clone() for vector in vectors]
    ties(vectors, weights=[0.5, 0.5], density=0.5)
    linear(vectors, weights=[0.5, 0.5])
    assert all(torch.equal(vector, copy) for vector, copy in zip(vectors, copies, strict=True))


def test_applying_a_task_vector_scales_and_keeps_the_dtype():
    found = apply_task_vector(torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([0.5, -1.0]), scale=2.0)
    assert (found.tolist(), found.dtype) == ([2.0, 0.0], torch.bfloat16)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be finite"):
        elect_and_merge([torch.ones(1)] * len(weights), weights=weights)


@pytest.mark.parametrize("merge", [elect_and_merge, linear])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_as_many_weights_as_task_vectors_are_needed(merge, n):
    with pytest.raises(ValueError, match="not one task vector for each of the 2 weights"):
        merge([torch.ones(1)] * n, weights=[0.5, 0.5])


@pytest.mark.parametrize("merge", [elect_and_merge, linear])
@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((2, 3), (3,)), ((), (3,))])
def test_task_vectors_of_other_shapes_are_refused(merge, shapes):
    with pytest.raises(ValueError, match="shapes differ"):
        merge([torch.ones(shape) for shape in shapes], weights=[0.5, 0.5])


def test_other_shapes_are_refused_in_differences():
    with pytest.raises(ValueError, match=r"weights \[2\], base \[1\]"):
        task_vector(torch.ones(2), torch.ones(1))
