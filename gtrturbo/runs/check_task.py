"""check-task: play a task, print what was checked and what a run lacks."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from gtrturbo.config import CheckTaskConfig
from gtrturbo.config.games import is_game
from gtrturbo.console import PlainConsole
from gtrturbo.distributed.escapes import say, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.built_in import build_processor, built_in_config
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.families import read_family
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.models.under_adapter import base_of
from gtrturbo.play import environment_checks, replay_checks, reply_checks
from gtrturbo.play.action_checks import actions
from gtrturbo.play.another_process import another_process
from gtrturbo.play.token_checks import lengths, tokens
from gtrturbo.play.trial import Check, Episodes, check, play
from gtrturbo.plugins import is_outside
from gtrturbo.runs.presets import PRESETS
from gtrturbo.store.json_files import read_json
from gtrturbo.store.names import MODEL_CONFIG
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import environment_code
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.texts import task_texts

PAPERS_NEW_TOKENS = 256
VERDICTS = {True: "passed", False: "FAILED", None: "-"}
INDENT = 26
WIDTH, LEAST = 100, 30  # of what was seen, where nobody says how wide the page is, and at least
ON_EPISODES: dict[str, Callable[[Task, Episodes], Check]] = {
    "seeding": environment_checks.seeding,
    "starts": environment_checks.starts,
    "prompts": reply_checks.prompts,
    "known": reply_checks.known,
    "actions": actions,
    "expert's replies": reply_checks.round_trip,
    "spans": reply_checks.spans,
    "perception": reply_checks.perception,
    "rewards": environment_checks.rewards,
    "blind": replay_checks.blind,
    "endings": environment_checks.endings,
    "success": environment_checks.success,
}


def check_task(config: CheckTaskConfig) -> None:
    """Print a table of checks to stdout.

    Raises: GtrTurboError: a check failed.
    """
    task = load_task(config.task, config.env)
    found, episodes = checks(task)
    if episodes and (is_outside(config.task) or environment_code(config.task, tuple(config.env))):
        found.append(check("processes", lambda: another_process(config.task, config.env, episodes)))
    if episodes:
        readable = all(each.passed for each in found if each.name == "prompts")
        found += [*(_with_model(config, task, episodes) if readable else ()), *lacking(task, config)]
    say("\n".join(line for each in found for line in _lines(each)))
    failed = [each.name for each in found if each.passed is False]
    if failed:
        raise GtrTurboError(f"{config.task} failed {len(failed)} of {len(found)} checks: {', '.join(failed)}.", "see above.")


def checks(task: Task) -> tuple[list[Check], Episodes]:
    """Check all that needs no model; return the episodes that were played for it too, none where the task cannot be played."""
    first = check("environment", lambda: environment_checks.environment(task))
    if not first.passed:
        return [first], []
    try:
        episodes = play(task, num_envs=1)
    except GtrTurboError as error:
        return [first, Check("episodes", False, error.what, error.fix)], []
    looks = {name: look for name, look in ON_EPISODES.items() if name != "blind" or task.blind}
    rest = [check(name, lambda look=look: look(task, episodes)) for name, look in looks.items()]
    return [first, *rest], episodes


def _with_model(config: CheckTaskConfig, task: Task, episodes: Episodes) -> list[Check]:
    try:
        renderer, longest = renderer_of(config, task)
    except GtrTurboError as error:
        return [Check("tokens", False, error.what, error.fix)]
    preset = PRESETS.get(config.model)
    limit = preset.settings("rollout", task.name)["max_new_tokens"] if preset else PAPERS_NEW_TOKENS
    return [
        check("tokens", lambda: tokens(task, episodes, renderer)),
        check("lengths", lambda: lengths(task, episodes, renderer, longest=longest, max_new_tokens=limit)),
    ]


def renderer_of(config: CheckTaskConfig, task: Task) -> tuple[Renderer, int | None]:
    """Make the model's renderer as a run would, without its weights; return how many positions the model has, too."""
    if config.model in BUILT_IN:
        processor = build_processor(None if is_game(config.task) else task_texts(task))
        shape = built_in_config(config.model, processor.tokenizer).to_dict()
        return Renderer(processor), shape["text_config"]["max_position_embeddings"]
    folder = Path(config.model)
    found = _model_config(folder)
    with reading_model(folder):
        processor = load_processor(folder, family=read_family(folder, found.get("model_type")), local_files_only=True)
        return Renderer(processor), found.get("text_config", found).get("max_position_embeddings")


def _model_config(folder: Path) -> dict[str, Any]:
    """Read the config of a model, of the one under it where it is an adapter."""
    file = Path(base_of(folder) if is_adapter(folder) else folder) / MODEL_CONFIG
    if not file.is_file():
        raise GtrTurboError(
            f"{file.parent} is neither {' nor '.join(BUILT_IN)}, nor the folder of a model.",
            "make one with: gtrturbo init --model …",
        )
    return read_json(file, dict[str, Any], mend=f"see: gtrturbo show {file.parent} --check")


def lacking(task: Task, config: CheckTaskConfig) -> list[Check]:
    """Say what a run would have to do without."""
    told = []
    if task.expert is None:
        chance = "a warm start of play by chance: --set expert.random-expert-share=1, or " if task.writes_random_replies else ""
        told.append(f"there is no expert. Add {chance}--start CHECKPOINT, one that follows the prompt as it is (gtrturbo init).")
    elif not task.writes_random_replies:
        told.append("there is no random expert. To --model small add --set expert.random-expert-share=0.")
    if task.truth is None:
        told.append("there is no truth: nothing is said of how well a model reads the picture.")
    if config.model == "tiny" and not is_game(config.task) and task.truth:
        told.append("tiny reads the games' pictures and little else: take small, which read FrozenLake's frames.")
    return [Check("for a run", None, sentence) for sentence in told] or [Check("for a run", True, "nothing is missing.")]


def _lines(check: Check) -> Sequence[str]:
    """Lay a check out as its verdict, its name, what was seen, and, where it failed, what mends it."""
    said = check.said if check.passed is not False or not check.fix else f"{check.said} → {check.fix}"
    console = PlainConsole()
    width = max(console.width - INDENT, LEAST) if console.is_terminal or "COLUMNS" in os.environ else WIDTH
    head, *more = wrap(visible(said), width, break_long_words=False) or [""]
    return [f"{VERDICTS[check.passed]:<8}{check.name:<18}{head}", *(" " * INDENT + line for line in more)]
