"""MiniGrid: any environment of the package, untouched; the mission stands in the prompt, and a planner is the expert.

Source: Chevalier-Boisvert et al., "Minigrid & Miniworld" (2023).
"""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any, Literal

import gymnasium as gym

from gtrturbo.tasks.deals import draw_until, is_for_panels, panel_seeds
from gtrturbo.tasks.games.drawing import CELL
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Look, View, ask_of
from gtrturbo.tasks.worlds.frames import import_extra, require_known, scaled
from gtrturbo.tasks.worlds.grids import ACTIONS, FACING, goal_of, lines_of, planned

PREFIX = "MiniGrid-"
MEANINGS = {
    "left": "turn left",
    "right": "turn right",
    "forward": "move ahead",
    "pickup": "take what is ahead",
    "drop": "put down ahead what you carry",
    "toggle": "open what is ahead",
    "done": "end",
}
GRID_LEGEND = (
    "Two marks a cell, what is there and its colour's first letter: W wall, G goal, D closed door, L locked door, _ open door, "
    "K key, A ball, B box, F floor, V lava, .. empty, >> vv << ^^ you:"
)
GRID_BOUNDS: dict[str, Option] = {"horizon": Whole(0, 0, 10_000)}


class SplitEnv(gym.Wrapper):
    """An environment that deals some grids to panels alone: it is reset again, without a seed, until a fitting one comes.

    What is drawn after a reset comes from the environment's own generator.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Reset until the grid is one that panels have to themselves, or one of the others; see `draw_until`."""
        seeds = iter([seed])
        drawn = lambda: self.env.reset(seed=next(seeds, None), options=options)  # noqa: E731 - one line, used once
        return draw_until(drawn, lambda _: str(known(self.env, None, {})), for_panels=is_for_panels(seed))


def known(env: gym.Env, observation: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the whole grid holds, row by row, where the agent stands and what it faces and carries."""
    inner: Any = env.unwrapped
    cells = inner.grid.encode().transpose(1, 0, 2)  # [row, column, (type, colour, state)]
    carried = inner.carrying
    return {
        "row": int(inner.agent_pos[1]),
        "column": int(inner.agent_pos[0]),
        "facing": FACING[inner.agent_dir],
        "carrying": f"{carried.color} {carried.type}" if carried else "nothing",
        "mission": str(inner.mission),
        "grid": cells.tolist(),
    }


def truth(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the agent stands and what it faces."""
    return {name: info[name] for name in ("row", "column", "facing")}


def expert(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first action of a shortest plan, and what it is for."""
    action, aim = planned(info)
    return f"{aim} so {action}", action


def mini_grid(environment: str, *, image: Literal["full", "tiny"] = "full", horizon: int = 0, look: Look = "picture") -> Task:
    """Make the task of an environment by its id.

    `image=tiny` has 28 pixels a cell; a horizon of 0 is the environment's own.

    Raises: GtrTurboError: the package is missing, or has no such environment; names the closest.
    """
    check_options({"horizon": horizon}, GRID_BOUNDS)
    import_extra("minigrid", f"minigrid:{environment}")
    require_known(environment, f"minigrid:{environment}", prefix=PREFIX)
    blind = partial(_make, environment, None)
    with closing(blind()) as env:
        env.reset(seed=0)
        inner: Any = env.unwrapped
        rows, columns, limit = inner.height, inner.width, int(inner.max_steps)
        has_plan, actions = goal_of(str(inner.mission)) is not None, ACTIONS[: inner.action_space.n]
    return Task(
        name=f"minigrid:{environment}",
        make=partial(_make, environment, "rgb_array"),
        blind=blind,
        prompt=partial(_prompt, actions=actions, look=look, size=(columns * CELL, rows * CELL) if image == "tiny" else None),
        actions=actions,
        known=known,
        reads=("row", "column", "facing"),
        truth=truth,
        expert=expert if has_plan else None,
        won=lambda end: end.total > 0,
        max_turns=horizon or limit,
        panels={"held-out": panel_seeds()},
    )


def _make(environment: str, render_mode: str | None) -> gym.Env:
    return SplitEnv(gym.make(environment, render_mode=render_mode, disable_env_checker=True))


def _prompt(view: View, *, actions: tuple[str, ...], look: Look, size: tuple[int, int] | None) -> ChatPrompt:
    info = view.info
    rows, columns = len(info["grid"]), len(info["grid"][0])
    meanings = ", ".join(f"{action}: {MEANINGS[action]}" for action in actions)
    triangle = "You are the red triangle, which points where you face. " if look != "text" else ""
    text = (
        f"a grid of {rows} by {columns} cells; row 0 is at the top, column 0 at the left. {triangle}"
        f"Mission: {info['mission']}. You carry {info['carrying']}. "
        f"Actions: {meanings}. Reply with JSON only: "
        '{"row": your row, "column": your column, "facing": "right, down, left or up", "thoughts": "what to do", '
        '"action": "one of the actions"}'
    )
    return ask_of(look, text, lines_of(info), GRID_LEGEND, lambda: scaled(view.picture, *size) if size else view.picture)
