"""Tasks: what a model plays. The `Task` record, the built-in games, and how a task of the user's own is found.

Importing this package registers the games with Gymnasium too: `import gtrturbo.tasks` and then
`gymnasium.make("gtrturbo/NumberLine-v0")`, or in one go `gymnasium.make("gtrturbo.tasks:gtrturbo/NumberLine-v0")`.
"""

import gymnasium as gym

from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Ending, Past, View, ask

__all__ = ["ChatPrompt", "Ending", "Past", "Reply", "Task", "View", "ask", "register_envs"]

ENTRY_POINTS = {
    "gtrturbo/NumberLine-v0": "gtrturbo.tasks.games.numberline:NumberLineEnv",
    "gtrturbo/EZPoints-v0": "gtrturbo.tasks.games.ezpoints:make_env",
    "gtrturbo/Blackjack-v0": "gtrturbo.tasks.games.blackjack:BlackjackEnv",
    "gtrturbo/Points24-v0": "gtrturbo.tasks.games.points24:make_env",
}


def register_envs() -> None:
    """Register the four environments with Gymnasium; a second call changes nothing."""
    for env_id, entry_point in ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point)


register_envs()
