"""The built-in tasks by name; known also where none is loaded.

The games stand with the ids of their Gymnasium environments. FAMILY:ID is the environment of that id, such as gym:CartPole-v1.
"""

from collections.abc import Sequence
from pathlib import Path

GAME_IDS = {
    "numberline": "gtrturbo/NumberLine-v0",
    "ezpoints": "gtrturbo/EZPoints-v0",
    "blackjack": "gtrturbo/Blackjack-v0",
    "points24": "gtrturbo/Points24-v0",
}

WORLDS = ("frozenlake", "sokoban")
HOUSES = ("alfworld",)  # Their engines are packages of others.
FAMILIES = ("gym", "minigrid", "miniwob")

# What a turn pays at least and at most.
TURN_REWARDS = {
    "numberline": (-1.0, 1.0),
    "ezpoints": (-1.0, 10.0),
    "blackjack": (-1.0, 1.0),
    "points24": (-1.0, 10.0),
    "frozenlake": (0.0, 1.0),
    "sokoban": (-2.0, 1.0),
    "minigrid": (0.0, 1.0),
    "alfworld": (-1.0, 51.0),
    "miniwob": (-1.0, 1.0),
}
# Of environments of a family that pay otherwise, by how their names begin.
OWN_REWARDS = {"minigrid:MiniGrid-Dynamic-Obstacles-": (-1.0, 1.0)}
# Where a wrong turn ends nothing, it loses at most what it takes back itself: the paper's cost is as much.
OWN_COSTS = {"alfworld": 1.0}
UNKNOWN_COST = 1.0
SETTINGS_FILE = "file="  # The option of gym:ID that names a file of settings.


def turn_rewards(text: str) -> tuple[float, float] | None:
    """Return what a turn of a task pays at least and at most; None where that is not known."""
    name = game_name(text)
    own = next((paid for begins, paid in OWN_REWARDS.items() if name.startswith(begins)), None)
    return own or TURN_REWARDS.get(name.partition(":")[0])


def has_own_cost(text: str) -> bool:
    """Tell whether what an invalid reply costs does not follow from what turns pay."""
    return game_name(text).partition(":")[0] in OWN_COSTS


def invalid_reply_cost(text: str) -> float:
    """Return what a reply costs that cannot be read: as much as the best turn of the task pays more than its worst; else 1.

    A wrong move loses what it pays itself and what the right one would have paid: then to write nothing readable is no way out.
    """
    task = game_name(text).partition(":")[0]
    lowest, highest = turn_rewards(text) or (0.0, UNKNOWN_COST)
    return OWN_COSTS.get(task, highest - lowest)


def game_name(text: str) -> str:
    """Return the one name of a built-in task, in whatever case it was called: a game by the id of its environment, too."""
    family, colon, environment = text.partition(":")
    if colon and family.lower() in FAMILIES:
        return f"{family.lower()}:{environment}"
    by_id = {env_id.lower(): name for name, env_id in GAME_IDS.items()}
    return by_id.get(text.lower(), text.lower())


def without_folders(task: str | None, env: Sequence[str]) -> list[str]:
    """Return the options of a task as a manifest says them: of a file of settings its name, as its hash stands beside."""
    if not task or not game_name(task).startswith("gym:"):
        return list(env)
    file = SETTINGS_FILE
    return [f"{file}{Path(each.removeprefix(file)).name}" if each.startswith(file) else each for each in env]


def settings_file(task: str, env: Sequence[str]) -> Path | None:
    """Return the file of settings that the options of a task name, if they do: of several the last counts."""
    files = [each.removeprefix(SETTINGS_FILE) for each in env if each.startswith(SETTINGS_FILE)]
    return Path(files[-1]) if files and files[-1] and game_name(task).startswith("gym:") else None


def is_game(text: str) -> bool:
    """Tell whether a task is one of the games, of whose texts the built-in models' tokenizer is made if no task is named."""
    return game_name(text) in GAME_IDS


def is_task(text: str) -> bool:
    """Tell whether a text is the name of a built-in task."""
    name = game_name(text)
    return name in (*GAME_IDS, *WORLDS, *HOUSES) or name.partition(":")[0] in FAMILIES


def has_tiny_image(text: str) -> bool:
    """Tell whether a task is built in and draws small pictures when asked to, with image=tiny."""
    name = game_name(text)
    return name in GAME_IDS or name in WORLDS or name in HOUSES or name.startswith("minigrid:")
