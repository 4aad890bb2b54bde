"""Numbers of a manifest that no run can have are damage, whoever reads them."""

import json
import shutil

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.timing import read_timing


@pytest.mark.parametrize(
    ("name", "value"),
    [("episodes", 0), ("episodes", -1), ("episodes", 0.5), ("turns", -2), ("success_rate", 1.5), ("illegal_rate", -0.1)],
)
def test_a_share_or_a_count_that_cannot_be_is_damage(name, value, turns, tmp_path):
    copy = shutil.copytree(turns, tmp_path / "turns")
    content = json.loads((copy / "stage.json").read_text())
    assert name in content["metrics"]
    content["metrics"][name] = value
    (copy / "stage.json").write_text(json.dumps(content))
    with pytest.raises(GtrTurboError, match=rf"is damaged: metrics\.{name} is {float(value)}, which is no"):
        read_manifest(copy)


def test_numbers_as_they_are_recorded_are_read(turns):
    assert read_manifest(turns).metrics["episodes"] == 8


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1", "true", '"1"', "null"])
def test_seconds_that_are_none_are_damage(value, turns, tmp_path):
    (tmp_path / "timing.json").write_text(f'{{"seconds": {value}}}')
    with pytest.raises(GtrTurboError, match="seconds is no number of at least 0"):
        read_timing(tmp_path / "timing.json")
