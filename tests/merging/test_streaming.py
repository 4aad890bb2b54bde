"""What is streamed in tiles against the definitions on whole tensors, and the same bytes however the work is cut."""

import itertools
import math
import os
import resource

import numpy as np
import pytest
import torch
from checkpoints import SHAPES, content, noisy, read

from gtrturbo.algorithms import merging as pure
from gtrturbo.merging import engine, kernel, magnitudes, sources, stream, verify
from gtrturbo.merging.tiles import random_mask
from gtrturbo.store.ids import seed_for

# Weights are such that votes of numbers with few bits cannot cancel: which side wins then is a matter of rounding.
METHODS = {
    "ties": {"weights": "ema:0.3173", "density": "0.5"},
    "ties count": {"method": "ties", "parameters": ("count=true",), "density": "0.9,0.5,0.2", "scale": 0.7},
    "ties sum": {"method": "ties", "normalize": False, "weights": "0.2137,0.5231,0.8419"},
    "linear": {"weights": "1,2,4"},
    "linear sum": {"method": "linear", "normalize": False, "weights": "0.2,0.5,-0.3"},
    "task-arithmetic": {"weights": "0.2,-0.5,0.3", "scale": 1.5},
    "dare-linear": {"density": "0.4", "seed": 3},
    "dare-ties": {"density": "0.4", "weights": "0.2137,0.5231,0.8419"},
    "breadcrumbs": {"density": "0.5", "gamma": 0.2},
    "slerp": {"weights": "0.3,0.7"},
    "nuslerp": {"weights": "0.3,0.7"},
    "multislerp": {"weights": "0.2,0.5,0.3"},
    "model-stock": {},
    "sce": {"density": "0.4"},
}


def settings_of(case: str) -> dict:
    return {"method": case.split()[0]} | METHODS[case]


def count_of(case: str) -> int:
    return 2 if case.endswith("slerp") and case != "multislerp" else 3


def shares(k: int, spec: str, *, normalize: bool) -> list[float]:
    if spec == "sma":
        weights = [1.0] * k
    elif spec.startswith("ema:"):
        alpha = float(spec[4:])
        weights = [(1 - alpha) ** (k - 1 - i) for i in range(k)]
    else:
        weights = [float(part) for part in spec.split(",")]
    return [weight / sum(weights) for weight in weights] if normalize else weights


def defined(case: str, name: str, base: np.ndarray, others: list[np.ndarray]) -> torch.Tensor:
    """One tensor of a merge by the definition of its method, in float64."""
    chosen = settings_of(case)
    method, k = chosen["method"], len(others)
    spec, scale, normalize = chosen.get("weights", "sma"), chosen.get("scale", 1.0), chosen.get("normalize", True)
    origin = torch.from_numpy(base.astype(np.float64))
    whole = [torch.from_numpy(other.astype(np.float64)) for other in others]
    moved = [other - origin for other in whole]
    densities = [float(part) for part in chosen.get("density", "0.8").split(",")]
    densities *= k // len(densities)
    sums = method in ("task-arithmetic", "dare-linear", "dare-ties", "breadcrumbs") or not normalize
    weights = shares(k, spec, normalize=not sums)
    if method == "slerp":
        return pure.slerp(whole, t=weights[1])
    if case == "linear sum":
        return pure.weighted_sum(whole, weights=weights)
    if method == "ties":
        trimmed = [pure.trimmed(vector, density=density) for vector, density in zip(moved, densities, strict=True)]
        count = "parameters" in chosen
        return origin + scale * pure.kept_sum(trimmed, weights=weights, count=count, average=normalize)
    if method.startswith("dare"):
        keys = [seed_for(chosen.get("seed", 0), "dare", i, name) for i in range(k)]
        masks = [random_mask(key, base.size, 0.4).reshape(base.shape) for key in keys]
        moved = [pure.drop(vector, kept=mask, density=0.4) for vector, mask in zip(moved, masks, strict=True)]
        if method == "dare-ties":
            return origin + pure.kept_sum(moved, weights=weights, count=False, average=False)
    if method == "breadcrumbs":
        moved = [pure.breadcrumbs(vector, density=0.5, gamma=0.2) for vector in moved]
    merged = {
        "nuslerp": lambda: pure.slerp(moved, t=weights[1], lerp_above=1 - 2**-53),
        "multislerp": lambda: pure.multislerp(moved, weights=weights),
        "model-stock": lambda: pure.model_stock(moved),
        "sce": lambda: pure.sce(moved, density=0.4),
    }.get(method, lambda: pure.weighted_sum(moved, weights=weights))()
    return origin + scale * merged


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("case", METHODS)
def test_what_is_streamed_is_what_is_defined(monkeypatch, folders, family, case, dtype):
    monkeypatch.setattr(sources, "TILE", 1 << 14)
    monkeypatch.setattr(engine, "MERGE_RANGE", 1 << 14)
    base, others = family(count_of(case), dtypes=dtype, shapes=SHAPES | {"long": (20_000,)})
    out = folders.merge(*others, base=base, verify=100, **settings_of(case))
    around, files, found = read(base), [read(other) for other in others], read(out)
    for name, value in around.items():
        expected = defined(case, name, value, [file[name] for file in files])
        size = sum(torch.from_numpy(file[name].astype(np.float64)).abs() for file in [around, *files])
        # Half a unit in the last place for the rounding to the type, another where that passes through float32.
        merged = torch.from_numpy(found[name])
        merged = merged.to(torch.bfloat16) if dtype == "BF16" else merged
        assert verify.ulps(merged, expected, torch.as_tensor(size)).max() <= 1, name
    assert any((found[name] != value).any() for name, value in around.items())


