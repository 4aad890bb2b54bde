"""What a manifest says of the environment that is played, besides the task's name."""

import importlib
from typing import Any

from gtrturbo.config.games import is_game
from gtrturbo.plugins import is_outside


def played_with(config: Any) -> dict[str, dict[str, str]]:
    """Name the version of the environment that a built-in task plays, and the episodes of a panel: others are another game.

    Nothing is imported for the four games, which are this package's own.
    """
    task, env, panel = (getattr(config, name, None) for name in ("task", "env", "panel"))
    found, code = {}, ""
    if task and not (is_outside(task) or is_game(task)):
        origins = importlib.import_module("gtrturbo.tasks.origin")
        origin, code = origins.origin(task, env or ()), origins.environment_code(task, tuple(env or ()))
        found |= {"task": origin} if origin else {}
    if task and panel:
        loaded = importlib.import_module("gtrturbo.tasks.loading").load_task(task, env or ())
        panels = importlib.import_module("gtrturbo.tasks.panels")
        found["panel"] = {"name": panel, "sha256": panels.panel_id(loaded, panel, code=code)}
    return found
