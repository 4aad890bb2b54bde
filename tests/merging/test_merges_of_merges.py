"""A merge among checkpoints is one of them, never their base by its place in the list; the base is what all lead to."""

import itertools

import numpy as np
import pytest
from checkpoints import noisy, read

from gtrturbo.errors import GtrTurboError


@pytest.fixture
def ranked(adapted):
    """A base, an adapter that merges two, the changes of both, and an adapter of its own with its change."""
    noise = np.random.default_rng(0)
    weights = {"layers.0.q_proj": noise.normal(size=(24, 16))}
    factors = [{"layers.0.q_proj": (noise.normal(size=(24, 2)), noise.normal(size=(2, 16)))} for _ in range(3)]
    base, adapters = adapted(weights, factors)
    changes = [2.0 * b @ a for b, a in (each["layers.0.q_proj"] for each in factors)]
    return base, adapters, changes


def change(out, base) -> np.ndarray:
    name = "model.layers.0.q_proj.weight"
    return read(out)[name].astype(np.float64) - read(base)[name]


@pytest.mark.parametrize("order", itertools.permutations(range(2)))
def test_an_adapter_that_merges_others_is_merged_around_their_base_in_any_order(folders, ranked, order):
    base, adapters, changes = ranked
    merge = folders.merge(*adapters[:2], base=base, method="task-arithmetic", rank=4)
    listed = (merge, adapters[2])
    out = folders.merge(*(listed[i] for i in order), method="task-arithmetic")
    # To the rounding of bfloat16, in which the base is.
    np.testing.assert_allclose(change(out, base), sum(changes), atol=0.13)


def test_an_adapter_that_merges_others_alone_gives_full_weights_around_their_base(folders, ranked):
    base, adapters, changes = ranked
    merge = folders.merge(*adapters[:2], base=base, method="task-arithmetic", rank=4)
    out = folders.merge(merge, method="task-arithmetic")
    np.testing.assert_allclose(change(out, base), changes[0] + changes[1], atol=0.13)


@pytest.mark.parametrize("order", itertools.permutations(range(2)))
def test_a_merge_of_full_weights_is_no_base_of_others(folders, family, order):
    base, others = family(3)
    listed = (folders.merge(*others[:2], base=base), others[2])
    with pytest.raises(GtrTurboError, match="trained from") as error:
        folders.merge(*(listed[i] for i in order), method="task-arithmetic")
    assert "--base" in error.value.fix


def test_two_merges_are_averaged_without_a_base_and_neither_is_left_out(folders):
    base, others = noisy({"w": (30, 20)}, 4)
    written = [folders.write(f"c{i}", each) for i, each in enumerate(others)]
    under = folders.write("base", base)
    merges = [folders.merge(*pair, base=under, method="linear") for pair in (written[:2], written[2:])]
    out = folders.merge(*merges, method="linear")
    np.testing.assert_allclose(read(out)["w"], np.mean([each["w"] for each in others], axis=0), atol=1e-6)
