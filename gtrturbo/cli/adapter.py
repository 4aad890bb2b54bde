"""The adapter that turns a config class into a command, so that no option is written twice."""

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gtrturbo.cli.help import OTHERS, HelpLayout
from gtrturbo.cli.mistakes import NamedOptions, ending
from gtrturbo.config import RunConfig
from gtrturbo.config.building import build, check_all
from gtrturbo.config.common import StageConfig
from gtrturbo.config.fields import Field, Role, fields
from gtrturbo.config.renamed import FLAGS, old_options, refuse_old
from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages.table import STAGES


def add_command(
    app: typer.Typer,
    name: str,
    config: type,
    action: Callable[[Any], None],
    *,
    verify: Callable[[Any], Any] | None = None,
    built_in: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Add to an app a command whose options are the fields of `config`.

    Flags win over --config FILE.yaml, which wins over defaults. What `verify` refuses counts as a mistake in the options (exit
    code 2), what `action` refuses as a failure (1). `built_in` says by field what its table holds: names, each with a sentence
    for the help, which is laid out as `HelpLayout` says.
    """

    def command(**given: Any) -> None:
        debug, file = given.pop("debug"), given.pop("config")
        chosen = {key: value for key, value in given.items() if value not in (None, [])}
        with ending(debug, code=2):
            settings = build(config, _settings(config, file) | chosen)
            if verify:
                verify(settings)
        with ending(debug, code=1, kept=_keeps(config)):
            action(settings)

    layout = HelpLayout(name, built_in or {})
    known = sorted((field for field in fields(config) if not field.rest_of), key=lambda field: layout.place(field)[0])
    names = frozenset(field.name for field in known)
    old = [_old_parameter(name, _refusing(config, names, name)) for name in old_options(config, names)]
    parameters = [*(_parameter(field, layout) for field in known), *old, *_EXTRA]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=NamedOptions, help=config.__doc__, epilog=layout.epilog)(command)


def _keeps(config: type) -> bool | None:
    """Tell whether a command that is interrupted keeps what was finished; None of what has nothing to keep."""
    if issubclass(config, StageConfig):
        return any(stage.keeps for stage in STAGES.values() if stage.config is config)
    return True if issubclass(config, RunConfig) else None


def _settings(config: type, file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise GtrTurboError(f"{file} holds no settings.", "write lines such as: learning-rate: 1e-5")
    names = [str(key).replace("-", "_") for key in content]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise GtrTurboError(f"{file} sets {twice.replace('_', '-')} twice.", "keep one of the two.")
    settings = dict(zip(names, content.values(), strict=True))
    try:
        check_all(config, settings)
    except GtrTurboError as error:
        raise GtrTurboError(f"{file}: {error.what}", error.fix) from None
    return settings


def _parameter(field: Field, layout: HelpLayout) -> inspect.Parameter:
    """Describe one field as a typer parameter that is None when it is not given."""
    default = "required" if field.required else _shown(field)
    kind = _typer_kind(field)
    if Role.POSITIONAL in field.roles:
        detail: Any = typer.Argument(help=field.help, show_default=False, metavar=field.name.upper())
    else:
        flags = f"{field.option}/--no-{field.option[2:]}" if field.kind is bool else field.option
        detail = typer.Option(
            flags,
            help=_help(field),
            show_default=default,
            rich_help_panel=layout.place(field)[1],
            metavar=_metavar(field),
            callback=_no_option if field.is_list else None,
        )
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, detail])


def _refusing(config: type, names: frozenset[str], name: str) -> Callable[[Any], None]:
    def refuse(value: Any) -> None:
        if value is not None:
            with ending(debug=False, code=2):
                refuse_old(config, names, name)

    return refuse


def _old_parameter(name: str, refuse: Callable[[Any], None]) -> inspect.Parameter:
    """Take an option that there is no more, with a value or without, so that it is refused, beside --help too."""
    flag = name in FLAGS
    option = f"--{name.replace('_', '-')}"
    detail = typer.Option(f"{option}/--no-{option[2:]}" if flag else option, hidden=True, is_eager=True, callback=refuse)
    kind = (bool if flag else str) | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, detail])


def _no_option(values: Any) -> Any:
    """Refuse an option that stands where the value of another is missing."""
    for value in values or []:
        if value.startswith("--"):
            raise typer.BadParameter(f"it takes a value, and {value} is an option.")
    return values


def _typer_kind(field: Field) -> Any:
    if field.is_list or field.more:
        return list[str] | None
    return (bool if field.kind is bool else str) | None  # build() turns text into numbers, paths and choices


def _help(field: Field) -> str:
    bounds = str(field.bounds or "")
    told = f"{field.help} {bounds[0].upper()}{bounds[1:]}." if bounds else field.help
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
            typer.Option("--config", "-c", help="YAML file of options; flags win.", rich_help_panel=OTHERS),
        ],
    ),
    inspect.Parameter(
        "debug",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            bool | None, typer.Option("--debug", help="Show where an error comes from.", rich_help_panel=OTHERS)
        ],
    ),
]
