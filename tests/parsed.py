"""Read a command line as gtrturbo reads it, without running it."""

import shlex
from collections.abc import Sequence
from typing import Any

import typer
from typer.testing import CliRunner

from gtrturbo.cli.adapter import add_command
from gtrturbo.config import (
    CheckTaskConfig,
    CompareConfig,
    ExportConfig,
    PlayConfig,
    PushConfig,
    ReportConfig,
    RunConfig,
    ShowConfig,
)
from gtrturbo.stages import STAGES

LOOKING = {"show": ShowConfig, "compare": CompareConfig, "report": ReportConfig}
GIVING = {"export": ExportConfig, "push": PushConfig}
TRYING = {"check-task": CheckTaskConfig, "play": PlayConfig}
CONFIGS = {name: stage.config for name, stage in STAGES.items()} | {"run": RunConfig} | TRYING | LOOKING | GIVING


def parsed(line: str | Sequence[str]) -> Any:
    """Return the config that `gtrturbo STAGE …` would run with; None for a line that only asks for help."""
    words = shlex.split(line) if isinstance(line, str) else list(line)
    if words[0] == "gtrturbo":
        words = words[1:]
    seen: list[Any] = []
    app = typer.Typer()
    for name, config in CONFIGS.items():
        add_command(app, name, config, seen.append)  # The same adapter, with an action that only looks.
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"gtrturbo {shlex.join(words)}\n{result.output}"
    return seen[0] if seen else None
