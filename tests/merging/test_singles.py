"""Adapters' products in float32, where that decides as float64 does: the bytes of float64, also where it nearly does not."""

import json
import math

import numpy as np
import pytest
from checkpoints import content, read

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import engine, magnitudes, product_kernel, singles
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.operands import TileRule
from gtrturbo.merging.product_kernel import PANEL, takes

PRODUCTS = getattr(compiled_kernel(), "products", None)
pytestmark = pytest.mark.skipif(PRODUCTS is None, reason="no AVX-512")


@pytest.fixture
def both(folders, monkeypatch):
    """Merge in float32 where that is enough, and in float64: both(base, adapters, **settings) -> the two contents."""
    made = []
    merge = singles.Singles.merge

    def counted(self, target, *given):
        rows = merge(self, target, *given)
        made.append(target.name if rows is not None else "")
        return rows

    def run(base, paths, **settings):
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(singles.Singles, "merge", counted)
            fast = folders.merge(*paths, base=base, **settings)
        assert made and all(made)  # by the loops that are tested
        with monkeypatch.context() as patch:
            patch.setattr(engine, "singles_of", lambda *_: None)
            slow = folders.merge(*paths, base=base, **settings)
        metrics = [json.loads((out / "stage.json").read_text())["metrics"] for out in (fast, slow)]
        assert content(fast) != content(slow) or metrics[0] == pytest.approx(metrics[1], rel=2e-6)
        return content(fast), content(slow)

    return run


def normal(rng, rows: int, width: int, rank: int, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(rows, rank)) * size, rng.normal(size=(rank, width))


METHODS = [
    {"density": "0.8"},
    {"density": "0.2"},
    {"density": "1"},
    {"density": "0.5,0.9,0.1", "weights": "1,0.3,2"},
    {"density": "0.6", "normalize": False, "scale": 0.3},
    {"method": "task-arithmetic", "scale": 1.7},
    {"method": "linear", "weights": "0.2,0.5,0.3"},
    {"density": "0.5", "trim": "global"},
]


@pytest.mark.parametrize("settings", METHODS, ids=str)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_any_shape_and_rank_gives_the_bytes_of_float64(adapted, both, monkeypatch, settings, dtype):
    monkeypatch.setattr(magnitudes, "WORTH_SAMPLING", 3000)
    monkeypatch.setattr(magnitudes, "SAMPLE", 1000)
    rng = np.random.default_rng(3)
    shapes = {"a": (300, 40), "b": (40, 300), "c": (7, 64), "d": (1, 65), "e": (97, 1), "f": (49, 100), "g": (64, 129)}
    weights = {name: rng.normal(size=shape) * 10.0 ** rng.integers(-3, 2) for name, shape in shapes.items()}
    given = []
    for rank in (5, 33, 100):
        factors = {name: normal(rng, *shape, rank, 0.02) for name, shape in shapes.items()}
        for name in ("c", "f"):  # new: B is 0; and some rows and columns that are
            factors[name][0][:: rng.integers(1, 3)] = 0
            factors[name][1][:, ::3] = 0
        given.append(factors)
    del given[1]["g"], given[2]["d"]  # Not all adapters have all modules.
    fast, slow = both(*adapted(weights, given, scale=0.37, dtype=dtype), **settings)
    assert fast == slow


