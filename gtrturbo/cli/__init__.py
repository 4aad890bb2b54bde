"""The command line: which commands there are, and what each does with its settings (here); how a class of settings becomes a
command, and what is told where one fails. What takes seconds to import waits for a command that needs it: --help answers at once.
"""

import importlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gtrturbo import __version__
from gtrturbo.cli.adapter import add_command
from gtrturbo.cli.mistakes import Commands
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
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import one_line, say
from gtrturbo.distributed.processes import world
from gtrturbo.merging.methods import METHODS as MERGE_METHODS
from gtrturbo.merging.methods import method_of
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.runs.methods import METHODS
from gtrturbo.runs.plan import plan
from gtrturbo.runs.progress import run_with_progress
from gtrturbo.runs.script import shell
from gtrturbo.stages import STAGES, execute, preview, stage_of
from gtrturbo.store.draft import Result

ORDER = ("init", "sft", "rollout", "distill", "ppo-step", "merge", "eval")
JOBS = (
    "Train on a task of your own: gtrturbo check-task FILE.py:TASK, then gtrturbo run --task FILE.py:TASK --out runs/a",
    "Merge checkpoints: gtrturbo merge --base BASE --out merged ONE TWO, then gtrturbo show merged",
    "See whether a free teacher helps: gtrturbo run with --method ppo and --method turbo-gated, then gtrturbo compare runs/*",
)
app = typer.Typer(
    name="gtrturbo",
    cls=Commands,
    help="Train vision-language-model agents with GTR-Turbo: PPO with a teacher merged from the run's own checkpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n\n".join(JOBS),
)


def main() -> None:
    """Entry point of the gtrturbo command."""
    app()


def run_stage(config: Any) -> None:
    """Run one stage: the path written goes to stdout, a line of metrics to stderr."""
    if not STAGES[stage_of(config)].fetches(config):
        _go_offline()
    if getattr(config, "dry_run", False):
        say(preview(config))
        return
    result = execute(config)
    stderr.print(summary_line(result), style="dim", soft_wrap=True)
    _print_path(result.out)


def _print_path(path: Path) -> None:
    # stdout carries one line, whatever the number of processes.
    if world().first:
        say(one_line(str(path)))


def _go_offline() -> None:
    # The variable is read when transformers is imported, which has not happened yet.
    os.environ["HF_HUB_OFFLINE"] = "1"


def summary_line(result: Result) -> str:
    """Write a stage's metrics in one line."""
    return " · ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())


def run_loop(config: RunConfig) -> None:
    """Run or print the whole loop."""
    if config.model in BUILT_IN or config.start:
        _go_offline()
    if config.dry_run:
        # Its imports take seconds, which no other command should.
        notes = importlib.import_module("gtrturbo.runs.estimate").notes(config)
        if world().first:
            say(shell(plan(config), notes=notes), end="")
    else:
        _print_path(run_with_progress(config))


def require_task(config: CheckTaskConfig | PlayConfig) -> None:
    """Refuse an unknown task, or option of it, before what plays it is imported."""
    importlib.import_module("gtrturbo.tasks.loading").load_task(config.task, config.env)


def check_task(config: CheckTaskConfig) -> None:
    """Play a task and check it."""
    require_task(config)
    importlib.import_module("gtrturbo.runs.check_task").check_task(config)


def play(config: PlayConfig) -> None:
    """Let a person play."""
    require_task(config)
    by_hand = importlib.import_module("gtrturbo.play.by_hand")
    by_hand.play_by_hand(config.task, config.env, seed=config.seed, out=config.out, expert=config.expert)


def push(config: PushConfig) -> None:
    """Send a checkpoint to the hub, and print its address there."""
    if address := importlib.import_module("gtrturbo.report.pushing").push(config):
        say(address)


def _version(wanted: bool | None) -> None:
    if wanted:
        say(f"gtrturbo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    pass


_VERIFY = {"merge": lambda config: method_of(config.method)}
_BUILT_IN = {"merge": {"method": {name: method.summary for name, method in MERGE_METHODS.items()}}}
for _name in ORDER:
    add_command(app, _name, STAGES[_name].config, run_stage, verify=_VERIFY.get(_name), built_in=_BUILT_IN.get(_name))
add_command(
    app,
    "run",
    RunConfig,
    run_loop,
    verify=plan,
    built_in={"method": {name: method.summary for name, method in METHODS.items()}},
)
add_command(app, "check-task", CheckTaskConfig, check_task)
add_command(app, "play", PlayConfig, play)
add_command(app, "show", ShowConfig, lambda config: importlib.import_module("gtrturbo.show.artifact").show(config))
add_command(app, "compare", CompareConfig, lambda config: importlib.import_module("gtrturbo.show.comparison").compare(config))
add_command(
    app, "export", ExportConfig, lambda config: _print_path(importlib.import_module("gtrturbo.report.exporting").export(config))
)
add_command(app, "push", PushConfig, push)
add_command(app, "report", ReportConfig, lambda config: _print_path(importlib.import_module("gtrturbo.report").report(config)))
