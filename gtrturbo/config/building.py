"""A config made of values by option name, as the command line, YAML and --set give them."""

from difflib import get_close_matches
from typing import Any

from gtrturbo.config.fields import Role, check, fields, parse
from gtrturbo.config.renamed import ALSO_CALLED_OPTIONS, refuse_old, refuse_old_value
from gtrturbo.errors import GtrTurboError


def build(config: type, values: dict[str, Any]) -> Any:
    """Make a config from values by option name (dashes or underscores), as YAML and --set give them.

    Raises:
        GtrTurboError: an unknown key, a value of the wrong kind, or a missing one.
    """
    known, given = fields(config), parse_all(config, values)
    if missing := [f for f in known if f.required and f.name not in given]:
        examples = [f.shown if Role.POSITIONAL in f.roles else f"{f.option} {f.placeholder}" for f in missing]
        raise GtrTurboError(f"missing: {', '.join(f.shown for f in missing)}.", f"add: {' '.join(examples)}")
    if hasattr(config, "require_together"):
        config.require_together(given)
    return config(**given)


def check_all(config: type, values: dict[str, Any]) -> None:
    """Refuse values by option name, not all of which need be there, that are none of a config.

    Raises:
        GtrTurboError: an unknown key, or a value of the wrong kind or out of bounds.
    """
    given = parse_all(config, values)
    for field in fields(config):
        if field.name in given:
            check(field, given[field.name])


def parse_all(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """Turn values by option name into those of a config's fields.

    Raises:
        GtrTurboError: an unknown key, of which the closest known one is told, or all; or a value of the wrong kind.
    """
    known = {f.name: f for f in fields(config)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            refuse_old(config, frozenset(known), name)
            raise GtrTurboError(f"unknown setting {name.replace('_', '-')}.", _meant(name, list(known)))
        refuse_old_value(name, value)
        if (more := known[name].more) and isinstance(value, list | tuple) and value:
            value, given[more.rest] = value[0], parse(known[more.rest], value[1:])
        given[name] = parse(known[name], value)
    return given


def _meant(name: str, known: list[str]) -> str:
    named = {each.replace("_", "-") for each in known}
    meant = ALSO_CALLED_OPTIONS.get(name.replace("_", "-"), "")
    close = [meant] if meant in named else get_close_matches(name.replace("_", "-"), named, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(each.replace('_', '-') for each in known)}"
