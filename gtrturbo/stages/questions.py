"""Turns as questions to a teacher: the task that they were played on, and what a teacher is told besides."""

from collections.abc import Sequence

from gtrturbo.config import DistillConfig
from gtrturbo.config.choices import OUTCOME
from gtrturbo.config.games import SETTINGS_FILE
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.hints import in_words, outcomes
from gtrturbo.play.teachers import Question
from gtrturbo.plugins import is_outside, load
from gtrturbo.stages import canonical
from gtrturbo.store.ids import short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import ENVIRONMENT
from gtrturbo.store.records import Turn
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.tasks.loading import KIND as TASK
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task


def knowing_task(config: DistillConfig) -> Task | None:
    """Return the task where hints ask what it knows; how an episode ended the turns themselves tell."""
    return task_of(config) if set(config.hints) - {OUTCOME} else None


def hints_of(config: DistillConfig, turns: Sequence[Turn]) -> list[str]:
    """Put what the teacher is told of each of all turns into words."""
    if not config.hints:
        return [""] * len(turns)
    task, ended = knowing_task(config), outcomes(turns)
    return [in_words(config.hints, task, turn.info, ended[turn.episode]) for turn in turns]


def questions_of(
    config: DistillConfig,
    turns: Sequence[Turn],
    tokens: TurnTokens | None,
    *,
    task: Task | None = None,
    hints: Sequence[str] | None = None,
) -> list[Question]:
    """Put turns as questions, each with its tokens and hints, where there are any."""
    temperature = read_manifest(config.rollouts).config["temperature"]
    return [
        Question(
            row=row,
            messages=turn.messages[:-1],
            images=[config.rollouts / image for image in turn.images],
            folder=config.rollouts,
            reply=turn.reply,
            action=turn.action,
            info=turn.info,
            perception_correct=turn.perception_correct,
            task=task,
            response_ids=tokens.response_ids[row] if tokens else None,
            response_spans=tokens.response_spans[row] if tokens else None,
            hints=hints[row] if hints else "",
            temperature=temperature,
        )
        for row, turn in enumerate(turns)
    ]


def task_of(config: DistillConfig) -> Task:
    """Return the task that the turns were played on. Code of the user's own is loaded only if they name it."""
    manifest = read_manifest(config.rollouts)
    played, env = manifest.config["task"], manifest.config["env"]
    if config.task is None and is_outside(played):
        raise GtrTurboError(
            f"{config.rollouts} was played on {played}, code of your own, which is loaded only if you name it.",
            f"add: --task path/to/{played}",
        )
    if config.task and canonical(TASK, config.task) != played:
        raise GtrTurboError(f"{config.rollouts} was played on {played}, not {config.task}.", "name that one.")
    if config.task and is_outside(config.task):
        then, now = manifest.plugins["task"]["sha256"], load(TASK, config.task).sha256
        if then != now:
            raise GtrTurboError(
                f"{config.rollouts} was played on another text of {played} ({short(then)}, not {short(now)}).",
                "play again, or bring back the file as it was.",
            )
    kept = config.rollouts / ENVIRONMENT
    if kept.is_file():  # Turns of earlier versions name the place where it lay.
        env = [f"{SETTINGS_FILE}{kept}" if each.startswith(SETTINGS_FILE) else each for each in env]
    return load_task(config.task or played, env)
