"""Prompts as a task may lay them out: a content that is a text, a system's message, earlier replies, a picture at the end."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, timed
from PIL import Image
from rich.console import Console

from gtrturbo.analysis.history import read_history
from gtrturbo.config import ExportConfig
from gtrturbo.play.data_urls import with_pictures
from gtrturbo.play.teachers import Question
from gtrturbo.play.teaching.chat import _plain, estimated
from gtrturbo.play.teaching.templates import filled
from gtrturbo.report.episodes import samples
from gtrturbo.report.exporting import export
from gtrturbo.show.turns import show_episode
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import Message, Turn, said, write_rows
from gtrturbo.store.writing import writing
from gtrturbo.tasks.loading import load_task

PICTURE = {"type": "image"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


SYSTEM: Message = {"role": "system", "content": "You play."}
SYSTEM_IN_PARTS: Message = {"role": "system", "content": [words("You play.")]}
ASKED: Message = {"role": "user", "content": [words("Where is the dot?"), PICTURE]}
EARLIER: list[Message] = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": [words("A board"), words("of dots.")]},
    {"role": "tool", "content": "It is 3 wide."},
]
PROMPTS = {"text": [SYSTEM, ASKED], "parts": [SYSTEM_IN_PARTS, ASKED], "earlier": [SYSTEM, *EARLIER, ASKED]}


def play(out: Path, prompt: list[Message]) -> Path:
    """Write turns of one episode of one turn, with one picture."""
    turn = Turn(
        episode=0, turn=0, seed=7, messages=[*prompt, said('{"action": "+"}')], images=["images/0.png"],
        action="+", executed="+", legal=True, perception_correct=None, reward=1.0, reward_terms={},
        terminated=True, truncated=False, won=True, info={},
    )  # fmt: skip
    with writing(out, Provenance("rollout", "turns", {"task": "numberline", "env": []}, {})) as draft:
        (draft.folder / "images").mkdir()
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(draft.folder / "images/0.png")
        write_rows(draft.folder / "turns.jsonl", [turn])
    timed(out, 1.0)
    return out


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_show_prints_all_texts_of_a_prompt(tmp_path, prompt, capsys):
    show_episode(Console(width=200), play(tmp_path / "turns", prompt), 0, None)
    shown = capsys.readouterr().out
    assert "You play." in shown and "Where is the dot?" in shown
    assert ("of dots." in shown) == ("It is 3 wide." in shown) == (len(prompt) > 2)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_a_page_holds_all_texts_of_a_prompt(tmp_path, prompt):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 1: [1, 1]})
    play(run / "rollouts" / "0000", prompt)
    page = samples(read_history(run), 1)
    assert "You play.\n" in page and "\nWhere is the dot?</pre>" in page
    assert ("What is this?\nA board\nof dots.\nIt is 3 wide." in page) == (len(prompt) > 2)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_in_a_trajectory_speaks_the_system_the_user_or_the_agent(tmp_path, prompt):
    folder = export(ExportConfig(turns=play(tmp_path / "turns", prompt), to="atif", out=tmp_path / "atif"))
    steps = json.loads((folder / "episode-000000.json").read_text(encoding="utf-8"))["steps"]
    between = ["user", "agent", "user"] if len(prompt) > 2 else []
    assert [step["source"] for step in steps] == ["system", *between, "user", "agent"]
    assert steps[0]["message"] == [words("You play.")]


def test_a_server_is_sent_a_content_that_is_a_text_as_it_is():
    filled = with_pictures([SYSTEM, *EARLIER, ASKED], [np.zeros((2, 2, 3), np.uint8)])
    assert filled[0] == SYSTEM and filled[1] == EARLIER[0]
    assert [part["type"] for part in filled[-1]["content"]] == ["text", "image_url"]


def test_a_template_is_filled_with_all_texts_of_a_prompt():
    task = load_task("numberline", ())
    known = {"Current": 1, "Target": 2}
    question = Question(row=0, messages=[SYSTEM, *EARLIER, ASKED], images=[], reply="", action=None, info=known,
                        perception_correct=None, task=task)  # fmt: skip
    told = "You play.\nWhat is this?\nA board\nof dots.\nIt is 3 wide.\nWhere is the dot?"
    assert filled(string.Template("$prompt"), question) == told


def test_a_teacher_on_a_server_is_sent_all_of_an_earlier_reply_and_pays_for_every_text():
    sent = _plain([SYSTEM, *EARLIER])
    assert sent == [SYSTEM, EARLIER[0], {"role": "assistant", "content": "A board\nof dots."}, EARLIER[2]]
    # 9 + 13 + 7 + 8 + 13 + 17 characters, 3 to a token, rounded up.
    assert estimated([SYSTEM, *EARLIER, ASKED], [], 5).input == 23
