"""Results beyond the range of the output's type: refused by file, tensor and share, or set to its largest number."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import DEVICES, read

from gtrturbo.errors import GtrTurboError

# By type: a number near its end, which twice itself is beyond.
NEAR = {"F16": 60000.0, "BF16": 3e38, "F32": 3e38, "F64": 1.7e308}
LARGEST = {"F16": 65504.0, "BF16": float(np.float32(3.3895314e38)), "F32": float(np.finfo(np.float32).max)}
RULES = Path(__file__).parents[1] / "plugins" / "median_rule.py"


def written(folders, dtype, *rows):
    return [folders.write(f"m{i}-{len(rows[0])}", {"w": np.array(row)}, dtype) for i, row in enumerate(rows)]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare-linear"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_result_that_its_type_cannot_hold_is_refused(folders, monkeypatch, dtype, compiled, method, device):
    if not compiled:
        monkeypatch.setattr("gtrturbo.merging.stream.compiled_kernel", lambda: None)
    near = NEAR[dtype]
    base, *others = written(folders, dtype, [0.0, 1, -1, 2], [near, 2, -near, 2], [near, 3, -near, 2])
    settings = {"base": base, "method": method, "density": "1", "scale": 2.0, "normalize": False, "device": device}
    with pytest.raises(
        GtrTurboError, match=r"w of model.safetensors: 2 of 4 entries .0.5 of all. are beyond what \w+ of the base"
    ):
        folders.merge(*others, **settings)
    found = read(folders.merge(*others, **settings, saturate=True, verify=1))["w"]
    # Task vectors of 1 and 2, twice their sum, over 1; the third entry's are of −near.
    assert found.tolist() == [LARGEST[dtype], 7, -LARGEST[dtype], 2]


def test_the_largest_number_itself_is_in_range(folders):
    largest = LARGEST["F16"]
    base, one = written(folders, "F16", [0.0, 1.0], [largest, -largest])
    assert read(folders.merge(one, base=base, method="linear"))["w"].tolist() == [largest, -largest]


def test_a_narrow_base_of_wide_checkpoints_is_refused(folders):
    base, one = folders.write("b", {"w": np.ones(4)}, "F16"), folders.write("c", {"w": np.array([1e6, 1, 2, 3])}, "F32")
    for method in ("linear", "slerp", "sce", f"{RULES}:median"):
        pair = (one, base) if method == "slerp" else (one,)
        with pytest.raises(GtrTurboError, match="beyond what float16"):
            folders.merge(*pair, base=base, method=method, density="1", **({"weights": "1,0"} if method == "slerp" else {}))


def test_norms_beyond_float64_are_refused(folders):
    base, one = written(folders, "F64", [0.0, 1.0], [NEAR["F64"], 1.0])
    with pytest.raises(GtrTurboError, match=r"norms of what was merged are beyond float64|are beyond what float64"):
        folders.merge(one, base=base, method="linear")


def test_weights_without_bounds_are_refused(folders, family):
    base, others = family(2)
    with pytest.raises(GtrTurboError, match="weights must be at most 1e"):
        folders.merge(*others, base=base, weights="1e308,1e308", method="linear")
