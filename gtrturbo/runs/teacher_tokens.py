"""Whether a teacher from outside has the student's tokens, told before a run begins; distill itself asks once more."""

import importlib
from collections.abc import Sequence
from contextlib import suppress

from gtrturbo.config import CheckTaskConfig, DistillConfig, RolloutConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import find_mode
from gtrturbo.plugins import is_outside, names_code
from gtrturbo.runs.plan import Step
from gtrturbo.stages.resolve import teachers_of
from gtrturbo.store.names import MANIFEST


def check_tokenizers(config: RunConfig, steps: Sequence[Step]) -> None:
    """Refuse a teacher whose log-probs are asked for and whose tokenizer is not the student's, where both are on this machine.

    Raises:
        GtrTurboError: names the parts that differ, or says why a teacher's tokenizer cannot be read.
    """
    made = {step.config.out for step in steps} | {config.start}
    asked = [step.config for step in steps if isinstance(step.config, DistillConfig) and _scores(step.config)]
    scoring = [each for each in asked if not (each.out / MANIFEST).is_file()]  # What is done was asked about then.
    named = {
        teacher: None for each in scoring for teacher in teachers_of(each) if teacher not in made and not names_code(teacher)
    }
    if not named:
        return
    was, student = None, str(config.start or config.model)
    env = next(step.config.env for step in steps if isinstance(step.config, RolloutConfig))
    with suppress(GtrTurboError, OSError, ValueError):  # It may not be here yet, and who loads it says why.
        was = _contents(config.task, env, student)
    for teacher in named:
        own = _contents(config.task, env, str(teacher))
        if was:
            importlib.import_module("gtrturbo.stages.teachers").require_tokenizer(
                teacher, own, was, f"which begins as {student}", mend="use --method gtr, which asks in words"
            )


def _scores(config: DistillConfig) -> bool:
    return not is_outside(config.mode) and find_mode(config.mode).writes == "scores"


def _contents(task: str, env: tuple[str, ...], model: str) -> dict[str, str]:
    """Hash what a model's tokenizer does; see `contents_of`.

    Raises:
        GtrTurboError: it is not here, or cannot be read.
    """
    asked = CheckTaskConfig(task=task, env=env, model=model)
    loaded = importlib.import_module("gtrturbo.tasks.loading").load_task(task, env)
    renderer, _ = importlib.import_module("gtrturbo.runs.check_task").renderer_of(asked, loaded)
    tokenizer = renderer.processor.tokenizer
    return importlib.import_module("gtrturbo.models.vocabularies").contents_of(tokenizer, renderer.end_id)
