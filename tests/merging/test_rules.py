"""The rules in Python against mergekit, function by function, and against closed forms where chance decides; and streamed."""

import numpy as np
import pytest
import torch
from checkpoints import content, read
from test_against_mergekit import BASE, WEIGHTS, assert_close, theirs, vectors

from gtrturbo.algorithms import geometry, merging, rules
from gtrturbo.algorithms.geometry import karcher_coefficients
from gtrturbo.merging import sources
from gtrturbo.merging.methods import METHODS

W = torch.tensor(WEIGHTS, dtype=torch.float64)
MIXED = torch.tensor([0.7, -0.4, 1.2], dtype=torch.float64)
pytest.importorskip("mergekit", reason="pip install --no-deps mergekit==0.1.5 immutables==0.21")


def stacked(k: int, **how) -> torch.Tensor:
    return torch.stack(vectors(k, **how))


def sparse(k: int) -> torch.Tensor:
    """Task vectors of which most entries are 0, as after a step of RL in bfloat16."""
    moved = stacked(k)
    return moved.where(torch.rand(moved.shape, generator=torch.Generator().manual_seed(5)) < 0.4, 0.0)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [W, MIXED], ids=["positive", "mixed signs"])
def test_votes_with_weights_of_either_sign(weights, normalize):
    moved = stacked(3)
    expected = theirs("ties", list(moved), base=BASE, weight=weights.tolist(), density=[1.0] * 3, normalize=normalize)
    # In float64 a divisor of 0.3 enlarges rounding by little.
    assert_close(rules.votes(moved, weights, normalize=normalize), expected, 1e-11)


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.5, 0.2, 0.3]])
def test_the_karcher_mean(weights):
    moved = stacked(3)
    from mergekit.merge_methods.karcher import karcher_merge_tensors

    expected = karcher_merge_tensors(list(moved), weights)
    coefficients = geometry.karcher_coefficients(merging.gram(list(moved)).numpy(), weights)
    assert_close(merging.weighted_sum(list(moved), weights=coefficients), expected, 1e-9)


def test_the_karcher_mean_leaves_out_what_has_no_direction_and_of_zeros_is_zero():
    moved = list(stacked(3))
    moved[1] = torch.zeros_like(moved[1])
    from mergekit.merge_methods.karcher import karcher_merge_tensors

    coefficients = geometry.karcher_coefficients(merging.gram(moved).numpy(), [1.0] * 3)
    assert_close(merging.weighted_sum(moved, weights=coefficients), karcher_merge_tensors(moved, [1 / 3] * 3), 1e-9)
    assert geometry.karcher_coefficients(np.zeros((2, 2)), [1.0, 1.0]) == [0.0, 0.0]


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-6, 1e-40])
def test_the_karcher_mean_of_what_is_equal_is_that_however_small(folders, size):
    same = np.full(16, size)
    base, *others = (folders.write(name, {"w": same}, "F64") for name in "abc")
    found = read(folders.merge(*others, base=base, method="karcher", verify=1))["w"]
    assert np.abs(found / size - 1).max() <= 2.0**-50


def test_the_karcher_mean_of_small_vectors_is_that_of_large_ones_made_small():
    moved = list(stacked(3))
    coefficients = [
        geometry.karcher_coefficients(merging.gram([size * vector for vector in moved]).numpy(), [1.0] * 3)
        for size in (1.0, 2.0**-40)
    ]
    assert_close(torch.tensor(coefficients[1]), torch.tensor(coefficients[0]), 1e-12)


@pytest.mark.parametrize("t", [0.01, 0.5, 3.0])
def test_nearswap(t):
    (moved,) = vectors(1)
    assert_close(rules.nearswap(moved[None], torch.ones(1), t=t) + BASE, theirs("nearswap", [moved], base=BASE, t=t) + BASE)


