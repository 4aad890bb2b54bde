"""Numbers of a manifest that no run can have are damage, whoever reads them."""

import json
import shutil

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.manifest import read_manifest


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
