"""The table of settings in docs/paper-to-code.md: our defaults as the configs have them, in bold where the paper has others."""

import re
from pathlib import Path

import pytest

from gtrturbo.config import RunConfig
from gtrturbo.config.fields import fields
from gtrturbo.config.games import invalid_reply_cost
from gtrturbo.runs.plan import plan
from gtrturbo.stages import STAGES

PAGE = Path(__file__).parents[1] / "docs" / "paper-to-code.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").partition("## Settings")[2].partition("## ")[0].splitlines()
    if line.startswith("| ")
][1:]
# What an option that is not given means, where the page says it in words: how its help says it.
IN_WORDS = {"the policy's": "--clip-range, as in the paper, if not given", "twice the rank": "twice the rank if not given"}


def options(cell: str):
    """Yield the config field of each option that a cell names, its command before the first."""
    command, *named = re.findall(r"[\w-]+", cell)
    known = {field.option: field for field in fields(STAGES[command].config)}
    yield from (known[name] for name in named)


def default(field) -> float:
    return -invalid_reply_cost("points24") if field.name == "format_invalid" else float(field.default)


def numbers(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", cell.replace("−", "-"))]


def test_the_table_is_found():
    assert len(ROWS) == 12 and {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize(("setting", "paper", "ours", "named"), ROWS, ids=[row[0] for row in ROWS])
def test_our_defaults_are_the_configs_and_bold_where_the_paper_has_others(setting, paper, ours, named):
    said = [text.strip() for text in re.sub(r"\([^)]*\)", "", ours).split(",")]
    for text, field in zip(said, options(named), strict=True):
        if text in IN_WORDS:
            assert field.default is None and IN_WORDS[text] in field.help
            continue
        assert float(text.strip("*").strip("`")) == default(field), field.option
        assert text.startswith("**") == (default(field) not in numbers(paper)), field.option


def test_in_a_run_the_learning_rate_falls_over_all_its_updates(tmp_path):
    steps = plan(RunConfig(out=tmp_path / "run", iterations=7, model="org/model"))
    assert [step.config.schedule_updates for step in steps if step.stage == "ppo-step"] == [7] * 7
