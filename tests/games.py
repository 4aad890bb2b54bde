"""The built-in games in tests: a state's prompt without an agent around it."""

from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import View


def prompt_text(task: Task, info) -> str:
    """Return the text that a state is asked about with."""
    return task.prompt(View(task.make().reset(seed=0)[0], info)).messages[0]["content"][-1]["text"]
