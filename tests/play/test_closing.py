"""Whatever fails, every environment that was made is closed, and what failed first is what is told."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.play import recording
from gtrturbo.play.episodes import Response, Slot, play_episodes
from gtrturbo.play.recording import record_episodes
from gtrturbo.play.trial import play
from gtrturbo.runs.sample import sample
from gtrturbo.tasks import Task, ask
from gtrturbo.tasks.texts import task_texts

TURNS = 3


class Counted(gym.Env):
    """Counts its kind that are open; fails where it is told to."""

    observation_space = gym.spaces.Box(0, 255, (28, 28, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, made: list["Counted"], fails: Sequence[str]) -> None:
        self.is_open, self.fails = True, fails
        made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._fail("reset")
        self.count = 0
        return np.zeros((28, 28, 3), np.uint8), {}

    def step(self, action):
        self.count += 1
        self._fail("step")
        return np.zeros((28, 28, 3), np.uint8), 0.0, self.count == TURNS, False, {}

    def close(self):
        self.is_open = False
        self._fail("close")

    def _fail(self, call: str) -> None:
        if call in self.fails:
            raise RuntimeError(f"{call} failed")


def task(made: list[Counted], fails: Sequence[str] = (), later: Sequence[str] = (), **more) -> Task:
    """Make a task of which the first environment fails in one way, and the later ones in another."""
    show = {"prompt": lambda view: ask("?", view.picture), "actions": ("go", "stay")} | more
    return Task(name="counted", make=lambda: Counted(made, later if made else fails), **show)


def silent(states):
    return [Response("") for _ in states]


def all_of(made: Task, agent=silent, num_envs=3) -> list:
    asked = {"seed": 0, "episodes": range(5), "num_envs": num_envs, "on_invalid_reply": "random"}
    return list(play_episodes(agent, made, **asked))


def closed(made: list[Counted], count: int) -> bool:
    return len(made) == count and not any(env.is_open for env in made)


def test_environments_are_closed_when_all_is_played():
    made: list[Counted] = []
    assert len(all_of(task(made))) == 5 and closed(made, 3)


def fail_at(turn: int):
    def agent(states):
        if any(state.turn == turn for state in states):
            raise RuntimeError("the agent failed")
        return silent(states)

    return agent


@pytest.mark.parametrize("turn", [0, 1])
def test_environments_are_closed_when_the_agent_fails(turn):
    made: list[Counted] = []
    with pytest.raises(RuntimeError, match="the agent failed"):
        all_of(task(made), fail_at(turn))
    assert closed(made, 3)


@pytest.mark.parametrize(
    ("fails", "later", "count", "told"),
    [
        (["step"], [], 3, "step failed"),
        (["reset"], [], 1, "reset failed"),
        ([], ["reset"], 2, "reset failed"),
        (["step", "close"], ["close"], 3, "step failed"),
        (["close"], ["close", "reset"], 2, "reset failed"),
        (["reset", "close"], [], 1, "reset failed"),
    ],
)
def test_what_failed_first_is_told_and_all_are_closed(fails, later, count, told):
    made: list[Counted] = []
    with pytest.raises(GtrTurboError, match=told):
        all_of(task(made, fails, later))
    assert closed(made, count)


def test_an_environment_that_cannot_be_closed_is_told_once_nothing_else_is():
    made: list[Counted] = []
    with pytest.raises(GtrTurboError, match=r"counted fails at close\(\).*close failed"):
        all_of(task(made, ["close"]))
    assert closed(made, 3)


def test_a_prompt_that_fails_leaves_no_environment_open():
    made: list[Counted] = []
    with pytest.raises(ZeroDivisionError):
        all_of(task(made, prompt=lambda view: 1 / 0))
    assert closed(made, 1)


def test_who_stops_listening_closes_them():
    made: list[Counted] = []
    playing = play_episodes(silent, task(made), seed=0, episodes=range(5), num_envs=3, on_invalid_reply="random")
    next(playing)
    playing.close()
    assert closed(made, 3)


def test_one_that_is_opened_alone_is_closed_where_it_cannot_begin():
    made: list[Counted] = []
    with pytest.raises(IndexError):
        Slot.open(task(made), 0, 7, deals=[1])
    assert closed(made, 1)


def test_a_trial_that_is_cut_short_leaves_none_open(monkeypatch):
    monkeypatch.setattr("gtrturbo.play.trial.MOST_PLAYED", 2)
    made: list[Counted] = []
    held = play(task(made), num_envs=1)
    assert len(held) == 1 and closed(made, 1)


def test_a_record_that_cannot_be_written_leaves_none_open(tmp_path, monkeypatch):
    def full(folder, played):
        raise OSError("no space left")

    monkeypatch.setattr(recording, "record", full)
    made: list[Counted] = []
    log: Any = SimpleNamespace(found=[], folder=tmp_path)
    how = {"seed": 0, "episodes": range(5), "num_envs": 3, "on_invalid_reply": "random"}
    with pytest.raises(OSError, match="no space left") as error:
        record_episodes(tmp_path, log, silent, task(made), **how)
    assert error.traceback and closed(made, 3)  # The traceback still holds the frames: none was closed by being forgotten.


@pytest.mark.parametrize("look", [sample, lambda made: list(task_texts(made, episodes=2))])
@pytest.mark.parametrize("fails", [[], ["step", "close"]])
def test_who_looks_at_a_task_closes_it(look, fails):
    made: list[Counted] = []
    if fails:
        with pytest.raises(GtrTurboError, match="step failed"):
            look(task(made, fails))
    else:
        look(task(made))
    assert closed(made, 1)