def test_a_unit_in_the_last_place_is_the_distance_to_the_next_number():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        one = torch.tensor([1.0, -3.0, 0.1875], dtype=dtype)
        assert verify.ulps(one, one.double(), torch.zeros(3)).max() == 0
        for steps in (1, 2):
            moved = one.double() + steps * torch.finfo(dtype).eps * torch.tensor([1.0, 2.0, 0.125])
            assert verify.ulps(one, moved, torch.zeros(3)).max() == steps
    # Below the smallest normal number the distance stays what it is there: 2^-24 of halves.
    assert verify.ulps(torch.tensor([0.0]).half(), torch.tensor([3 * 2.0**-24]).double(), torch.zeros(1)).max() == 3


def test_verifying_finds_a_wrong_entry(folders, family, monkeypatch):
    from gtrturbo.errors import GtrTurboError

    base, others = family(2, dtypes="BF16")
    genuine = stream.compiled_kernel()

    class Wrong:
        name, tables, histogram, gather = "wrong", genuine.tables, genuine.histogram, genuine.gather

        def combine(self, origin, operands, rule, **settings):
            sums = genuine.combine(origin, operands, rule, **settings)
            settings["out"][-1:] += 2
            return sums

    monkeypatch.setattr(stream, "compiled_kernel", lambda: Wrong())
    with pytest.raises(GtrTurboError, match=r"differs from the reference by .* units in the last place"):
        folders.merge(*others, base=base, verify=1)
    assert not list(folders.root.glob("*merged*"))


@pytest.mark.parametrize("case", METHODS)
def test_the_same_bytes_however_the_work_is_cut(monkeypatch, folders, family, case):
    shapes = SHAPES | {"long": (70_001,)}
    base, others = family(count_of(case), dtypes="BF16", shapes=shapes)
    reference = content(folders.merge(*others, base=base, **settings_of(case), threads=1))
    for tile, run, few, threads in ((1 << 14, 1 << 14, 100, 3), (1 << 15, 1 << 16, 0, 2)):
        monkeypatch.setattr(sources, "TILE", tile)
        monkeypatch.setattr(engine, "MERGE_RANGE", run)
        monkeypatch.setattr(magnitudes, "FEW", few)
        found = content(folders.merge(*others, base=base, **settings_of(case), threads=threads))
        assert found == reference


@pytest.mark.parametrize("case", METHODS)
def test_without_a_compiler_the_bytes_are_the_same(monkeypatch, folders, family, case):
    base, others = family(count_of(case), dtypes="F32")
    compiled = content(folders.merge(*others, base=base, **settings_of(case)))
    monkeypatch.setattr(stream, "compiled_kernel", lambda: None)
    assert content(folders.merge(*others, base=base, **settings_of(case))) == compiled


def test_a_compiler_that_is_not_there_means_torch_and_is_said(monkeypatch, folders, family, capsys):
    base, others = family(2)
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders.root / "cache"))
    kernel.compiled_kernel.cache_clear()
    try:
        out = folders.merge(*others, base=base)
    finally:
        kernel.compiled_kernel.cache_clear()
    told = capsys.readouterr().err
    assert "no C compiler: CC is /nowhere/cc, and there is no such program." in told and "merging with torch" in told
    assert "torch on cpu" in (out / "timing.json").read_text()


