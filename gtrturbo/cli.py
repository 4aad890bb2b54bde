"""The command line: one adapter turns a config class into a command, so no option is written twice."""

import importlib
import inspect
import os
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gtrturbo import __version__
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
from gtrturbo.config.fields import Field, Role, build, fields
from gtrturbo.config.renamed import FLAGS, old_options
from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import complain, one_line, say
from gtrturbo.distributed.interrupts import exit_code
from gtrturbo.distributed.processes import world
from gtrturbo.errors import COLLAPSE_CODE, Collapse, GtrTurboError, hidden, of_system
from gtrturbo.merging.methods import METHODS as MERGE_METHODS
from gtrturbo.merging.methods import method_of
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.plugins import explained
from gtrturbo.runs.methods import METHODS
from gtrturbo.runs.plan import plan
from gtrturbo.runs.progress import run_with_progress
from gtrturbo.runs.script import shell
from gtrturbo.stages import STAGES, execute, preview, stage_of
from gtrturbo.stages.mistyped import meant_by
from gtrturbo.store.draft import Result

ORDER = ("init", "sft", "rollout", "distill", "ppo-step", "merge", "eval")
UNTOLD, UNTOLD_CODE = "unexpected error", 70  # EX_SOFTWARE of BSD's sysexits.h
CANNOT_ALLOCATE = "can't allocate memory"  # as torch says it of a CPU
MOST_TOLD = 200  # characters of an error that no sentence tells
# What other toolkits call a command.
ALSO_CALLED = {
    "train": "run",
    "demo": "run",
    "evaluate": "eval",
    "test": "eval",
    "generate": "rollout",
    "sample": "rollout",
    "ppo": "ppo-step",
    "update": "ppo-step",
    "grpo": "ppo-step",
    "teacher": "distill",
    "score": "distill",
    "annotate": "distill",
    "finetune": "sft",
    "ties": "merge",
    "inspect": "show",
    "view": "show",
    "plot": "report",
    "html": "report",
    "diff": "compare",
}
PANELS = {Role.INPUT: "Inputs", Role.RUNTIME: "Output and machine"}


class _Commands(TyperGroup):
    """Tells mistakes in the options as all else is told: what was typed is a text of others, too."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _plain_mistakes():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _plain_mistakes():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Suggest the command that does what others call by another name, or what was nearly typed."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            meant = get_close_matches(args[0], ALSO_CALLED, n=1) if args else []
            message = getattr(error, "message", "")
            if meant and "Did you mean" not in message:
                error.message = f"{message.rstrip('.')}. Did you mean {ALSO_CALLED[meant[0]]!r}?"  # type: ignore[attr-defined]
            raise


@contextmanager
def _plain_mistakes() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):
            _name_the_option(error)
            error.message = one_line(error.message)  # type: ignore[attr-defined]
        raise


def _name_the_option(error: Any) -> None:
    """Say of an option that there is not where what was meant by it is given."""
    command, typed = getattr(getattr(error, "ctx", None), "info_name", None), getattr(error, "option_name", None)
    if command and typed and hasattr(error, "possibilities") and (meant := meant_by(command, typed)):
        error.message, error.possibilities = f"No such option: {typed}. It is given as {meant}", None


JOBS = (
    "Train on a task of your own: gtrturbo check-task FILE.py:TASK, then gtrturbo run --task FILE.py:TASK --out runs/a",
    "Merge checkpoints: gtrturbo merge --base BASE --out merged ONE TWO, then gtrturbo show merged",
    "See whether a free teacher helps: gtrturbo run with --method ppo and with --method turbo-sft, then gtrturbo compare runs/*",
)
app = typer.Typer(
    name="gtrturbo",
    cls=_Commands,
    help="Train vision-language-model agents with GTR-Turbo: PPO with a teacher merged from the run's own checkpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n\n".join(JOBS),
)


def main() -> None:
    """Entry point of the gtrturbo command."""
    app()


def add_command(
    name: str,
    config: type,
    action: Callable[[Any], None],
    *,
    verify: Callable[[Any], Any] | None = None,
    built_in: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Add a command whose options are the fields of `config`; flags win over --config FILE.yaml, which wins over defaults.

    What `verify` refuses counts as a mistake in the options (exit code 2), what `action` refuses as a failure (1). `built_in`
    says by field what its table holds: names, each with a sentence for the help.
    """

    def command(**given: Any) -> None:
        debug, file = given.pop("debug"), given.pop("config")
        chosen = {key: value for key, value in given.items() if value not in (None, [])}
        with _errors(debug, code=2):
            settings = build(config, _settings(file) | chosen)
            if verify:
                verify(settings)
        with _errors(debug, code=1):
            action(settings)

    tables = built_in or {}
    known = [field for field in fields(config) if not field.rest_of]
    old = old_options(config, frozenset(field.name for field in known))
    parameters = [*(_parameter(field, tables.get(field.name, {})) for field in known), *map(_old_parameter, old), *_EXTRA]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=config.__doc__)(command)


