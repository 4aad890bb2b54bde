"""Random models and settings against float64 by numpy, see fuzz.py; `python tests/merging/fuzz.py` tries ten thousand."""

import warnings

import fuzz
import numpy as np
import pytest

CASES = 64


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
