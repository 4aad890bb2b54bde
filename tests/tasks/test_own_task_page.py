"""docs/your-own-task.md: what it shows is what the example is, runs, and prints what it says."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.runs.check_task import ON_EPISODES, checks
from gtrturbo.tasks import Ending, View
from gtrturbo.tasks.task import Task

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "your-own-task.md").read_text(encoding="utf-8")
LAKE = ROOT / "examples" / "custom_task" / "frozen_lake.py"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [body for kind, body in BLOCKS if kind == language]


@pytest.fixture(scope="module")
def shown() -> dict:
    """All names that the page's Python makes, run from top to bottom."""
    names: dict = {}
    for body in blocks("python"):
        exec(compile(body, "docs/your-own-task.md", "exec"), names)
    return names


def test_the_page_has_blocks_of_these_kinds_alone():
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", "text"}


def test_the_page_shows_the_example_as_it_is():
    assert blocks("python")[0] == LAKE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CAREFUL", "MINDFUL", "TAGGED"])
def test_the_tasks_of_the_page_pass_the_checks(shown, name):
    assert isinstance(shown[name], Task)
    assert [check for check in checks(shown[name])[0] if check.passed is False] == []


def test_they_do_what_the_page_says(shown):
    corner = {"row": 0, "column": 0, "lake": ["SF", "FG"]}
    assert shown["CAREFUL"].allowed(corner) == ("down", "right")
    assert [shown["CAREFUL"].given(move, corner) for move in ("down", "right")] == [1, 2]
    env = shown["MINDFUL"].make()
    observation, info = env.reset(seed=0)
    known = shown["MINDFUL"].know(env, observation, info)
    asked = shown["MINDFUL"].prompt(View(observation, known, render=env.render))
    assert len(asked.images) == 2 and asked.messages[0]["content"][-1]["text"].endswith("Your moves: none yet.")
    reply = shown["TAGGED"].read("<think>go up</think><answer>up</answer>", corner)
    assert reply.action == "up" and reply.action_start == len("<think>go up</think>") and reply.action_span == (28, 30)
    assert shown["won"](Ending(corner, 1.0, True)) and not shown["won"](Ending(corner, 0.0, True))


def test_every_field_of_a_task_is_told():
    told = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(told) == sorted(Task.__dataclass_fields__)


def test_every_check_is_told():
    table = PAGE[PAGE.index("| check | what is looked at |") :]
    told = re.findall(r"^\| ([\w' -]+) \|", table, re.MULTILINE)[1:]
    assert told == ["environment", *ON_EPISODES, "processes", "tokens", "lengths", "for a run"]


def commands() -> list[str]:
    return [line for body in blocks("sh") for line in body.splitlines() if line]


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_page_work(tmp_path, monkeypatch, init, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "instructed").symlink_to(init)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(LAKE, tmp_path / "my_task.py")
    words = shlex.split(line)[1:]
    more = ["--dry-run"] if words[0] == "run" else []  # What a run does takes minutes.
    result = CliRunner().invoke(app, [*words, *more], input="down\nq\n")
    assert result.exit_code == 0, result.output
    if words[0] == "play":
        assert "left after 1 turns, return 0." in result.stdout


def test_check_task_prints_what_the_page_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, shlex.split(commands()[0])[1:])
    assert result.stdout == blocks("text")[0]
