"""Play episodes: environments side by side, one batch of replies per round, a finished slot filled at once.

An episode depends on the run's seed and on its own index: its deal, the numbers that choose its tokens and its random
actions all follow from these two. So it is the same whatever is played beside it.
"""

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.config.choices import InvalidReply
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.ids import seed_for
from gtrturbo.store.records import Message, Turn, said
from gtrturbo.tasks.chance import turn_limit
from gtrturbo.tasks.deals import episode_seed
from gtrturbo.tasks.environment import PlayedEnv, close_after_failure, copied
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Past, View

GAME_REWARD = "environment"


@dataclass(frozen=True)
class State:
    """What an agent is given: chat messages and the pictures of their image parts, in which episode and turn.

    images: each [H, W, 3] uint8. info: what is known of the state, for scripts alone; no model sees it.
    """

    episode: int
    turn: int
    messages: list[Message]
    images: list[np.ndarray]
    info: dict[str, Any]


@dataclass(eq=False)
class Stretch:
    """Answers of one server from one proof of what it serves to the next: how many, and whether that held."""

    answers: int = 0
    believed: bool = False


@dataclass(frozen=True)
class Response:
    """A reply: its text and, where a policy sampled it, its tokens (prompt_ids, response_ids, offsets, logprobs).

    `agent` names who answered where that is not the rollout's checkpoint itself: the model or adapter of a server. `ended` is
    False where a server does not say that the model ended its reply. `stretch` is what a server that is proved answered with it.
    """

    text: str
    prompt_ids: np.ndarray | None = None
    response_ids: np.ndarray | None = None
    offsets: list[tuple[int, int]] = field(default_factory=list)
    logprobs: np.ndarray | None = None
    agent: str | None = None
    ended: bool = True
    stretch: Stretch | None = None

    @property
    def believed(self) -> bool:
        """Whether it is proved, or need not be, who gave it."""
        return self.stretch is None or self.stretch.believed

    @property
    def has_tokens(self) -> bool:
        return self.response_ids is not None and self.logprobs is not None


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
    agent: Agent,
    task: Task,
    *,
    seed: int,
    episodes: Sequence[int],
    num_envs: int,
    on_invalid_reply: InvalidReply,
    deals: Sequence[int] | None = None,
    group_size: int = 1,
) -> Generator[list[Played], None, None]:
    """Play whole episodes and yield each when it ends, in the order of ending.

    Each environment is closed after its last episode, and all of them where anything fails or the generator is closed.

    Args:
        agent: gives a reply to at least one state; called with the states of all running episodes at once.
        task: what is played.
        seed: the run's; with the index of an episode it decides everything random in it.
        episodes: indices to play.
        num_envs: episodes side by side.
        on_invalid_reply: what a reply that does not parse does.
        deals: what the environment is seeded with, by index of an episode; it follows from `seed` if not given.
        group_size: so many episodes in a row, counted from index 0, share their deal: how the environment is reset, and not what
            it draws from `np_random` after that.
    """
    waiting, slots = iter(episodes), list[Slot]()
    try:
        for index in itertools.islice(waiting, num_envs):
            slots.append(Slot.open(task, seed, index, deals, group_size))
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
    except BaseException:
        for slot in slots:
            close_after_failure(slot.env)
        raise


class Slot:
    """One environment and the episode that is played in it: `state` is what is asked about, `play` goes on with a reply."""

    def __init__(self, env: PlayedEnv, task: Task, seed: int, deals: Sequence[int] | None, group_size: int) -> None:
        self.env = env
        self.task = task
        self.seed = seed
        self.deals = deals
        self.group_size = group_size
        self.limit = turn_limit(task, env)

    @classmethod
    def open(cls, task: Task, seed: int, index: int, deals: Sequence[int] | None = None, group_size: int = 1) -> "Slot":
        env = task.open()
        try:
            slot = cls(env, task, seed, deals, group_size)
            slot.restart(index)
        except BaseException:
            close_after_failure(env)
            raise
        return slot

    def restart(self, index: int) -> None:
        self.index = index
        group = index // self.group_size
        self.group = group if self.group_size > 1 else None
        self.env_seed = episode_seed(seed_for(self.seed, "episode", group)) if self.deals is None else self.deals[index]
        self.random = np.random.default_rng(seed_for(self.seed, "random action", index))
        self.played: list[Played] = []
        self.history: list[Past] = []
        self.done = False
        self.state = self._state(*self.env.reset(seed=self.env_seed))
        self.task.require_told(self.known)
        if self.group is not None:
            self._draw_on(seed_for(self.seed, "chance", index))

    def _draw_on(self, seed: int) -> None:
        """Let the environment draw other numbers from here on than the others of its group."""
        try:
            self.env.unwrapped.np_random = np.random.default_rng(seed)
        except AttributeError:
            raise GtrTurboError(
                f"np_random of {self.task.name} cannot be set, by which the episodes of a group differ after their deal.",
                "leave out --group-size, or let it be set as gymnasium.Env does.",
            ) from None

    def _state(self, observation: Any, info: dict[str, Any]) -> State:
        self.observation, self.known = observation, self.task.know(self.env, observation, info)
        return self._asked()

    def _asked(self) -> State:
        """Ask about the environment as it stands, after the turns so far."""
        view = View(copied(self.observation), self.told(), tuple(self.history), self.env.render)
        prompt = self.task.ask(view)
        return State(self.index, len(self.history), prompt.messages, prompt.images, self.told())

    def told(self) -> dict[str, Any]:
        """Copy what is known of the state: who is given it may change it, and what is recorded stays."""
        return copied(self.known)

    @property
    def total(self) -> float:
        """The episode's return so far, not discounted."""
        return undiscounted(past.reward for past in self.history)

    def play(self, response: Response, on_invalid_reply: InvalidReply) -> None:
        before, known = self.state, self.known
        reply = self.task.read(response.text, self.told())
        executed = reply.action if reply else self._fallback(on_invalid_reply)
        reward, by_rules, truncated = self._step(response.text, executed)
        terminated = by_rules or (executed is None and on_invalid_reply == "end")
        truncated = not terminated and (truncated or len(self.history) >= self.limit)
        self.done = terminated or truncated
        turn = Turn(
            episode=self.index,
            turn=before.turn,
            seed=self.env_seed,
            messages=[*before.messages, said(response.text)],
            images=[],
            action=reply.action if reply else None,
            executed=executed,
            legal=reply is not None,
            perception_correct=self.task.perception_correct(reply, copied(known)) if reply else None,
            reward=reward,
            reward_terms={GAME_REWARD: reward},
            terminated=terminated,
            truncated=truncated,
            won=self.task.is_won(self.told(), self.total, by_rules=by_rules),
            info=known,
            agent=response.agent,
            group=self.group,
        )
        self.played.append(Played(before, response, reply, turn, self.state if truncated else None))

    def _fallback(self, on_invalid_reply: InvalidReply) -> str | None:
        allowed = self.task.allowed(self.told())
        return allowed[self.random.integers(len(allowed))] if on_invalid_reply == "random" and allowed else None

    def _step(self, text: str, executed: str | None) -> tuple[float, bool, bool]:
        """Execute an action and go to the state after it; return the reward, and whether the environment ended or cut it."""
        asked, before = self.state, self.told()
        reward, terminated, truncated = 0.0, False, False
        if executed is not None:
            given = self.task.given(executed, self.told())
            self.observation, reward, terminated, truncated, info = self.env.step(given)
            self.known = self.task.know(self.env, self.observation, info)
        self.history.append(Past(before, text, executed, reward, asked.images))
        self.state = self._asked()
        return reward, terminated, truncated
