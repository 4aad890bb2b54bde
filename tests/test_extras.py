"""The extras that messages and pages tell to install are there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"gtrturbo\[([a-z-]+)\]")


def test_every_extra_that_is_named_is_one_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "gtrturbo").rglob("*.py")]
    named = {name: file.name for file in files for name in NAMED.findall(file.read_text(encoding="utf-8"))}
    assert {"wandb", "minigrid", "miniwob"} <= named.keys()
    assert {name: file for name, file in named.items() if name not in extras} == {}
