"""MiniWoB: pages of the package in a real Chromium, seen as screenshots, played by clicks and typing.

Source: Shi et al., "World of Bits" (2017); Liu et al., "Reinforcement Learning on Web Interfaces …" (2018).
"""

import json
from functools import partial

import gymnasium as gym
import numpy as np

from gtrturbo.tasks.deals import panel_seeds
from gtrturbo.tasks.options import Option, Whole, check_options
from gtrturbo.tasks.reply import Reply, read_reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import ChatPrompt, Ending, Info, View, ask
from gtrturbo.tasks.worlds.browser import PageEnv, require_browser
from gtrturbo.tasks.worlds.frames import import_extra, refuse_unknown
from gtrturbo.tasks.worlds.page import HEIGHT, TYPE, WIDTH, action_of, action_text, actions, in_words
from gtrturbo.tasks.worlds.web_experts import EXPERTS

NAMED = "miniwob/{}-v1"
CHANCE_TURNS = 1000  # A turn in a browser takes some 50 ms.
WEB_BOUNDS: dict[str, Option] = {"horizon": Whole(10, 1, 1000), "seconds": Whole(0, 0, 86_400), "patience": Whole(30, 1, 3600)}


def web_page(page: str, *, elements: bool = True, horizon: int = 10, seconds: int = 0, patience: int = 30) -> Task:
    """Make the task of a page by its name, such as click-test.

    Args:
        page: the package's name of it.
        elements: list the elements of the page in the prompt, with numbers to click them by; else there are pixels alone.
        horizon: turns.
        seconds: let the page's own clock end an episode after so long: its end then depends on how fast replies come; 0: never.
        patience: seconds after which a browser that does not answer is ended, which cuts its episode.

    Raises: GtrTurboError: the package or the browser is missing, or there is no such page; names the closest.
    """
    check_options({"horizon": horizon, "seconds": seconds, "patience": patience}, WEB_BOUNDS)
    name = f"miniwob:{page}"
    import_extra("miniwob", name)
    refuse_unknown(page, name, pages())
    require_browser(name)
    make = partial(PageEnv, NAMED.format(page), seconds=seconds, patience=float(patience))
    known = page in EXPERTS
    return Task(
        name=name,
        make=make,
        blind=partial(make, draws=False),
        prompt=partial(_prompt, listed=elements),
        actions=partial(actions, listed=elements),
        accepts=lambda text, info: action_of(text, info, listed=elements) is not None,
        act=lambda action, info: action,
        parse=read_reply_of_page,
        expert=partial(_expert, page=page, listed=elements) if known else None,
        random_expert=partial(_random, listed=elements),
        won=_won,
        max_turns=horizon,
        panels={"held-out": panel_seeds()},
        chance_turns=CHANCE_TURNS,
    )


def pages() -> list[str]:
    """Return the names of the package's pages, without those that need a server of their own (flight.…)."""
    first, last = NAMED.split("{}")
    found = [each.removeprefix(first).removesuffix(last) for each in gym.registry if each.startswith(first)]
    return [each for each in found if not each.startswith("flight.")]


def read_reply_of_page(text: str, info: Info) -> Reply | None:
    """Read a reply: JSON with `thoughts` and, last, `action`, an object; None where there is none.

    The action is that object, written as `action_text` writes it. Whether it can be done is another question.
    """
    return read_reply(text, required=("thoughts", "action"), written=_written)


def _written(value: object) -> str | None:
    return action_text(value) if isinstance(value, dict) else None


def _won(end: Ending) -> bool:
    """A page pays 1 for a task that is done, less where a part of it is."""
    return end.terminated and end.total > 1 - 1e-9


def _prompt(view: View, *, listed: bool) -> ChatPrompt:
    info = view.info
    clicks = 'a pixel with {"click": [x, y]}'
    named = f" On it: {in_words(info)}." if listed else ""
    if listed:
        clicks += ' or an element with {"click": number}'
    text = (
        f"The image shows a web page of {WIDTH} by {HEIGHT} pixels. Task: {info['utterance']}{named} "
        f"Click {clicks}; type into what has the focus with {TYPE}. "
        'Reply with JSON only: {"thoughts": "what to do", "action": the click or the text}'
    )
    return ask(text, view.picture)


def _said(thoughts: str, action: dict[str, object]) -> str:
    return json.dumps({"thoughts": thoughts, "action": action}, ensure_ascii=False)


def _expert(info: Info, *, page: str, listed: bool) -> str:
    thoughts, action = EXPERTS[page](info)
    number = action.get("click")
    return _said(thoughts, action if listed or number is None else {"click": info["elements"][number - 1]["at"]})


def _random(info: Info, rng: np.random.Generator, *, listed: bool) -> str:
    allowed = actions(info, listed=listed)
    action = allowed[int(rng.integers(len(allowed)))]
    return _said("try it", json.loads(action))
