"""Whether a teacher from outside has the student's tokens, and can play, told before a run begins; distill asks once more."""

import gc
import importlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gtrturbo.config import CheckTaskConfig, DistillConfig, RolloutConfig, RunConfig
from gtrturbo.config.addresses import served_model
from gtrturbo.config.choices import HF
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
        teacher: None
        for each in scoring
        for teacher in teachers_of(each)
        if teacher not in made and not names_code(teacher) and served_model(teacher) is None
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


def check_playing(steps: Sequence[Step], *, device: str | None = None) -> None:
    """Load each teacher once that no stage made, and let it play a turn as distill would; one that taught before is known to.

    Args:
        device: where to; that of the step if None.

    Raises:
        GtrTurboError: its weights are no numbers, or it cannot play.
    """
    asking = [step.config for step in steps if isinstance(step.config, DistillConfig) and step.config.engine == HF]
    known = {teacher for each in asking if (each.out / MANIFEST).is_file() for teacher in teachers_of(each)}
    foreign = {teacher: each for each in asking for teacher in teachers_of(each) if _is_foreign(teacher)}
    made = {step.config.out for step in steps}
    for teacher, config in foreign.items():
        if teacher not in known | made:
            _play(teacher, device or config.device, config.dtype)


def _is_foreign(teacher: Path) -> bool:
    return not names_code(teacher) and served_model(teacher) is None and not (teacher / MANIFEST).is_file()


def _play(teacher: Path, device: str, dtype: str) -> None:
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    importlib.import_module("gtrturbo.models.checkpoint").load_policy(teacher, device=device, dtype=dtype)
    torch.set_num_threads(threads)  # Which a small model leaves at one, for whatever is computed after it.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


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
