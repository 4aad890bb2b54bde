"""A checkpoint that is the base, that stands in the list twice, or that changes nothing counts with its weight, by every rule."""

import json

import numpy as np
import pytest
from checkpoints import SHAPES, Folders, noisy, read
from safetensors.numpy import load_file, save_file

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.methods import METHODS

PARAMETERS = {"nearswap": ("t=0.01",)}
MATRIX = "layers.0.weight"


def settings_of(method: str) -> dict:
    kind = METHODS[method]
    weights = {} if kind.weighs else {"weights": "0.7" if kind.most == 1 else "0.3,0.7"}
    return {"method": method, "parameters": PARAMETERS.get(method, ()), **weights}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A base, a checkpoint, both in other shards under other names, an adapter, and one that changes nothing."""
    folders = Folders(tmp_path_factory.mktemp("unmoved"))
    base, (moved,) = noisy(SHAPES, 1)
    paths = {"base": folders.write("base", base), "moved": folders.write("moved", moved)}
    paths |= {"base again": folders.write("b", base, shards=2), "moved again": folders.write("m", moved, shards=3)}
    rng = np.random.default_rng(0)
    for name, size in (("adapter", 0.1), ("still", 0.0)):
        a, b = rng.normal(size=(2, 40)), size * rng.normal(size=(40, 2))
        parts = {"A": a.astype(np.float32), "B": b.astype(np.float32)}
        paths[name] = folders.root / name
        paths[name].mkdir()
        save_file(
            {f"base_model.model.layers.0.lora_{part}.weight": value for part, value in parts.items()},
            paths[name] / "adapter_model.safetensors",
        )
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["0"], "base_model_name_or_path": None}
        (paths[name] / "adapter_config.json").write_text(json.dumps(config))
    factors = load_file(paths["adapter"] / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.layers.0.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return folders, paths, {name: value.astype(np.float32).astype(np.float64) for name, value in base.items()}, b @ a


def assert_same(folders, one, other, base, **settings):
    found, expected = (read(folders.merge(*each, base=base, **settings)) for each in (one, other))
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("method", METHODS)
def test_the_base_and_a_checkpoint_named_twice_count_as_their_copies_do(given, method):
    folders, paths, _, _ = given
    base, again, moved, twice = (paths[name] for name in ("base", "base again", "moved", "moved again"))
    if METHODS[method].most == 1:
        assert_same(folders, [base], [again], base, **settings_of(method))
        return
    for one, other in (([base, moved], [again, moved]), ([moved, moved], [moved, twice])):
        assert_same(folders, one, other, base, **settings_of(method))


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.most != 1])
def test_an_adapter_that_changes_nothing_counts_as_the_base_does(given, method):
    folders, paths, _, _ = given
    still, adapter, base = paths["still"], paths["adapter"], paths["base"]
    assert_same(folders, [adapter, still], [adapter, base], base, **settings_of(method))


@pytest.mark.parametrize("method", ["linear", "task-arithmetic", "nuslerp", "nuslerp-rows", "nuslerp-columns", "ties"])
@pytest.mark.parametrize("first", ["base", "base again", "still"])
def test_half_of_the_base_is_the_straight_line_to_the_other(given, method, first):
    folders, paths, before, product = given
    settings = {"method": method, "weights": "0.5,0.5", "density": "1"}
    other = paths["adapter" if first == "still" else "moved"]
    found = read(folders.merge(paths[first], other, base=paths["base"], **settings))
    moved = read(paths["moved"])
    for name, value in found.items():
        change = moved[name].astype(np.float64) - before[name]
        if first == "still":
            change = product if name == MATRIX else np.zeros_like(before[name])
        share = 1.0 if method == "ties" else 0.5  # TIES divides by the weights of those that agree, and 0 does not.
        np.testing.assert_allclose(value, before[name] + share * change, rtol=2e-7, atol=1e-7)


def test_a_base_that_is_known_is_no_checkpoint_that_lends_its_layout(given):
    folders, paths, _, _ = given
    settings = {"method": "nuslerp", "weights": "0.5,0.5"}
    whole = read(folders.merge(paths["base"], paths["moved"], **settings))
    around = read(folders.merge(paths["base"], paths["moved"], base=paths["base"], **settings))
    assert np.abs(whole[MATRIX] - around[MATRIX]).max() > 1e-4


def test_task_vectors_are_asked_for_where_they_are_a_choice(given):
    folders, paths, _, _ = given
    with pytest.raises(GtrTurboError, match="--task-vectors is for nuslerp and multislerp, not for ties"):
        folders.merge(paths["moved"], base=paths["base"], task_vectors=True)
