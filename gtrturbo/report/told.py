"""What is told to everybody of settings: of a place on this machine, or of a server, nothing but the name of the option.

Code of the user's own is told by its name without a folder, as manifests tell it.
"""

import os
import re
from pathlib import Path
from typing import Any, get_args

from gtrturbo.config.addresses import served_model
from gtrturbo.config.fields import Field
from gtrturbo.config.games import FAMILIES
from gtrturbo.models.hub_names import could_be_id
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.plugins import SUFFIX, is_outside

MODEL = "model"  # The setting that names a folder, or an id of the hub.
HOME = "~"
ADDRESS = re.compile(r"(?:\w+:)?https?://")


def told(field: Field, value: Any) -> Any:
    """Return the value of a setting as everybody may read it; of a list, each of its values."""
    if isinstance(value, list | tuple):
        return [told(field, each) for each in value]
    if not isinstance(value, str | Path):
        return value
    text, called = str(value), placeholder(field)
    if Path in (field.kind, *get_args(field.kind)):
        code = _code(text) if field.seam and served_model(text) is None else None
        return code or called
    return _named_model(text, called) if field.name == MODEL else without_places(text, called)


def placeholder(field: Field) -> str:
    """Return what stands for a value of a field; further values of an option are called as its first."""
    return (field.rest_of.first if field.rest_of else field.name).upper()


def without_places(text: str, called: str) -> str:
    """Return a text, or `called` in its place where it is a path; of an address how it is asked stays, as in vllm:http://ENGINE.

    Of KEY=VALUE the key stays, and the value is called by it.
    """
    key, equals, value = text.partition("=")
    if equals and not _is_place(key):
        name = key.rpartition(".")[2].replace("-", "_").upper()
        shown = _named_model(value, name) if name == MODEL.upper() else without_places(value, name)
        return f"{key}={shown}"
    if asked := ADDRESS.match(text):
        return f"{asked[0]}{called}"
    return _code(text) or (called if _is_place(text) else text)


def _named_model(text: str, called: str) -> str:
    return text if text in BUILT_IN or (could_be_id(Path(text)) and not os.path.exists(text)) else called


def _code(text: str) -> str | None:
    """Name code of the user's own as manifests do, of a file no folder; None where a text names no code."""
    place, _, attribute = text.rpartition(":")
    if not is_outside(text) or "://" in text:  # It may hold an address in other words.
        return None
    if place.endswith(SUFFIX):
        return f"{os.path.basename(place)}:{attribute}"
    return None if _is_place(place) else text


def _is_place(text: str) -> bool:
    """Tell a path, and what holds an address, from other words."""
    # An environment's id may hold one /, such as gym:ALE/Pong-v5.
    most = 1 if text.partition(":")[0].lower() in FAMILIES else 0
    return text.count("/") > most or "\\" in text or text.startswith(HOME)
