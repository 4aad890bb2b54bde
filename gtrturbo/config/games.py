"""The built-in games by name, with the ids of their Gymnasium environments; known also where no game is loaded."""

GAME_IDS = {
    "numberline": "gtrturbo/NumberLine-v0",
    "ezpoints": "gtrturbo/EZPoints-v0",
    "blackjack": "gtrturbo/Blackjack-v0",
    "points24": "gtrturbo/Points24-v0",
}


def game_name(text: str) -> str:
    """Return the one name of a game, whether it was called by it or by the id of its environment, in whatever case."""
    by_id = {env_id.lower(): name for name, env_id in GAME_IDS.items()}
    return by_id.get(text.lower(), text.lower())
