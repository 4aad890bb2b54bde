"""MiniGrid: any environment of the package, untouched; the mission stands in the prompt, and a planner is the expert.

Source: Chevalier-Boisvert et al., "Minigrid & Miniworld" (2023).
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import gymnasium as gym

from gtrturbo.tasks.deals import draw_until, has_both, is_for_panels, panel_seeds
from gtrturbo.tasks.environment import PlayedEnv, telling
from gtrturbo.tasks.games.drawing import CELL
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Look, View, ask_of
from gtrturbo.tasks.worlds.frames import import_extra, require_known, require_within, scaled
from gtrturbo.tasks.worlds.grids import ACTIONS, FACING, has_plan, lines_of, planned

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
FIRST_GRIDS = 3  # Of so many first grids each must have a plan, or the task has no expert.
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
    """Return the first action of a shortest plan, and what it is for.

    Raises: GtrTurboError: there may be one, but the search ends before.
    """
    action, aim = planned(info)
    return f"{aim} so {action}", action


def mini_grid(environment: str, *, image: Literal["full", "tiny"] = "full", horizon: int = 0, look: Look = "picture") -> Task:
    """Make the task of an environment by its id.

    `image=tiny` has 28 pixels a cell; a horizon of 0 is the environment's own.

    Raises: GtrTurboError: the package is missing, or has no such environment; names the closest. Or the horizon is too long.
    """
    check_options({"horizon": horizon}, GRID_BOUNDS)
    import_extra("minigrid", f"minigrid:{environment}")
    others = "" if environment.startswith(PREFIX) else f"; what begins otherwise is played as gym:minigrid:{environment}"
    require_known(environment, f"minigrid:{environment}", prefix=PREFIX, otherwise=others)
    found = _found(environment)
    require_within(f"minigrid:{environment}", found.limit, horizon)
    actions, size = ACTIONS[: found.actions], (found.columns * CELL, found.rows * CELL)
    return Task(
        name=f"minigrid:{environment}",
        make=partial(_make, environment, "rgb_array", splits=found.splits),
        blind=partial(_make, environment, None, splits=found.splits),
        prompt=partial(_prompt, actions=actions, look=look, size=size if image == "tiny" else None),
        actions=actions,
        known=known,
        reads=("row", "column", "facing"),
        truth=truth,
        expert=expert if found.planned else None,
        won=lambda end: end.total > 0,
        max_turns=horizon or found.limit,
        panels={"held-out" if found.splits else "fixed": panel_seeds()},
    )


@dataclass(frozen=True)
class GridWorld:
    """What is found of an environment when it is first made.

    Attributes:
        rows, columns: of its grid.
        limit: turns after which it cuts an episode.
        actions: how many of the package's seven it has.
        splits: whether it deals enough grids for panels to have some to themselves.
        planned: whether the planner knows its missions and finds plans for them.
    """

    rows: int
    columns: int
    limit: int
    actions: int
    splits: bool
    planned: bool


@lru_cache(maxsize=64)
def _found(environment: str) -> GridWorld:
    with telling(f"minigrid:{environment}", "cannot be made"):
        made = gym.make(environment, disable_env_checker=True)
    with closing(PlayedEnv(made, f"minigrid:{environment}")) as env:
        inner: Any = env.unwrapped
        splits = has_both(_dealt(env))
        size = {"rows": inner.height, "columns": inner.width, "actions": int(inner.action_space.n)}
        return GridWorld(**size, limit=int(inner.max_steps), splits=splits, planned=all(map(has_plan, _starts(env))))


def _dealt(env: gym.Env) -> Iterator[str]:
    env.reset(seed=0)
    while True:
        yield str(known(env, None, {}))
        env.reset()


def _starts(env: gym.Env) -> Iterator[dict[str, Any]]:
    for seed in range(FIRST_GRIDS):
        env.reset(seed=seed)
        yield known(env, None, {})


def _make(environment: str, render_mode: str | None, *, splits: bool) -> gym.Env:
    env = gym.make(environment, render_mode=render_mode, disable_env_checker=True)
    return SplitEnv(env) if splits else env


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
