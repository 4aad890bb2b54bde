"""Write docs/commands.md, the options of every command, from the commands themselves: `python -m docs.commands`."""

from pathlib import Path

from gtrturbo.cli import app
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
from gtrturbo.config.fields import Field, Role, fields
from gtrturbo.stages import STAGES

PAGE = Path(__file__).with_name("commands.md")
CONFIGS = {name: stage.config for name, stage in STAGES.items()} | {
    "run": RunConfig,
    "check-task": CheckTaskConfig,
    "play": PlayConfig,
    "show": ShowConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
    "push": PushConfig,
    "report": ReportConfig,
}
HEAD = """# Commands

<!-- Written by `make docs` from gtrturbo/config; do not edit. -->

Every command also takes `--config FILE.yaml` (options by name; flags win), `--debug` (show where an error comes from) and
`--help`. The path that was written goes to stdout, all else to stderr. Exit codes: 0 done, or done before; 1 failed, the
last line says what mends it; 2 wrong usage; 3 of run and ppo-step, training collapsed; 70 a fault of gtrturbo, told in one line,
whose full trace `--debug` shows; 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP: what a stage or a run
finished is kept, and the same command goes on from there.
"""


def page() -> str:
    """Return the page's text."""
    names = [command.name for command in app.registered_commands if command.name]
    return "\n".join([HEAD, *(section(name, CONFIGS[name]) for name in names)])


def section(name: str, config: type) -> str:
    """Describe one command: what it does, how it is called, and a row per option."""
    settings = [field for field in fields(config) if not field.rest_of]
    rows = [f"| `{_shown(field)}` | {_values(field)} | {_default(field)} | {_escape(field.help)} |" for field in settings]
    table = ["| option | values | default | |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {name}", "", config.__doc__ or "", "", f"    {usage(name, settings)}", "", *table, ""])


def usage(name: str, settings: list[Field]) -> str:
    """Write the shortest call: what must be given, and the lists at the end."""
    needed = [f"{field.option} {_placeholder(field)}" for field in settings if field.required and not _positional(field)]
    lists = [_operand(field) for field in settings if _positional(field)]
    return " ".join(["gtrturbo", name, *needed, "[OPTIONS]", *lists])


def _positional(field: Field) -> bool:
    return Role.POSITIONAL in field.roles


def _operand(field: Field) -> str:
    operand = field.name.upper() + ("…" if field.is_list else "")
    return operand if field.required else f"[{operand}]"


def _shown(field: Field) -> str:
    if _positional(field):
        return _operand(field)
    return f"{field.option}, --no-{field.option[2:]}" if field.kind is bool else field.option


def _placeholder(field: Field) -> str:
    return "PATH" if field.kind is Path else "TEXT"


def _values(field: Field) -> str:
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    kind = str(field.kind)
    if field.is_list:
        return "paths" if "Path" in kind else "texts"
    if field.kind is bool:
        return "switch"
    word = {int: "whole number", float: "number", Path: "path"}.get(field.kind, "text")
    return f"{word} {field.bounds}" if field.bounds and word != "text" else str(field.bounds) if field.bounds else word


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default in (None, ()) else f"`{field.default}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
