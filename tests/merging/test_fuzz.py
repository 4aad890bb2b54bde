"""Random models and settings against float64 by numpy, see fuzz.py; `python tests/merging/fuzz.py` tries ten thousand."""

import json
import warnings

import fuzz
import fuzz_adapters
import numpy as np
import pytest
import torch

import gtrturbo
from gtrturbo.algorithms import merging

CASES = 96


@pytest.mark.parametrize("block", range(8))
def test_random_merges_are_what_their_definitions_say(tmp_path, block):
    warnings.simplefilter("ignore")
    said = []
    for seed in range(block * CASES // 8, (block + 1) * CASES // 8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        said += fuzz.run(seed, folder)
    assert said == []


def test_a_wrong_entry_is_found(tmp_path):
    folders = fuzz.Folders(tmp_path)
    case, base, paths = fuzz.draw(3, folders)
    found = fuzz.read(folders.merge(*paths, base=base, **case.settings))
    assert fuzz.wrong(case, found) == []
    name = next(name for name, value in found.items() if value.size > 3)
    found[name] = found[name].copy()
    found[name].flat[2] *= 1.1
    assert len(fuzz.wrong(case, found)) == 1
    assert np.isfinite(found[name]).all()


def test_cases_are_of_all_methods_and_of_adapters_of_all_kinds(tmp_path):
    drawn, files = set(), set()
    for seed in range(160):
        case, _, paths = fuzz.draw(seed, fuzz.Folders(tmp_path / str(seed)))
        drawn |= {case.settings["method"], case.settings.get("trim")}
        for path in paths:
            if (path / "adapter_config.json").is_file():
                config = json.loads((path / "adapter_config.json").read_text())
                starts = {str(config["init_lora_weights"])}
                files |= {key for key in config if config[key]} | starts | set(config["target_modules"])
    assert drawn >= {*fuzz.METHODS, "global"}
    layers = {"c_fc", "patch", "line", "embed_tokens", "target_parameters", "modules_to_save"}
    assert files >= layers | {"use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "pissa", "olora"}


def wide_matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 4))


def test_what_an_initialisation_takes_out_is_a_projection_of_the_weights():
    # By hand: of rank 4 it is the whole matrix, and below that what is left has nothing of the directions that were taken.
    matrix = wide_matrix()
    for taken in (fuzz_adapters._largest, fuzz_adapters._head_of_qr):
        assert np.abs(taken(matrix, 4) - matrix).max() < 1e-12
        part = taken(matrix, 2)
        assert np.abs(part.T @ (matrix - part)).max() < 1e-12
        assert np.linalg.matrix_rank(part) == 2
    assert np.abs((matrix - fuzz_adapters._head_of_qr(matrix, 2))[:, :2]).max() < 1e-12


def test_sce_counts_no_entry_as_varying_in_which_all_are_equal():
    # The mean of three times 0.1 is not 0.1 in float64. One entry of two varies, and half of one is none.
    given = [np.array([0.1, value]) for value in (1.0, 2.0, 4.0)]
    assert np.stack(given).var(axis=0)[0] > 0
    merged = gtrturbo.merge_tensors({"w": np.zeros(2)}, [{"w": each} for each in given], "sce", density=0.5)
    assert not merged["w"].any()
    assert not merging.sce([torch.from_numpy(each) for each in given], density=0.5).any()
