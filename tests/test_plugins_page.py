"""The page about code of your own: each block is a test plug-in as it stands, and its command finds in it what it names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsed import parsed
from test_readme import FENCE, gtrturbo_calls, shell_lines

from gtrturbo.merging.methods import method_of as merge_method_of
from gtrturbo.models.families import find_family
from gtrturbo.play.agents import ENGINES
from gtrturbo.play.teachers import find_mode, find_teacher
from gtrturbo.plugins import find
from gtrturbo.runs.methods import method_of
from gtrturbo.store.trackers import require_trackers
from gtrturbo.train.credit import find_credit
from gtrturbo.train.guards import find_guard
from gtrturbo.train.guidance import find_estimator

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
NAMED = re.compile(r"tests/plugins/(\w+\.py):(\w+)")


def mode_of(call: list[str]) -> Any:
    return find_mode(parsed(call).mode)


# How each command finds what its option names, checked as the command does it before its work.
FINDERS: dict[tuple[str, str], Callable[[str, list[str]], Any]] = {
    ("merge", "--method"): lambda name, call: merge_method_of(name).rule,
    ("run", "--method"): lambda name, call: method_of(name),
    ("ppo-step", "--credit"): lambda name, call: find_credit(name),
    ("ppo-step", "--guard"): lambda name, call: find_guard(name),
    ("ppo-step", "--kl-estimator"): lambda name, call: find_estimator(name),
    ("distill", "--teacher"): lambda name, call: find_teacher(name, mode_of(call).needs),
    ("eval", "--engine"): lambda name, call: find("engine", name, ENGINES),
    ("init", "--family"): lambda name, call: find_family(name),
    ("sft", "--log"): lambda name, call: require_trackers([name]),
}


def blocks(section: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(SECTIONS[section]) if language in languages]


def calls(section: str) -> list[list[str]]:
    return [call for line in shell_lines(SECTIONS[section]) for call in gtrturbo_calls(line)]


def test_each_seam_has_its_section():
    assert list(SECTIONS) == [
        *(
            "A merge rule",
            "A merge rule of sums",
            "A credit",
            "A guard",
            "A KL estimator",
            "A teacher",
            "An engine",
            "A tracker",
            "A method",
            "A model family",
        ),
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_block_is_a_test_plug_in_as_it_stands(section):
    (file,) = {file for file, _ in NAMED.findall(SECTIONS[section])}
    assert blocks(section, "python") == [(ROOT / "tests" / "plugins" / file).read_text(encoding="utf-8")]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_block_compiles_and_its_command_finds_in_it_what_it_names(section, tmp_path):
    (code,) = blocks(section, "python")
    for call in calls(section):
        place = next(at for at, word in enumerate(call) if NAMED.fullmatch(word))
        file, name = NAMED.fullmatch(call[place]).groups()  # type: ignore[union-attr]
        (tmp_path / file).write_text(code, encoding="utf-8")
        own = f"{tmp_path / file}:{name}"
        FINDERS[call[0], call[place - 1]](own, call)
    assert calls(section)


def test_every_plug_in_of_the_tests_is_on_the_page():
    shown = {file for file, _ in NAMED.findall(PAGE)}
    assert {file.name for file in (ROOT / "tests" / "plugins").glob("*.py")} == shown
