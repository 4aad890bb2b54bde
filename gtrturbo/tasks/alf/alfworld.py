"""ALFWorld's task: household games in words or pictures, whose actions change with the state.

Source: Shridhar et al., "ALFWorld: Aligning Text and Embodied Environments for Interactive Learning" (2021); reward and prompt
after Zhai et al. (2024), whose other half is GTR's.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any, Literal

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.house_env import HOUSE_PANELS, HouseEnv, Pays, Size, textworld_engine
from gtrturbo.tasks.alf.library import SPLITS, TRAJECTORY, Library, Source, Split, chosen_kinds, games_version, library
from gtrturbo.tasks.alf.scenes import HouseEngine
from gtrturbo.tasks.deals import panel_seeds
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Info, Look, View, ask

INSTALL_ALFWORLD = "run: pip install 'gtrturbo[alfworld]'"
HOUSE_BOUNDS: dict[str, Option] = {"horizon": Whole(40, 1, 1000), "history": Whole(40, 0, 1000)}
HOUSE_TURNS = 20_000  # Of about 2 ms each.
PACKAGES = ("textworld", "alfworld", "ai2thor")
EngineName = Literal["textworld", "thor"]


def alfworld(
    *,
    split: Split = "train",
    types: str = "all",
    games: Source = "auto",
    look: Look = "text",
    image: Size = "full",
    history: int = 40,
    horizon: int = 40,
    pays: Pays = "increment",
    engine: EngineName = "textworld",
) -> Task:
    """Make the task.

    Args:
        split: games that episodes are dealt from: `train`, `seen` (its rooms, other games) or `unseen` (other rooms).
        types: task types with commas between, or `all`.
        games: `written` are this package's, `data` the real ones below ALFWORLD_DATA; `auto` takes these where that is set.
        look: whether what is told stands in the prompt, in a picture, or in both. THOR's picture is what it draws.
        image: `tiny` draws words on 112 pixels instead of 308.
        history: so many of the last actions stand in the prompt.
        horizon: turns after which an episode is cut; 40 is GTR's.
        pays: see `HouseEnv`.
        engine: `textworld`, or `thor`, which needs ALFWORLD_DATA, a display and a GPU: docs/alfworld-thor.md.

    Raises: GtrTurboError: a package or the games are missing, or an option cannot be; names what may.
    """
    check_options({"horizon": horizon, "history": history}, HOUSE_BOUNDS)
    kinds = chosen_kinds(types)
    missing = [name for name in _needed(engine) if importlib.util.find_spec(name) is None]
    if missing:
        raise GtrTurboError(
            f"alfworld needs the package {missing[0]}, which is not installed.",
            INSTALL_ALFWORLD if engine == "textworld" else "see the documentation: alfworld-thor",
        )
    found = _libraries(split, games, kinds, engine)
    engines = {plans: partial(HouseEnv, _engine(engine, found, plans), found, pays, image) for plans in (True, False)}
    return Task(
        name="alfworld",
        make=partial(engines[True], render_mode="rgb_array"),
        blind=engines[False],
        prompt=partial(_prompt, look=look, history=history),
        actions=commands,
        act=lambda action, info: action,
        expert=expert,
        won=lambda end: bool(end.info["won"]),
        kind=lambda info: info["type"],
        max_turns=horizon,
        chance_turns=HOUSE_TURNS,
        panels={name: panel_seeds(HOUSE_PANELS.index(name), len(found[name].names)) for name in HOUSE_PANELS if name in found},
    )


def _needed(engine: EngineName) -> tuple[str, ...]:
    return ("textworld", "fast_downward") if engine == "textworld" else ("alfworld", "ai2thor", "cv2")


def _libraries(split: Split, source: Source, kinds: Sequence[str], engine: EngineName) -> dict[str, Library]:
    """Find the games that are dealt, and those of panels where there are some."""
    file = {} if engine == "textworld" else {"file": TRAJECTORY}
    where: Source = source if engine == "textworld" else "data"
    found = {"dealt": library(split, where, kinds, **file)}
    for name in SPLITS:
        try:
            found[name] = library(name, where, kinds, **file)
        except GtrTurboError:  # Of a split that was not downloaded there is no panel.
            continue
    return found


def _engine(name: EngineName, found: Mapping[str, Library], plans: bool) -> Callable[[], HouseEngine]:
    """Return what makes an engine; without a model nobody asks for plans, and TextWorld's takes half of the time with them."""
    if name == "textworld":
        return partial(textworld_engine, plans=plans)
    from_data = importlib.import_module("gtrturbo.tasks.alf.thor_engine")
    return partial(from_data.made_thor, found["dealt"].root)


def commands(info: Info) -> Sequence[str]:
    """Return what may be done in a state, as the game says it."""
    return info["commands"]


def expert(info: Info) -> tuple[str, str]:
    """Do what the engine's expert would do next; where it has no plan, the first command."""
    action = info["plan"][0] if info["plan"] else info["commands"][0]
    return f"next is {action}", action


def _prompt(view: View, *, look: Look, history: int) -> ChatPrompt:
    text = _text(view, look, history)
    return ask(text) if look == "text" else ask(text, view.picture)


def _text(view: View, look: Look, history: int) -> str:
    """Say what is to be done, what is told, what was done before and what may be done now, in the game's own words."""
    info = view.info
    told = [f"You are in a house. Your task is to: {info['goal']}."]
    told += [f"You are told: {info['told']}"] if look != "picture" else []
    told += ["The image shows what you see."] if look != "text" else []
    past = [each.action or "nothing" for each in view.history[-history:]] if history else []
    told += [f"Your actions so far: {', '.join(past)}."] if past else []
    told += ["You may: " + ", ".join(f'"{command}"' for command in info["commands"]) + "."]
    return " ".join([*told, 'Reply with JSON only: {"thoughts": "what to do", "action": "one of what you may do"}'])


def alfworld_origin(options: Mapping[str, Any]) -> dict[str, str]:
    """Name the packages and the games that the task is played with, for a manifest."""
    thor = options["engine"] == "thor"
    found = library(
        options["split"],
        "data" if thor else options["games"],
        chosen_kinds(options["types"]),
        **({"file": TRAJECTORY} if thor else {}),
    )
    versions = [f"{name} {_version(name)}" for name in PACKAGES if importlib.util.find_spec(name) is not None]
    return {
        "name": "alfworld",
        "version": ", ".join(versions) or "none",
        "games": games_version(found),
        "games_sha256": found.sha256,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of no version"