@pytest.mark.parametrize("shards", [(3, 1, 1), (1, 3, 2), (2, 4, 1)])
def test_shards_do_not_change_what_comes_out(folders, family, shards):
    base, others = family(2, dtypes="BF16")
    expected = read(folders.merge(*others, base=base))
    tensors = [read(path) for path in (base, *others)]
    split = [folders.write(f"split{i}", tensors[i], "BF16", shards=n) for i, n in enumerate(shards)]
    out = folders.merge(*split[1:], base=split[0])
    found = read(out)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    assert len(list(out.glob("*.safetensors"))) == shards[0]
    assert (out / "model.safetensors.index.json").exists() == (shards[0] > 1)
    if shards[0] > 1:
        assert (out / "model.safetensors.index.json").read_bytes() == (split[0] / "model.safetensors.index.json").read_bytes()


def test_checkpoints_of_other_types_than_the_base_are_widened(folders):
    base, others = noisy(SHAPES, 3)
    dtypes = ("BF16", "F32", "F16", "F64")
    written = [folders.write(dtype, tensors, dtype) for dtype, tensors in zip(dtypes, [base, *others], strict=True)]
    out = folders.merge(*written[1:], base=written[0], method="linear", verify=9)
    files = [read(path) for path in written]
    for name, value in read(out).items():
        expected = sum(file[name].astype(np.float64) for file in files[1:]) / 3
        assert np.abs(value - expected).max() <= 2**-7 * np.abs(expected).max()
    assert '"BF16"' in (out / "model.safetensors").read_bytes()[:400].decode(errors="ignore")


