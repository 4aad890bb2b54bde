"""Tasks of a user's own, on one small environment, each different in one way; the broken ones are wrong in one way each."""

import re
from dataclasses import replace
from typing import Literal

import gymnasium as gym
import numpy as np

from gtrturbo.tasks import ChatPrompt, Reply, Task, View, ask

BRIGHT = 50  # Of a cell, per step that it lies from the left.


class Corridor(gym.Env):
    """Walk along cells to the last one; the picture is brighter the further the player stands."""

    def __init__(self, *, length: int = 4, draws: bool = True) -> None:
        self.length, self.draws = length, draws
        self.action_space = gym.spaces.Discrete(2)
        self.observation_space = gym.spaces.Discrete(length)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(self.length - 1))
        return self.place, {"place": self.place, "won": False}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        done = self.place == self.length - 1
        return self.place, float(done), done, False, {"place": self.place, "won": done}

    def render(self):
        return np.full((28, 28, 3), BRIGHT * self.place, np.uint8) if self.draws else None


def show(view: View) -> ChatPrompt:
    return ask("go back or on", view.picture)


WALK = Task(
    name="walk",
    make=Corridor,
    prompt=show,
    actions=("back", "on"),
    reads=("place",),
    truth=lambda info: {"place": info["place"]},
    expert=lambda info: ("on", "on"),
    max_turns=6,
)

TAGGED = re.compile(r"<think>.*</think>(?P<part><answer>(?P<action>\w+)</answer>)", re.DOTALL)


def read_tags(text: str, info) -> Reply | None:
    match = TAGGED.fullmatch(text)
    return match and Reply({}, match["action"], match.start("part"), match.span("action"))


TAGS = replace(
    WALK,
    name="tags",
    prompt=lambda view: ask(f"You stand at {view.info['place']} of 3. back or on?"),
    parse=read_tags,
    reads=(),
    truth=None,
    expert=lambda info: "<think>the end is on</think><answer>on</answer>",
    random_expert=lambda info, rng: f"<think>why not</think><answer>{('back', 'on')[rng.integers(2)]}</answer>",
)


def with_past(view: View) -> ChatPrompt:
    """Show the picture of the turn before, where there is one, and of this one, and tell what was done."""
    before = view.history[-1].images[-1] if view.history else np.zeros_like(view.picture)
    done = ", ".join(past.action or "nothing" for past in view.history) or "nothing yet"
    return ask(f"before and now; you did: {done}", before, view.picture)


PAIRS = replace(WALK, name="pairs", prompt=with_past)


def doors(info) -> tuple[str, ...]:
    return ("on",) if info["place"] == 0 else ("back", "on", "stay")


DOORS = replace(
    WALK, name="doors", actions=doors, act=lambda action, info: 1 if action == "on" else 0, won=lambda end: end.total == 1
)


def LONG(*, length: int = 4, way: Literal["right", "left"] = "right", shy: bool = False) -> Task:
    return replace(WALK, name=f"walk {way}", make=lambda: Corridor(length=length), max_turns=2 * length)


def SIZED(*, size: Literal[4, 8] = 4, limit: int | None = None) -> Task:
    return replace(WALK, make=lambda: Corridor(length=size), max_turns=limit or 3 * size)


ALONE = replace(WALK, name="alone", expert=None, truth=None, reads=())
MUTE = replace(TAGS, name="mute", expert=None, random_expert=None)
SHOUTS = replace(TAGS, name="shouts", random_expert=None)

NOT_A_TASK = {"name": "walk"}
DARK = replace(WALK, make=lambda: Corridor(draws=False))
SECRET = replace(WALK, known=lambda env, observation, info: {"place": observation, "env": env})
ENDLESS = replace(WALK, max_turns=None)
TWICE = replace(WALK, prompt=lambda view: ChatPrompt(show(view).messages, [view.picture, view.picture]))
LIAR = replace(WALK, expert=lambda info: '{"place": 9, "thoughts": "", "action": "on"}')
MISREAD = replace(WALK, expert=lambda info: ("fly", "fly"))
HOPELESS = replace(WALK, expert=lambda info: ("back", "back"))


def raises(view: View) -> ChatPrompt:
    return ask(f"{view.info['nowhere']}")


RAISES = replace(WALK, prompt=raises)


def shifted(by: int):
    def parse(text: str, info) -> Reply | None:
        reply = read_tags(text, info)
        return reply and replace(reply, action_span=(reply.action_span[0] + by, reply.action_span[1] + by))

    return parse


SHIFTED = replace(TAGS, parse=shifted(1))
FAR = replace(TAGS, parse=shifted(99))


def read_late(text: str, info) -> Reply | None:
    reply = read_tags(text, info)
    return reply and replace(reply, action_start=reply.action_span[0])


LATE = replace(TAGS, parse=read_late)


LAST = re.compile(r"<answer>(?P<action>\w+)</answer><think>(?P<thought>.*)</think>")


def read_why(text: str, info) -> Reply | None:
    """Read a thought that stands after the action."""
    match = LAST.fullmatch(text)
    return match and Reply({}, match["action"], 0, match.span("action"), match.span("thought"))


def read_mark(text: str, info) -> Reply | None:
    """Take the mark before the action for the thought."""
    reply = read_tags(text, info)
    return reply and replace(reply, thought_span=(0, reply.action_span[0]))


WHY = replace(
    TAGS,
    parse=read_why,
    expert=lambda info: "<answer>on</answer><think>the end is on</think>",
    random_expert=lambda info, rng: f"<answer>{('back', 'on')[rng.integers(2)]}</answer><think>why not</think>",
)
MARK = replace(TAGS, parse=read_mark)


class Forgetful(Corridor):
    """Draw from a generator that no seed sets."""

    def reset(self, *, seed=None, options=None):
        self.place = int(np.random.default_rng().integers(1000))
        return super().reset(seed=int(self.place))


class Cutting(Corridor):
    """Say that an episode ended by its rules where it was cut."""

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.count += 1
        place, _, _, _, info = super().step(0)
        return place, 0.0, self.count == 6, False, info


UNSEEDED = replace(WALK, make=Forgetful)
SIX = gym.envs.registration.EnvSpec("own/Cutting-v0", entry_point=Cutting, max_episode_steps=6)
CUTTING = replace(WALK, make=lambda: gym.make(SIX), expert=None, won=lambda end: False)
