"""Configs of what looks at a task: check-task and play."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gtrturbo.config.common import EnvOptions, Seed, TaskName
from gtrturbo.config.fields import Role, check, fields


@dataclass(frozen=True, kw_only=True)
class CheckTaskConfig:
    """Play a task without a model and check it: seeds, replies, spans, truth, rewards, ends; say what it lacks for a run."""

    task: Annotated[
        str, "Task to check: a built-in name, or one of your own: package.module:NAME or path/to/file.py:NAME.", Role.POSITIONAL
    ]
    env: EnvOptions = ()
    model: Annotated[str, "Whose tokenizer is used: tiny or small (built in), or the folder of a checkpoint."] = "tiny"


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """Play a task by hand: see a state as a model sees it, and reply."""

    task: TaskName
    env: EnvOptions = ()
    seed: Seed = 0
    out: Annotated[Path, "Folder for the pictures.", Role.RUNTIME] = Path("played")
    expert: Annotated[bool, "Show what the expert would reply."] = False

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))
