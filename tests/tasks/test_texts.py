"""Texts of a task for a tokenizer: its prompts and replies, with an expert or without one."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from games import prompt_text

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.texts import CORPUS_GAMES, corpus, task_texts
from gtrturbo.tasks.view import ChatPrompt, View, ask


class Endless(gym.Env):
    """Counts its steps and never ends."""

    observation_space = gym.spaces.Box(0, 255, (28, 28, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {"count": self.count}

    def step(self, action: int):
        self.count += 1
        return self.observation_space.sample(), 0.0, False, False, {"count": self.count}


def outside_task(**more: Any) -> Task:
    def prompt(view: View) -> ChatPrompt:
        return ask(f"You took {view.info['count']} steps.", view.picture)

    return Task(name="endless", make=Endless, prompt=prompt, actions=("left", "right", "wait"), max_turns=30, **more)


def test_a_task_without_an_expert_gives_its_prompts_and_random_replies():
    texts = list(task_texts(outside_task(), episodes=2, wander=False))
    assert texts[0::2] == [f"You took {count} steps." for count in range(30)] * 2
    assert set(texts[1::2]) == {f'{{"thoughts": "try {action}", "action": "{action}"}}' for action in ("left", "right", "wait")}
    assert texts == list(task_texts(outside_task(), episodes=2, wander=False))


def test_prompts_of_what_was_done_before_show_their_words():
    def prompt(view: View) -> ChatPrompt:
        done = ", ".join(f"{past.action} for {past.reward:g}" for past in view.history) or "nothing yet"
        return ask(f"You did: {done}.", *[past.images[-1] for past in view.history[-1:]], view.picture)

    task = Task(name="before", make=Endless, prompt=prompt, actions=("left", "right", "wait"), max_turns=3)
    for wander in (False, True):
        texts = list(task_texts(task, episodes=2, wander=wander))
        prompts = [text for text in texts if text.startswith("You did")]
        assert [text.count(" for 0") for text in prompts] == [0, 1, 2] * 2
    # What was done is what the environment was given: where one wanders it stands behind the reply, as a text of its own.
    first = texts.index("You did: nothing yet.", 1)
    assert texts[first + 3] == f"You did: {texts[first + 2]} for 0."


def test_a_task_that_writes_no_reply_gives_its_prompts_and_random_actions():
    texts = list(task_texts(outside_task(parse=lambda text, info: None), episodes=2, wander=False))
    assert set(texts[1::2]) == {"left", "right", "wait"}


def test_every_other_episode_wanders_where_no_expert_goes():
    task = load_task("numberline", ["image=tiny", "horizon=40"])
    straight, wandering = (list(task_texts(task, episodes=8, wander=wander)) for wander in (False, True))
    assert len(wandering) > len(straight)
    assert {"+", "-"} <= set(wandering) and not {"+", "-"} & set(straight)


def test_a_task_with_an_expert_gives_its_replies():
    task = load_task("numberline", ["image=tiny"])
    texts = list(task_texts(task, episodes=1))
    _, info = task.make().reset(seed=0)
    assert texts[:2] == [prompt_text(task, info), task.expert_reply(info)]
    # From the start to the target in a straight line, a prompt and a reply at each step.
    truth = task.truth(info)
    assert len(texts) == 2 * abs(truth["target number"] - truth["current number"])


def test_an_expert_whose_reply_cannot_be_read_is_named_with_it():
    task = outside_task(expert=lambda info: "go left", parse=lambda text, info: None)
    with pytest.raises(GtrTurboError, match="endless cannot read its own expert's reply 'go left'"):
        list(task_texts(task))


def test_the_default_corpus_is_that_of_the_four_games_whatever_other_tasks_there_are(monkeypatch):
    played = []
    monkeypatch.setattr("gtrturbo.tasks.texts.task_texts", lambda task, wander: played.append(task.name) or [])
    assert list(corpus()) == [] and tuple(played) == CORPUS_GAMES
    assert set(CORPUS_GAMES) <= set(TASKS)
