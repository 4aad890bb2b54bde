"""What must hold of a task's fields and of what is known of its states, whoever fills them in; `task` is its name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.view import described

EVERY_REPLY_HAS = ("thoughts", "action")


def check_actions(task: str, actions: Any) -> None:
    """Refuse actions that are no texts, none, or one twice."""
    texts = list(actions) if isinstance(actions, list | tuple | Mapping) else None
    if not texts or not all(isinstance(each, str) for each in texts) or len(set(texts)) < len(texts):
        raise GtrTurboError(f"the actions of {task} are {actions!r}.", "give at least one, each a text of its own.")


def check_reads(task: str, reads: Any, *, own_parser: bool) -> None:
    """Refuse names that are none, such as the letters of one text, and those of what is not read off a picture."""
    names = list(reads) if isinstance(reads, list | tuple) else None
    if names is None or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        meant = f"({reads!r},)" if isinstance(reads, str) and reads else '("row", "column")'
        raise GtrTurboError(f"the reads of {task} are {reads!r}.", f"give names in a tuple or list, each once: reads={meant}.")
    own = [name for name in names if not own_parser and name in EVERY_REPLY_HAS]
    if own:
        raise GtrTurboError(f"{task} reads {own[0]!r}, which is not read off a picture.", "leave it out: every reply has it.")


def check_tables(task: str, **tables: Any) -> None:
    """Refuse fields that are no dicts."""
    for name, found in tables.items():
        if not isinstance(found, Mapping):
            raise GtrTurboError(f"{name} of {task} is {described(found)}.", "give a dict, by name.")


def check_panel(task: str, name: str, seeds: Any) -> None:
    """Refuse seeds that are in no order, or with which no environment can be reset."""
    if isinstance(seeds, str) or not isinstance(seeds, Sequence | np.ndarray):
        raise GtrTurboError(f"panel {name} of {task} is {described(seeds)}.", "give its seeds in order, as a list.")
    odd = [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0]
    if odd:
        raise GtrTurboError(f"panel {name} of {task} holds {odd[0]!r}.", "seeds are whole numbers from 0.")


def plain_json(value: Any, name: str, of: str) -> Any:
    """Turn numpy's numbers and arrays into JSON's; `of` is what a value is part of."""
    if isinstance(value, np.generic | np.ndarray):
        return plain_json(value.tolist(), name, of)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item, f"{name}.{key}", of) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, name, of) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise GtrTurboError(f"{of} holds {name}, which is {value}.", "JSON holds finite numbers alone.")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise GtrTurboError(
        f"{of} holds {name}, a {type(value).__name__}, which is no JSON.",
        "let the task's `known` and `truth` return texts, numbers, lists and dicts of them.",
    )