def hidden(values: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Factors of a product that is these values in float64, and in float32 these to a unit of `size`."""
    left = np.ones((len(values), 1)) * size
    above = np.ones((1, values.shape[1]))
    return np.concatenate([left, np.eye(len(values)), -left], axis=1), np.concatenate([above, values, above])


def assert_needs_its_bound(both, monkeypatch, base, paths, **settings) -> None:
    fast, slow = both(base, paths, **settings)
    assert fast == slow
    monkeypatch.setattr(product_kernel, "UNIT", 0.0)
    fast, slow = both(base, paths, **settings)
    assert fast != slow


def test_rounding_that_only_float64_can_decide_is_right(adapted, both, monkeypatch):
    # 1 + 0.75 p rounds to 1 up to p = 2^-8 / 0.75 = 682.67 q, q = 2^-17 being float32's unit of 64, and above that to 1 + 2^-7.
    q, signs = 2.0**-17, np.random.default_rng(0).choice([-1.0, 1.0], (40, 96))
    p = (2.0**-8 / 0.75 + signs * 0.05 * q).astype(np.float32).astype(np.float64)  # In float32 all become 683 q.
    base, paths = adapted({"a": np.ones(signs.shape)}, [{"a": hidden(p, 64.0)}], scale=0.75)
    assert_needs_its_bound(both, monkeypatch, base, paths, density="1")
    merged = read(base.parent / "merged1")["model.a.weight"]
    assert np.array_equal(merged, np.where(signs > 0, 1 + 2.0**-7, 1.0))


def test_signs_that_only_float64_can_elect_are_right(adapted, both, monkeypatch):
    # d = m + 0.625, which is m + 1 in float32, against d and an eighth more or less: the sum of the two has the other's sign.
    rng = np.random.default_rng(1)
    d, other = rng.integers(1, 9, (40, 50)) + 0.625, rng.choice([-0.125, 0.125], (40, 50))
    given = [{"a": hidden(d, 2.0**23)}, {"a": hidden(-d - other, 64.0)}]
    base, paths = adapted({"a": np.zeros(d.shape)}, given, scale=1.0)
    assert_needs_its_bound(both, monkeypatch, base, paths, density="1")
    merged = read(base.parent / "merged1")["model.a.weight"]
    assert np.array_equal(np.sign(merged), -np.sign(other))


@pytest.mark.parametrize("shape", [(40, 50), (600, 500)])
@pytest.mark.parametrize("density", ["0.25", "0.5"])
def test_entries_beside_the_threshold_are_kept_as_in_float64(adapted, both, monkeypatch, shape, density):
    # 1, 2 or 3, and up to 2^-14 more: which of those about the threshold are kept, float32 cannot tell.
    rng = np.random.default_rng(2)
    d = rng.integers(1, 4, shape) + rng.integers(0, 64, shape) * 2.0**-20
    base, paths = adapted({"a": np.ones(shape)}, [{"a": hidden(d, 4096.0)}], scale=1.0)
    assert_needs_its_bound(both, monkeypatch, base, paths, density=density)
    kept = read(base.parent / "merged1")["model.a.weight"] != 1
    assert np.array_equal(kept, d >= np.sort(d.reshape(-1))[::-1][int(float(density) * d.size) - 1])


def test_ties_and_rows_of_any_size_are_as_in_float64(adapted, both):
    rng = np.random.default_rng(4)
    whole = [{"a": (rng.integers(-2, 3, (90, 3)).astype(float), rng.integers(-2, 3, (3, 70)).astype(float))} for _ in range(3)]
    sizes = 10.0 ** rng.integers(-30, 12, 90)[:, None]
    wild = [
        {"a": (rng.normal(size=(90, 3)) * sizes, rng.normal(size=(3, 70)) * 10.0 ** rng.integers(-20, 5, 70))} for _ in range(3)
    ]
    base = np.where(rng.random((90, 70)) < 0.2, 0.0, rng.normal(size=(90, 70)) * sizes)
    for given in (whole, wild, [whole[0], wild[0]]):
        for settings in ({"density": "0.5"}, {"density": "0.03"}, {"method": "linear"}):
            fast, slow = both(*adapted({"a": base}, given), **settings)
            assert fast == slow


@pytest.mark.parametrize(
    ("rows", "width", "rank"), [(30, 70, 1), (7, 64, 31), (13, 200, 33), (50, 65, 256), (6, 1, 64), (200, 300, 8)]
)
@pytest.mark.parametrize("kind", ["normal", "positive", "spread"])
def test_float32_is_off_by_less_than_its_bound(rows, width, rank, kind):
    rng = np.random.default_rng(rank)
    left, right = (part.astype(np.float32) for part in normal(rng, rows, width, rank))
    if kind == "positive":  # All roundings add up, and Cauchy and Schwarz have nothing to give.
        left[:], right[:] = np.abs(left[:1]), np.abs(left[:1].T)
    if kind == "spread":
        left *= 10.0 ** rng.uniform(-12, 3, left.shape).astype(np.float32)
        right *= 10.0 ** rng.uniform(-12, 3, right.shape).astype(np.float32)
    scale = math.pi / 3
    factors = PRODUCTS.pack(left, right, scale)
    exact = (left.astype(np.float64) @ right.astype(np.float64)) * scale
    gathered = PRODUCTS.gather(factors, 0.0, math.inf, rows * width)
    assert (gathered.found, gathered.above) == (rows * width, 0) and sorted(gathered.places) == list(range(rows * width))
    row, column = gathered.places // width, gathered.places % width
    norms = factors.left_norms[row] * factors.right_norms[column // PANEL]
    off = np.abs(gathered.values.astype(np.float64) - np.abs(exact)[row, column])
    assert (off <= factors.unit * norms + factors.least).all() and off.max() <= factors.off
    assert off.max() > 0 or rank == 1
    # And in float64 the products are those of BLAS, but for the order of sums.
    own = PRODUCTS.magnitudes(factors, gathered.places)
    assert np.abs(own - np.abs(exact)[row, column]).max() <= rank * 2.0**-53 * factors.off / factors.unit * 2


@pytest.mark.parametrize("entries", [(50, 70), (600, 900)])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "rows", "whole"])
def test_a_threshold_is_that_of_the_sorted_products(entries, share, kind):
    rng = np.random.default_rng(7)
    left, right = normal(rng, *entries, 16)
    if kind == "rows":  # Half of the rows are nearly nothing: a sample may be far off.
        left *= 10.0 ** rng.uniform(-6, 1, (entries[0], 1))
    if kind == "whole":
        left, right = np.rint(left), np.rint(right)
    left, right = left.astype(np.float32), right.astype(np.float32)
    magnitudes = np.sort(np.abs(left.astype(np.float64) @ (right.astype(np.float64) * 0.75)).reshape(-1))[::-1]
    rank = max(1, int(share * len(magnitudes)))
    found = singles.threshold(PRODUCTS, PRODUCTS.pack(left, right, 0.75), rank)
    assert found is None or found == pytest.approx(magnitudes[rank - 1], rel=1e-14)
    assert found is not None or kind == "whole"  # where too many are equal


def test_what_float32_has_no_bound_for_is_left_to_float64(adapted, folders, monkeypatch):
    rng = np.random.default_rng(8)
    large = [{"a": (part[0] * 1e17, part[1] * 1e17)} for part in (normal(rng, 20, 30, 4) for _ in range(2))]
    base, paths = adapted({"a": rng.normal(size=(20, 30))}, large)
    out = folders.merge(*paths, base=base, density="0.5", verify=1)
    assert np.abs(read(out)["model.a.weight"]).max() > 1e33


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["base", "a", "b"])
def test_numbers_that_are_not_finite_are_named(adapted, folders, bad, where):
    rng = np.random.default_rng(9)
    base, given = rng.normal(size=(20, 30)), [{"a": normal(rng, 20, 30, 4)} for _ in range(2)]
    {"base": base, "a": given[1]["a"][1], "b": given[1]["a"][0]}[where][2, 3] = bad
    folder, paths = adapted({"a": base}, given)
    for settings in ({"density": "0.5"}, {"method": "linear"}):
        with pytest.raises(GtrTurboError, match=f"model.a.weight in .*{'base0' if where == 'base' else 'adapter1'} holds a NaN"):
            folders.merge(*paths, base=folder, **settings)


def test_rules_that_the_loops_do_not_know_are_not_taken():
    assert takes(TileRule(vote="total", average=True, trims=True), (1.0, 0.5))
    for rule in (
        TileRule(keep=0.5),
        TileRule(base_factor=0.0),
        TileRule(vote="count"),
        TileRule(trims=True),
        TileRule(divisor=0.0),
    ):
        assert not takes(rule, (1.0,))
    assert not takes(TileRule(), (1.0, -1.0)) and not takes(TileRule(), (0.0,)) and not takes(TileRule(), (1.0,) * 257)