def test_arcee_fusion():
    (moved,) = vectors(1)
    importance = rules.importance(moved[None], torch.ones(1), base=BASE)
    order = importance.flatten().sort().values
    quartiles = order[[int(share * (len(order) - 1)) for share in (0.25, 0.5, 0.75)]]
    fused = rules.arcee_fusion(moved[None], torch.ones(1), base=BASE, measured=quartiles)
    assert_close(fused, theirs("arcee_fusion", [moved], base=BASE))
    assert 0 < int(fused.count_nonzero()) < fused.numel()


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_ram_and_ram_plus(k, epsilon):
    moved, ones = sparse(k), torch.ones(k)
    assert_close(rules.ram(moved, ones, epsilon=epsilon), theirs("ram", list(moved), base=BASE, epsilon=epsilon))
    measured = rules.shared_and_unique(moved, ones, epsilon=epsilon)
    found = rules.ram_plus(moved, ones, measured=measured, epsilon=epsilon, r=0.7, alpha=0.9)
    # Their ratio of two counts is a float32.
    assert_close(found, theirs("ramplus_tl", list(moved), base=BASE, epsilon=epsilon, r=0.7, alpha=0.9), 1e-6)


@pytest.mark.parametrize("base", [None, BASE], ids=["whole", "around a base"])
@pytest.mark.parametrize("row_wise", [False, True])
def test_nuslerp_by_rows_and_by_columns(row_wise, base):
    moved, weights = stacked(2), torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = rules.slerp_rows(moved, weights)
    if row_wise:
        found = rules.slerp_columns(moved, weights, measured=rules.column_products(moved, weights))
    shape = {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
    assert_close(found, theirs("nuslerp", list(moved), base=base, weight=[0.3, 0.7], **shape), 1e-11)


def test_model_stock_by_rows():
    moved = stacked(4)
    assert_close(rules.model_stock_rows(moved, torch.ones(4)), theirs("model_stock", list(moved), base=BASE, filter_wise=True))


@pytest.mark.parametrize("base", [None, BASE], ids=["whole", "around a base"])
def test_multislerp_with_weights_as_they_are(base):
    moved = vectors(3)
    coefficients = geometry.multislerp_coefficients(merging.gram(moved).numpy(), WEIGHTS, normalize_weights=False)
    expected = theirs("multislerp", moved, base=base, weight=WEIGHTS, normalize_weights=False)
    assert_close(merging.weighted_sum(moved, weights=coefficients), expected, 1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-7])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 0.5])
def test_multislerp_adds_eps_to_lengths(eps, size):
    moved = [size * vector for vector in vectors(3)]
    try:
        expected = theirs("multislerp", moved, base=None, weight=WEIGHTS, eps=eps)
    except ValueError as error:
        assert "weighted sum of the input tensors is zero" in str(error)
        with pytest.raises(ValueError, match="the weighted sum of the directions is 0"):
            geometry.multislerp_coefficients(merging.gram(moved).numpy(), WEIGHTS, eps=eps)
        return
    coefficients = geometry.multislerp_coefficients(merging.gram(moved).numpy(), WEIGHTS, eps=eps)
    assert_close(merging.weighted_sum(moved, weights=coefficients) / size, expected / size, 1e-11)


def test_two_opposite_vectors_are_joined_by_a_straight_line():
    (moved,) = vectors(1)
    pair = [moved, -moved]
    coefficients = geometry.multislerp_coefficients(merging.gram(pair).numpy(), [1.0, 1.0])
    assert coefficients == [0.5, 0.5]
    assert float(theirs("multislerp", pair, base=None, weight=[1.0, 1.0]).abs().max()) < 1e-12


def test_breadcrumbs_with_votes():
    moved = vectors(3)
    ours = [merging.breadcrumbs(vector, density=0.6, gamma=0.1) for vector in moved]
    expected = theirs("breadcrumbs_ties", moved, base=BASE, weight=WEIGHTS, density=[0.6] * 3, gamma=[0.1] * 3)
    assert_close(merging.kept_sum(ours, weights=WEIGHTS, count=False, average=False), expected)


