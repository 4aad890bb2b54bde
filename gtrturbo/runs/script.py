"""A plan as shell, and one step of it as a command line."""

from collections.abc import Sequence

from gtrturbo.config.fields import Role, fields
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.runs.plan import Step


def shell(steps: list[Step], *, notes: Sequence[str] = ()) -> str:
    """Print a plan as a shell script that gives the same artifacts, with notes as comments at its top."""
    comments = [f"# {note}" for note in notes]
    return "\n".join(["#!/usr/bin/env bash", *comments, "set -euo pipefail", *(command(step) for step in steps), ""])


def command(step: Step) -> str:
    """Write one step as a command line: every option that differs from its default."""
    return " ".join(map(shell_word, command_words(step)))


def command_words(step: Step) -> list[str]:
    """List the words of a step's command line."""
    words = ["gtrturbo", step.stage]
    positional: list[str] = []
    for field in fields(type(step.config)):
        value = getattr(step.config, field.name)
        if value == field.default:
            continue
        if Role.POSITIONAL in field.roles:
            positional += map(str, value)
        elif isinstance(value, bool):
            words.append(field.option if value else field.option.replace("--", "--no-", 1))
        else:
            for item in value if isinstance(value, tuple) else (value,):
                words += [field.option, str(item)]
    return [*words, *positional]
