"""What the last bit of a sum decides: products that are 0 or tie stay so, and `--verify` refuses no merge for it."""

import numpy as np
import pytest
import torch
from checkpoints import read

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import engine

UP = "up_proj"
SCALE = 3 / 7  # no power of two: rounds whatever it is multiplied into


@pytest.fixture(params=["float32", "float64"])
def merged(request, folders, monkeypatch):
    """Merge by products in float32, where the machine has the loops for it, or in float64: merged(base, paths, …) -> tensor."""
    if request.param == "float64":
        monkeypatch.setattr(engine, "singles_of", lambda *_: None)
    return lambda base, paths, **settings: read(folders.merge(*paths, base=base, **settings))[f"model.{UP}.weight"]


def test_a_product_that_cancels_is_no_vote(adapted, merged):
    """B A of the first is 0 in every other column, so that there the second is merged as if it were alone."""
    rng = np.random.default_rng(0)
    rows, width = 24, 128
    a = rng.normal(size=(2, width)).astype(np.float32)
    a[:, ::2] = np.array([[0.3], [-0.1]], np.float32)
    b = np.tile(np.array([0.1, 0.3], np.float32), (rows, 1)) * 2.0 ** rng.integers(-3, 3, size=(rows, 1))
    other = rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(3, width)).astype(np.float32)
    base, paths = adapted({UP: np.zeros((rows, width))}, [{UP: (b, a)}, {UP: other}], scale=SCALE)
    found = merged(base, paths, density="1", verify=1)
    alone = torch.from_numpy((other[0].astype(np.float64) @ other[1].astype(np.float64) * SCALE)[:, ::2])
    # Half of these if the first voted, and where it is against the second its own.
    assert torch.equal(torch.from_numpy(found[:, ::2].copy()).bfloat16(), alone.bfloat16())


def test_products_that_tie_at_the_threshold_are_all_kept(adapted, merged):
    """Each row stands in the tensor four times, in some with its terms in another order: all of them are kept, or none."""
    rng = np.random.default_rng(1)
    a = np.tile(rng.integers(-99, 99, size=(1, 96)), (3, 1)).astype(np.float32)
    b = rng.integers(-99, 99, size=(20, 3)).astype(np.float32)
    base, paths = adapted(
        {UP: np.zeros((80, 96))}, [{UP: (np.concatenate([b, -b, b[:, ::-1], b[:, [1, 2, 0]]]), a)}], scale=SCALE
    )
    for density in ("0.1", "0.37", "0.5001"):
        kept = merged(base, paths, density=density, verify=1) != 0
        assert kept.any() and not kept.all()
        assert all((part == kept[:20]).all() for part in np.split(kept, 4))


METHODS = [
    {"trim": "global", "density": "0.5"},
    {"trim": "global", "density": "0.21", "method": "ties", "weights": "0.3,0.7"},
    {"density": "0.5"},
    {"method": "breadcrumbs-ties", "density": "0.5"},
]


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_verify_accepts_what_lies_at_a_bound(adapted, merged, settings):
    """Random products whose last bits differ by the order of their sums: the entry at the threshold is kept by either."""
    rng = np.random.default_rng(2)
    for _ in range(6):
        factors = [{UP: (rng.normal(size=(300, 32)) * 0.1, rng.normal(size=(32, 200)))} for _ in range(2)]
        merged(*adapted({UP: rng.normal(size=(300, 200))}, factors, scale=2 / np.sqrt(32)), verify=1, **settings)


def test_verify_accepts_either_sign_of_what_sums_to_nothing(folders, adapted, merged):
    """Three adapters whose changes add up to 0 up to rounding: the elected sign is chance, the merge is right."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3, 64)).astype(np.float32)
    first, second = rng.normal(size=(2, 40, 3)).astype(np.float32)
    factors = [{UP: (b, a)} for b in (first, second, -(first + second))]
    merged(*adapted({UP: np.zeros((40, 64))}, factors, scale=SCALE), density="1", verify=1)


def test_verify_still_refuses_an_entry_that_is_wrong(folders, adapted, monkeypatch):
    """Kept where it is surely not, and not kept where it surely is."""
    from gtrturbo.merging import verify

    rng = np.random.default_rng(4)
    factors = [{UP: (rng.normal(size=(30, 4)), rng.normal(size=(4, 20)))} for _ in range(2)]
    base, paths = adapted({UP: rng.normal(size=(30, 20))}, factors)
    trimmed = verify.merging.trimmed
    for density in (0.45, 0.55):
        monkeypatch.setattr(verify.merging, "trimmed", lambda vector, *, density, share=density: trimmed(vector, density=share))
        with pytest.raises(GtrTurboError, match="differs from the reference"):
            folders.merge(*paths, base=base, density="0.5", verify=1)