class _errors:
    """Turn whatever ends a command into lines on stderr and an exit code; with --debug show where it comes from, too.

    Our own errors and those of the operating system are told as what they are, with the given code. What nothing else told is
    a fault of this program: one line, and exit code 70.
    """

    def __init__(self, debug: bool | None, *, code: int) -> None:
        self.debug = debug
        self.code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(exit_code(error))
        if not isinstance(error, Exception) or isinstance(error, BrokenPipeError | typer.Exit):
            return  # typer ends quietly where nobody reads on.
        if self.debug:
            complain("".join(traceback.format_exception(error)).rstrip())
        told, code = _told(error, self.code)
        complain(one_line(told.what))
        if told.fix:
            complain(one_line(told.fix))
        raise typer.Exit(code)


def _told(error: Exception, code: int) -> tuple[GtrTurboError, int]:
    """Return what a user is told of an error, and the exit code."""
    if isinstance(error, GtrTurboError):
        return error, COLLAPSE_CODE if isinstance(error, Collapse) else code
    if own := explained(error):
        return own, 1
    if system := error if isinstance(error, OSError) else hidden(error):
        return of_system(system), code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or CANNOT_ALLOCATE in str(error):
        return GtrTurboError(
            "there is not enough memory.", "ask for less at once, such as shorter replies or smaller batches."
        ), 1
    where = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(str(error).split())[:MOST_TOLD]
    return GtrTurboError(
        f"{UNTOLD}: {type(error).__name__} at {Path(where.filename).name} line {where.lineno}: {what}",
        "this is a fault of gtrturbo; for the full trace give the same command again with --debug.",
    ), UNTOLD_CODE


def _settings(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise GtrTurboError(f"{file} holds no settings.", "write lines such as: learning-rate: 1e-5")
    names = [str(key).replace("-", "_") for key in content]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise GtrTurboError(f"{file} sets {twice.replace('_', '-')} twice.", "keep one of the two.")
    return dict(zip(names, content.values(), strict=True))


def _parameter(field: Field, built_in: Mapping[str, str]) -> inspect.Parameter:
    """Describe one field as a typer parameter that is None when it is not given."""
    default = "required" if field.required else _shown(field)
    kind = _typer_kind(field)
    if Role.POSITIONAL in field.roles:
        detail: Any = typer.Argument(help=field.help, show_default=False, metavar=field.name.upper())
    else:
        panel = next((PANELS[role] for role in field.roles if role in PANELS), "Options")
        flags = f"{field.option}/--no-{field.option[2:]}" if field.kind is bool else field.option
        detail = typer.Option(
            flags, help=_help(field, built_in), show_default=default, rich_help_panel=panel, metavar=_metavar(field)
        )
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, detail])


def _old_parameter(name: str) -> inspect.Parameter:
    """Take an option that there is no more, with a value or without, so that it can be refused with what is in its place."""
    flag = name in FLAGS
    option = f"--{name.replace('_', '-')}"
    detail = typer.Option(f"{option}/--no-{option[2:]}" if flag else option, hidden=True)
    kind = (bool if flag else str) | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, detail])


def _typer_kind(field: Field) -> Any:
    if field.is_list or field.more:
        return list[str] | None
    return (bool if field.kind is bool else str) | None  # build() turns text into numbers, paths and choices


def _help(field: Field, built_in: Mapping[str, str]) -> str:
    bounds = str(field.bounds or "")
    range_ = [f"{bounds[0].upper()}{bounds[1:]}."] if bounds else []
    told = " ".join([field.help, *(f"{name}: {sentence}" for name, sentence in built_in.items()), *range_])
    # Beside the name, choices would take the width that the names need.
    return f"{told} One of {', '.join(field.choices)}." if field.choices else told


def _metavar(field: Field) -> str | None:
    if field.kind is bool:
        return None
    kind = typing.get_args(field.kind)[0] if field.is_list else field.kind
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT")


def _shown(field: Field) -> str | bool:
    if field.default is None or field.default == ():
        return False
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return str(field.default)


_EXTRA = [
    inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None,
            typer.Option("--config", "-c", help="YAML file of options; flags win.", rich_help_panel="Output and machine"),
        ],
    ),
    inspect.Parameter(
        "debug",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            bool | None, typer.Option("--debug", help="Show where an error comes from.", rich_help_panel="Output and machine")
        ],
    ),
]


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
    add_command(_name, STAGES[_name].config, run_stage, verify=_VERIFY.get(_name), built_in=_BUILT_IN.get(_name))
add_command(
    "run",
    RunConfig,
    run_loop,
    verify=plan,
    built_in={"method": {name: method.summary for name, method in METHODS.items()}},
)
add_command("check-task", CheckTaskConfig, check_task)
add_command("play", PlayConfig, play)
add_command("show", ShowConfig, lambda config: importlib.import_module("gtrturbo.show.artifact").show(config))
add_command("compare", CompareConfig, lambda config: importlib.import_module("gtrturbo.show.comparison").compare(config))
add_command(
    "export", ExportConfig, lambda config: _print_path(importlib.import_module("gtrturbo.report.exporting").export(config))
)
add_command("push", PushConfig, push)
add_command("report", ReportConfig, lambda config: _print_path(importlib.import_module("gtrturbo.report").report(config)))