def slow_della(moved, noise, densities, epsilons) -> np.ndarray:
    """A loop over rows: ranks by a sort, p from density − ε to density + ε, kept where the noise lies below p, divided by p."""
    kept = np.zeros_like(moved)
    for i, row in np.ndindex(moved.shape[:2]):
        order = sorted(range(moved.shape[2]), key=lambda c: abs(moved[i, row, c]))
        for rank, c in enumerate(order):
            p = densities[i] - epsilons[i] + 2 * epsilons[i] * rank / (moved.shape[2] - 1) if densities[i] < 1 else 1.0
            kept[i, row, c] = moved[i, row, c] / p if noise[i, row, c] < p else 0.0
    return kept


def test_della_is_its_definition_and_right_on_average():
    moved = stacked(3, shape=(6, 9))
    noise = torch.rand(moved.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    densities, epsilons = torch.tensor([0.5, 0.3, 1.0], dtype=torch.float64), torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)
    kept = torch.from_numpy(slow_della(moved.numpy(), noise.numpy(), densities.tolist(), epsilons.tolist()))
    given = {"densities": densities, "noise": noise, "epsilon": epsilons}
    assert_close(rules.della_linear(moved, W, **given), merging.weighted_sum(list(kept), weights=WEIGHTS))
    expected = theirs("ties", list(kept), base=torch.zeros(6, 9, dtype=torch.float64), weight=WEIGHTS, density=[1.0] * 3)
    assert_close(rules.della(moved, W, normalize=True, **given), expected)
    draws = torch.rand((400, *moved.shape), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mean = sum(rules.della_linear(moved, W, densities=densities, noise=one, epsilon=epsilons) for one in draws) / len(draws)
    # A kept entry is divided by its chance, so the mean is the plain sum; 400 draws of spread < 4 leave < 0.2 · 4 sigma.
    assert float((mean - merging.weighted_sum(list(moved), weights=WEIGHTS)).abs().max()) < 0.8


def test_dare_with_a_density_for_each_keeps_these_shares_and_divides_by_them():
    moved = torch.ones(3, 20000, dtype=torch.float64)
    noise = torch.rand(moved.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    densities = torch.tensor([0.2, 0.9, 0.0], dtype=torch.float64)
    alone = [rules.dare(moved, torch.eye(3, dtype=torch.float64)[i], densities=densities, noise=noise) for i in range(3)]
    for vector, density in zip(alone, densities.tolist(), strict=True):
        assert abs(float((vector != 0).double().mean()) - density) < 0.01
        assert set(vector.tolist()) <= {0.0, 1 / density if density else 0.0}


PYTHON = {
    "della": {"parameters": ("epsilon=0.1",), "density": "0.6"},
    "della-linear": {"parameters": ("epsilon=0.1,0.2",), "density": "0.6,0.5"},
    "dare-ties": {"density": "0.6,0.5"},
    "dare-linear": {"density": "0.6,0.5", "normalize": True, "weights": "1,3"},
    "ties": {"weights": "1,-0.5", "density": "0.6,0.5"},
    "breadcrumbs-ties": {"weights": "1,-0.5", "density": "0.6"},
    "ram": {},
    "ram-plus": {"parameters": ("r=0.5", "alpha=0.8")},
    "nuslerp-rows": {"weights": "0.3,0.7"},
    "nuslerp-columns": {"weights": "0.3,0.7"},
    "model-stock-rows": {},
    "karcher": {},
    "nearswap": {"parameters": ("t=0.05",)},
    "arcee-fusion": {},
}
SHAPES = {"embed.weight": (300, 64), "conv.weight": (6, 5, 4), "norm.weight": (64,), "scalar": ()}


@pytest.mark.parametrize("method", PYTHON)
def test_threads_and_tiles_do_not_change_its_bytes_and_the_reference_agrees(folders, family, monkeypatch, capsys, method):
    base, others = family(1 if METHODS[method].most == 1 else 2, shapes=SHAPES, dtypes="BF16")
    one = folders.merge(*others, base=base, method=method, threads=1, verify=4, **PYTHON[method])
    assert "verified: 4 tensors" in capsys.readouterr().err
    four = folders.merge(*others, base=base, method=method, threads=4, **PYTHON[method])
    assert content(one) == content(four) != content(base)
    assert (one / "stage.json").read_bytes() == (four / "stage.json").read_bytes()
    if method in ("nuslerp-columns", "karcher"):
        return  # Sums over the rows of a tile: these follow the tiles, which no setting changes.
    monkeypatch.setattr(sources, "SPOT", 1 << 11)
    assert content(folders.merge(*others, base=base, method=method, threads=2, **PYTHON[method])) == content(one)


def test_rules_that_count_see_the_whole_tensor(folders, family, monkeypatch):
    """RAM+ and Arcee Fusion, cut into tiles of a few rows, are what mergekit makes of whole tensors."""
    monkeypatch.setattr(sources, "SPOT", 1 << 8)
    base, (one, two) = family(2, shapes=SHAPES, dtypes="F64")
    origin, moved = read(base), [read(path) for path in (one, two)]
    merged = folders.merge(one, two, base=base, method="ram-plus", parameters=("r=0.5", "alpha=5", "epsilon=0.1"))
    fused = folders.merge(one, base=base, method="arcee-fusion")
    for name in ("embed.weight", "norm.weight"):
        whole, vectors = torch.from_numpy(origin[name]), [torch.from_numpy(m[name] - origin[name]) for m in moved]
        expected = theirs("ramplus_tl", vectors, base=whole, r=0.5, alpha=5.0, epsilon=0.1)
        assert_close(torch.from_numpy(read(merged)[name]) - whole, expected, 1e-6)  # As above.
        assert_close(torch.from_numpy(read(fused)[name]) - whole, theirs("arcee_fusion", vectors[:1], base=whole))


def test_trimming_all_tensors_together_is_the_authors_way(folders, family):
    """Against a flat sort of each task vector as a whole, as in the authors' code; tensors differ in size of change."""
    base, others = family(3, shapes={"large": (200, 100), "small": (50, 40), "one": (7,)}, dtypes="F64", scale=0.1)
    origin = read(base)
    for number, path in enumerate(others):
        values = read(path)
        values["small"] = origin["small"] + 0.01 * (values["small"] - origin["small"])
        others[number] = folders.write(f"scaled{number}", values, "F64")
    names = list(origin)
    trimmed = []
    for path in others:
        values = read(path)
        flat = np.concatenate([(values[name] - origin[name]).ravel() for name in names])
        least = np.sort(np.abs(flat))[::-1][int(0.3 * len(flat)) - 1]
        trimmed.append(
            {name: np.where(np.abs(values[name] - origin[name]) >= least, values[name] - origin[name], 0) for name in names}
        )
    merged = read(folders.merge(*others, base=base, density="0.3", trim="global", verify=3))
    by_tensor = read(folders.merge(*others, base=base, density="0.3"))
    for name in names:
        moved = [torch.from_numpy(each[name]) for each in trimmed]
        expected = merging.kept_sum(moved, weights=[1.0] * 3, count=False, average=True).numpy()
        assert np.abs(merged[name] - origin[name] - expected).max() <= 1e-12
    assert np.array_equal(merged["small"], origin["small"]) and not np.array_equal(by_tensor["small"], origin["small"])


def test_a_manifest_is_silent_about_what_is_not_set(folders, family):
    base, others = family(2)
    text = (folders.merge(*others, base=base) / "stage.json").read_text()
    assert "trim" not in text and "parameters" not in text
    text = (folders.merge(*others, base=base, trim="global", method="ties") / "stage.json").read_text()
    assert '"trim": "global"' in text


def test_the_karcher_mean_goes_nowhere_from_an_opposite_point():
    # Scalars 1, −1 and 2: directions +, −, +, so the mean is + of the mean norm 4/3, and − is opposite to it.
    vectors = np.array([1.0, -1.0, 2.0])
    found = karcher_coefficients(np.outer(vectors, vectors), [1.0, 1.0, 1.0])
    assert float(np.dot(found, vectors)) == pytest.approx(4 / 3)
