"""Play episodes: environments side by side, one batch of replies per round, a finished slot filled at once.

An episode depends on the run's seed and on its own index: its deal, the numbers that choose its tokens and its random
actions all follow from these two. So it is the same whatever is played beside it.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from gtrturbo.store.artifacts import seed_for
from gtrturbo.store.records import Turn, chat
from gtrturbo.tasks.task import Reply, Task

OnInvalidReply = Literal["random", "noop", "end"]
GAME_REWARD = "environment"


@dataclass(frozen=True)
class State:
    """What a policy is given: prompt and picture [H, W, 3] uint8, in which episode and turn."""

    episode: int
    turn: int
    prompt: str
    picture: np.ndarray
    info: dict[str, Any]


@dataclass(frozen=True)
class Response:
    """A reply: its text and, where a policy sampled it, its tokens (prompt_ids, response_ids, offsets, logprobs).

    `agent` names who answered where that is not the rollout's checkpoint itself: the model or adapter of a server.
    """

    text: str
    prompt_ids: np.ndarray | None = None
    response_ids: np.ndarray | None = None
    offsets: list[tuple[int, int]] = field(default_factory=list)
    logprobs: np.ndarray | None = None
    agent: str | None = None


@dataclass(frozen=True)
class Played:
    """One turn as it was played. `after` is the state that followed a truncated turn."""

    state: State
    response: Response
    reply: Reply | None
    turn: Turn
    after: State | None


# A reply per state; None where it is still being made, and then the same state is asked about again.
Agent = Callable[[Sequence[State]], Sequence[Response | None]]


def play_episodes(
    agent: Agent, task: Task, *, seed: int, episodes: Sequence[int], num_envs: int, on_invalid_reply: OnInvalidReply
) -> Iterator[list[Played]]:
    """Play whole episodes and yield each when it ends, in the order of ending.

    Args:
        agent: gives a reply to at least one state; called with the states of all running episodes at once.
        task: what is played.
        seed: the run's; with the index of an episode it decides everything random in it.
        episodes: indices to play.
        num_envs: episodes side by side.
        on_invalid_reply: what a reply that does not parse does.
    """
    waiting = iter(episodes)
    slots = [_Slot.open(task, seed, index) for index in itertools.islice(waiting, num_envs)]
    while slots:
        replies = agent([slot.state for slot in slots])
        for slot, response in zip(slots, replies, strict=True):
            if response is not None:
                slot.play(response, on_invalid_reply)
        for slot in [slot for slot in slots if slot.done]:
            yield slot.played
            index = next(waiting, None)
            if index is None:
                slots.remove(slot)
                slot.env.close()
            else:
                slot.restart(index)


class _Slot:
    """One environment and the episode that is being played in it."""

    def __init__(self, env: gym.Env, task: Task, seed: int) -> None:
        self.env = env
        self.task = task
        self.seed = seed

    @classmethod
    def open(cls, task: Task, seed: int, index: int) -> "_Slot":
        slot = cls(task.make(), task, seed)
        slot.restart(index)
        return slot

    def restart(self, index: int) -> None:
        self.index = index
        self.env_seed = seed_for(self.seed, "episode", index) % 2**32
        self.random = np.random.default_rng(seed_for(self.seed, "random action", index))
        self.played: list[Played] = []
        self.done = False
        picture, info = self.env.reset(seed=self.env_seed)
        self.state = self._state(picture, info, turn=0)

    def _state(self, picture: np.ndarray, info: dict[str, Any], *, turn: int) -> State:
        return State(episode=self.index, turn=turn, prompt=self.task.prompt(info), picture=picture, info=info)

    def play(self, response: Response, on_invalid_reply: OnInvalidReply) -> None:
        reply = self.task.parse(response.text)
        executed = reply.action if reply else self._fallback(on_invalid_reply)
        after, reward, terminated, truncated = self._step(executed, ended=reply is None and on_invalid_reply == "end")
        self.done = terminated or truncated
        turn = Turn(
            episode=self.index,
            turn=self.state.turn,
            seed=self.env_seed,
            messages=chat(self.state.prompt, response.text),
            images=[],
            action=reply.action if reply else None,
            executed=executed,
            legal=reply is not None,
            perception_correct=self.task.perception_correct(reply, self.state.info) if reply else None,
            reward=reward,
            reward_terms={GAME_REWARD: reward},
            terminated=terminated,
            truncated=truncated,
            won=self.task.won(after.info),
            info=self.state.info,
            agent=response.agent,
        )
        self.played.append(Played(self.state, response, reply, turn, after if truncated else None))
        self.state = after

    def _fallback(self, on_invalid_reply: OnInvalidReply) -> str | None:
        return self.task.actions[self.random.integers(len(self.task.actions))] if on_invalid_reply == "random" else None

    def _step(self, executed: str | None, *, ended: bool) -> tuple[State, float, bool, bool]:
        count = self.state.turn + 1
        if executed is None:
            after = self._state(self.state.picture, self.state.info, turn=count)
            return after, 0.0, ended, not ended and count >= self.task.max_turns
        picture, reward, terminated, truncated, info = self.env.step(self.task.actions.index(executed))
        cut = not terminated and (truncated or count >= self.task.max_turns)
        return self._state(picture, info, turn=count), float(reward), terminated, cut
