"""What a teacher is asked in words: templates in files, those of `prompts` or the user's own, with $-names for a turn to fill."""

import hashlib
import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import Question
from gtrturbo.store.records import texts_of

if TYPE_CHECKING:  # What only names the files must not wait for Gymnasium.
    from gtrturbo.tasks.task import Task

PROMPTS = Path(__file__).with_name("prompts")
# By the option that names another: what a template may say of a turn.
ABOUT_TURN = ("prompt", "reply", "action", "actions", "hints", "form")
NAMES = {"prompt": ABOUT_TURN, "repair_prompt": ("why",)}
MOST_OF_TEMPLATE = 1 << 20
OTHERS = "or another of the form that was asked for"
KNOWN = "The following is known and true; the student does not know it:"


@dataclass(frozen=True)
class Templates:
    """The question about a turn, and the one that follows an answer that could not be read."""

    question: string.Template
    repair: string.Template

    @property
    def sha256(self) -> str:
        """Hash both texts."""
        return hashlib.sha256("\0".join([self.question.template, self.repair.template]).encode()).hexdigest()


def templates_of(prompt: Path | None, repair: Path | None, *, corrects: bool) -> dict[str, Path]:
    """Name the files of templates, by the option that names another.

    Raises:
        GtrTurboError: one is not there.
    """
    built_in = PROMPTS / ("correct.txt" if corrects else "thoughts.txt")
    files = {"prompt": prompt or built_in, "repair_prompt": repair or PROMPTS / "repair.txt"}
    for option, file in files.items():
        if not file.is_file():
            raise GtrTurboError(f"there is no file {file} for --{option.replace('_', '-')}.", f"begin with a copy of {PROMPTS}")
    return files


def read_templates(files: dict[str, Path]) -> Templates:
    """Read templates.

    Raises:
        GtrTurboError: one is no text, or names what is not known of a turn.
    """
    return Templates(_read("prompt", files["prompt"]), _read("repair_prompt", files["repair_prompt"]))


def _read(option: str, file: Path) -> string.Template:
    try:
        template = string.Template(read_regular(file, most=MOST_OF_TEMPLATE).decode())
    except UnicodeDecodeError:
        raise GtrTurboError(f"{file} is no text in UTF-8.", "save it as such.") from None
    known = NAMES[option]
    if not template.is_valid():
        raise GtrTurboError(f"{file} holds a $ that begins no name.", "write $$ for the sign itself.")
    odd = [name for name in template.get_identifiers() if name not in known]
    if odd:
        raise GtrTurboError(
            f"{file} asks for ${odd[0]}, which is not known.", f"there are: {', '.join('$' + name for name in known)}."
        )
    return template


def filled(template: string.Template, question: Question) -> str:
    """Put a turn into a template; see docs/teachers.md for its names."""
    task = question.task
    assert task is not None
    listed = (json.dumps(action, ensure_ascii=False) for action in task.allowed(question.info))
    said = {
        "prompt": "\n".join(texts_of(question.messages)),
        "reply": question.reply,
        "action": question.action or "",
        "actions": ", ".join([*listed, *([OTHERS] if task.accepts else [])]),
        "hints": f"\n{KNOWN}\n{question.hints}\n" if question.hints else "",
        "form": form_of(task),
    }
    return template.substitute(said).strip()


def form_of(task: "Task") -> str:
    """Show the form of a reply: a JSON object of its fields, or a text where the task has a parser of its own."""
    if task.parse:
        return '"the whole reply"'
    return "{" + ", ".join(f'"{name}": …' for name in (*task.reads, "thoughts", "action")) + "}"