def test_the_toy_example_of_the_paper(folders):
    # Figure 1: one parameter each of three models: redundant, sign conflict, agreement.
    base = {"w": np.zeros(10)}
    first = {"w": np.array([5.0, 0.1, -4, 3, 0.2, 6, 0, 0, 0, 0])}
    second = {"w": np.array([3.0, -0.2, 6, -4, 5, 0.1, 0, 0, 0, 0])}
    third = {"w": np.array([-1.0, 4, -5, -3, 0.1, 0.3, 0, 0, 0, 0])}
    paths = [folders.write(f"m{i}", tensors) for i, tensors in enumerate((base, first, second, third))]
    # Density 0.4 keeps four entries: (5, −4, 3, 6), (3, 6, −4, 5), (−1, 4, −5, −3).
    # Entry 0: 5 + 3 − 1 > 0: (5 + 3) / 2.   1: 4.   2: −4 + 6 − 5 < 0: −4.5.   3: 3 − 4 − 3 < 0: −3.5.   4: 5.   5: 6.
    found = read(folders.merge(*paths[1:], base=paths[0], density="0.4"))["w"]
    assert found.tolist() == [4.0, 4.0, -4.5, -3.5, 5.0, 6.0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
def test_copies_of_one_checkpoint_give_it_back_across_zero_and_far_from_the_base(folders, dtype, n):
    noise = np.random.default_rng(n)
    size = 4000
    base = noise.normal(size=size) * 10.0 ** noise.integers(-4, 1, size)
    # Other signs, and other exponents: by 2^±20, and by less where 24 bits of mantissa leave less room in 53.
    smallest = -4 if dtype == "F32" else -6
    moved = noise.choice([-1, 1], size) * noise.uniform(1, 2, size) * 10.0 ** noise.integers(smallest, 2, size)
    moved[:300], base[300:600] = 0.0, 0.0
    paths = [folders.write("base", {"w": base}, dtype), folders.write("one", {"w": moved}, dtype)]
    for method in ("ties", "linear"):
        out = folders.merge(*[paths[1]] * n, base=paths[0], density="1", method=method)
        assert read(out)["w"].tobytes() == (read(paths[1])["w"] + 0.0).tobytes()


def test_the_order_of_equal_checkpoints_does_not_matter(folders, family):
    base, others = family(3, dtypes="BF16")
    outs = [content(folders.merge(*order, base=base, density="0.5")) for order in itertools.permutations(others)]
    assert all(out == outs[0] for out in outs)


def test_the_smallest_density_keeps_the_largest_entry_and_its_equals(folders):
    paths = [folders.write("b", {"w": np.zeros(5)}), folders.write("c", {"w": np.array([1.0, -3, 2, 3, 0])})]
    assert read(folders.merge(paths[1], base=paths[0], density="1e-9"))["w"].tolist() == [0, -3, 0, 3, 0]


def test_integers_and_empty_tensors_are_the_bases_and_scalars_are_merged(folders):
    kinds = {"w": "F32", "ids": "I64", "mask": "U8", "none": "F32", "one": "F32"}
    base = {
        "w": np.zeros(3),
        "ids": np.arange(4),
        "mask": np.ones(2),
        "none": np.zeros((0, 3)),
        "one": np.array(1.0),
    }
    other = base | {"w": np.ones(3), "one": np.array(3.0)}
    paths = [folders.write("b", base, kinds), folders.write("c", other, kinds)]
    for method in ("ties", "linear", "sce", "breadcrumbs", "multislerp"):
        found = read(folders.merge(paths[1], base=paths[0], method=method, density="1", verify=9))
        assert found["ids"].tolist() == [0, 1, 2, 3] and found["mask"].tolist() == [1, 1]
        assert found["none"].shape == (0, 3)
        assert found["one"] == 3.0 and found["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("method", sorted({case.split()[0] for case in METHODS}))
def test_a_tensor_that_nobody_changed_stays_as_it_is(folders, method):
    frozen = np.random.default_rng(0).normal(size=50)
    paths = [folders.write(f"m{i}", {"frozen": frozen, "w": np.full(3, float(i))}) for i in range(3)]
    found = read(folders.merge(*paths[1:], base=paths[0], method=method, verify=2))
    assert np.array_equal(found["frozen"], frozen.astype(np.float32))


def test_three_hundred_checkpoints(folders):
    noise = np.random.default_rng(0)
    base, moved = np.zeros(64), noise.normal(size=(300, 64))
    paths = [folders.write(f"c{i}", {"w": row}) for i, row in enumerate(moved)]
    found = read(folders.merge(*paths, base=folders.write("b", {"w": base}), density="1"))["w"]
    single = moved.astype(np.float32).astype(np.float64)
    plus, minus = np.where(single > 0, single, 0).sum(0), np.where(single < 0, single, 0).sum(0)
    expected = np.where(plus + minus >= 0, plus / (single > 0).sum(0), minus / (single < 0).sum(0))
    assert np.abs(found - expected).max() <= 1e-7


def test_dare_keeps_the_task_vector_on_average(folders):
    base, moved = np.zeros(2000), np.random.default_rng(0).normal(size=2000)
    paths = [folders.write("b", {"w": base}), folders.write("c", {"w": moved})]
    outs = [folders.merge(paths[1], base=paths[0], method="dare-linear", density="0.5", seed=seed) for seed in range(40)]
    runs = [read(out)["w"] for out in outs]
    for run in runs[:3]:
        kept = run != 0
        assert np.allclose(run[kept], 2 * moved[kept], rtol=1e-6)
        assert abs(kept.mean() - 0.5) < 0.05  # 4.5 standard deviations of sqrt(0.25 / 2000)
    # The mean of 40 draws of x / p · Bernoulli(p) has standard deviation |x| / sqrt(40) at p = 0.5; 5 of them.
    assert (np.abs(np.mean(runs, axis=0) - moved) <= 5 * np.abs(moved) / math.sqrt(40) + 1e-6).all()
    assert len({run.tobytes() for run in runs}) == 40


def test_two_checkpoints_that_are_equal_are_dropped_at_different_places(folders):
    paths = [folders.write("b", {"w": np.zeros(1000)}), folders.write("c", {"w": np.ones(1000)})]
    found = read(folders.merge(paths[1], paths[1], base=paths[0], method="dare-linear", density="0.5"))["w"]
    assert set(found.tolist()) == {0.0, 2.0, 4.0}


@pytest.mark.parametrize(("method", "compiled"), [("ties", True), ("linear", True), ("linear", False), ("slerp", True)])
def test_few_descriptors_are_enough_for_many_checkpoints_and_shards(folders, monkeypatch, method, compiled):
    k = 2 if method == "slerp" else 40
    base, others = noisy({f"layer{i}": (30,) for i in range(6)}, k)
    paths = [folders.write("b", base, shards=6), *(folders.write(f"c{i}", each, shards=2) for i, each in enumerate(others))]
    if not compiled:
        monkeypatch.setattr(stream, "compiled_kernel", lambda: None)
    expected = content(folders.merge(*paths[1:], base=paths[0], method=method))
    opened = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 24, hard))
    try:
        out = folders.merge(*paths[1:], base=paths[0], method=method, verify=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert content(out) == expected
    assert len(os.listdir("/proc/self/fd")) == opened
