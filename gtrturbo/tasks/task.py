"""What a task is for everything else: an environment, a prompt for each of its states, a way to read replies, and more.

A task is a value: built in, or made in a file of the user's own (docs/your-own-task.md). The loop over environments, the
warm start, the teachers, the evaluation and the chance levels know a task by this record alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.environment import PlayedEnv, copied, require_counted, telling
from gtrturbo.tasks.fields import check_actions, check_panel, check_reads, check_tables, plain_json
from gtrturbo.tasks.prompts import asked
from gtrturbo.tasks.reply import Reply, read_reply, same
from gtrturbo.tasks.view import ChatPrompt, Ending, Info, View, described, who_won, won_by_info

# A reply's thoughts and action, or the whole reply where the task has a parser of its own.
Advice = tuple[str, str] | str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        name: what errors and tables call it.
        make: makes its environment.
        prompt: puts a state into words and pictures.
        actions: the texts that a reply may choose, in the order of the environment's action numbers; or a function of what is
            known of a state, where they change with it.
        accepts: whether a text that is not among `actions` is an action of a state too, where there are more than can be listed:
            `actions` are then those that play by chance chooses from, and `act` must be given.
        act: turns an action's text into what the environment is given; its place among `actions` if not given.
        parse: reads a reply, with the places of thought and action; None where it cannot. If not given, a reply is one JSON
            object with `reads`, `thoughts` and, last, `action`; see `read_reply`.
        known: what is known of a state besides its picture, from environment, observation and info, as JSON: the truth and
            the expert are computed from it, it is recorded with each turn, and no model sees it. The info if not given. What the
            info says under `won`, `is_success` or `success` is known, too. Asked for the state after the last turn as well.
        reads: names of what is read off the picture.
        truth: their true values. Without it nothing is said of perception.
        expert: true thoughts and a good action, or the whole reply where the task has its own parser. Without it a warm start
            learns from the random expert alone, or from elsewhere.
        random_expert: thoughts and an action of one who reads truly and acts at random. If not given, and the task has no parser
            of its own, it tries any action that is allowed.
        won: whether an episode was won; see `won_by_info`.
        kind: of which kind an episode is, by what is known of its state, where success is to be told for each kind apart.
        max_turns: turns after which no episode goes on, or the environment's own limit where that is less or nothing is given.
        panels: fixed lists of episodes by name, each the seeds that the environment is reset with: `eval --panel NAME`.
        blind: makes an environment of the same rules that draws nothing, for play without a model.
        chance_turns: turns that play without a model takes at most, over all policies, but at least 20 episodes of each.
        options: what the task was made with; of a function that makes it, the values of its keywords, if not given.
    """

    name: str
    make: Callable[[], gym.Env]
    prompt: Callable[[View], ChatPrompt]
    actions: Sequence[str] | Callable[[Info], Sequence[str]]
    accepts: Callable[[str, Info], bool] | None = None
    act: Callable[[str, Info], Any] | None = None
    parse: Callable[[str, Info], Reply | None] | None = None
    known: Callable[[gym.Env, Any, dict[str, Any]], Info] | None = None
    reads: Sequence[str] = ()
    truth: Callable[[Info], dict[str, Any]] | None = None
    expert: Callable[[Info], Advice] | None = None
    random_expert: Callable[[Info, np.random.Generator], Advice] | None = None
    won: Callable[[Ending], bool] = won_by_info
    kind: Callable[[Info], str] | None = None
    max_turns: int | None = None
    panels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    blind: Callable[[], gym.Env] | None = None
    chance_turns: int = 400_000
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be played.

        Raises: GtrTurboError: names the field.
        """
        if not callable(self.actions):
            check_actions(self.name, self.actions)
        check_reads(self.name, self.reads, own_parser=self.parse is not None)
        if self.max_turns is not None and (not isinstance(self.max_turns, int) or self.max_turns < 0):
            raise GtrTurboError(f"max_turns of {self.name} is {self.max_turns!r}.", "give a whole number, or None.")
        check_tables(self.name, panels=self.panels, options=self.options)
        for name, seeds in self.panels.items():
            check_panel(self.name, name, seeds)
        if self.accepts and self.act is None:
            raise GtrTurboError(
                f"{self.name} accepts actions that are not listed, and does not say what its environment is given for them.",
                "give it act, too.",
            )
        if self.reads and self.truth is None:
            raise GtrTurboError(
                f"{self.name} reads {', '.join(self.reads)}, whose true values are not known.",
                "give it a truth, or leave out reads.",
            )

    def open(self) -> PlayedEnv:
        """Make the environment as it is played.

        Raises: GtrTurboError: it cannot be made, or is none.
        """
        return self._opened(self.make)

    def open_blind(self) -> PlayedEnv:
        """Make the environment for play without a model: one that draws nothing, where there is one; see `open`."""
        return self._opened(self.blind or self.make)

    def _opened(self, make: Callable[[], gym.Env]) -> PlayedEnv:
        with telling(self.name, "cannot be made"):
            env = make()
        if not isinstance(env, gym.Env):
            raise GtrTurboError(f"make of {self.name} returns {described(env)}.", "return a gymnasium.Env.")
        if self.act is None:
            require_counted(env, self.name)
        return PlayedEnv(env, self.name)

    def allowed(self, info: Info) -> tuple[str, ...]:
        """List the actions that a reply may choose in a state.

        Raises: GtrTurboError: there are none, or they are no texts.
        """
        if not callable(self.actions):
            return tuple(self.actions)
        actions = self.actions(info)
        check_actions(self.name, actions)
        return tuple(actions)

    def ask(self, view: View) -> ChatPrompt:
        """Put a state into words and pictures, which are the caller's own.

        Raises: GtrTurboError: the task's prompt returns something else, or what no turn can hold; see `asked`.
        """
        return asked(self.prompt(view), self.name)

    def panel(self, name: str) -> Sequence[int]:
        """Return a fixed panel of episodes: what the environment is seeded with in each.

        Raises: GtrTurboError: there is no such panel, or none of its episodes.
        """
        if len(self.panels.get(name, ())) == 0:
            raise GtrTurboError(f"{self.name} has no panel {name!r}.", f"its panels are: {', '.join(self.panels) or 'none'}.")
        return [int(seed) for seed in self.panels[name]]

    def is_action(self, text: str, info: Info) -> bool:
        """Say whether a text is an action that a state allows."""
        return text in self.allowed(info) or (self.accepts is not None and bool(self.accepts(text, info)))

    def given(self, action: str, info: Info) -> Any:
        """Return what the environment is given for an action's text."""
        return self.act(action, info) if self.act else self.allowed(info).index(action)

    def know(self, env: gym.Env, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        """Return what is known of a state, as plain JSON, and what its info says of who won.

        Raises: GtrTurboError: it is no dict, or something in it is no JSON; names it.
        """
        inner = env.env if isinstance(env, PlayedEnv) else env  # As the task made it: it may have attributes of its own.
        found = self.known(inner, observation, info) if self.known else info
        if not isinstance(found, Mapping):
            raise GtrTurboError(f"what is known of a state of {self.name} is {described(found)}.", "let known return a dict.")
        plain = {str(name): plain_json(value, str(name), "what is known of a state") for name, value in found.items()}
        return plain | who_won(info, plain)

    def read(self, text: str, info: Info) -> Reply | None:
        """Read a reply; None where it chooses no action that is allowed.

        Raises: GtrTurboError: the task's own parser gives a place that is not in the text.
        """
        if self.parse is None:
            reply = read_reply(text, required=(*self.reads, "thoughts", "action"))
            return reply if reply and self.is_action(reply.action, info) else None
        reply = self.parse(text, info)
        if reply is not None and not isinstance(reply, Reply):
            raise GtrTurboError(
                f"the parser of {self.name} returns {described(reply)}, not a Reply.", "return gtrturbo.tasks.Reply, or None."
            )
        if reply is None or not self.is_action(reply.action, info):
            return None
        start, end = reply.action_span
        first, last = reply.thought_span or (0, 0)
        apart = last <= start or end <= first
        if not (0 <= reply.action_start <= start <= end <= len(text) and 0 <= first <= last <= len(text) and apart):
            raise GtrTurboError(
                f"the parser of {self.name} places the action of {text!r} at {reply.action_start}, {start} to {end}, "
                f"and its thought at {first} to {last}: not apart, or not inside its {len(text)} characters.",
                "see: gtrturbo check-task",
            )
        return reply

    def is_won(self, info: Info, total: float, *, by_rules: bool) -> bool:
        """Say whether an episode was won, by what is known at its end, its return, and whether its environment's rules ended it.

        Raises: GtrTurboError: the task, or the info, says neither true nor false.
        """
        won = self.won(Ending(info, total, by_rules, self.name))
        if not isinstance(won, bool | np.bool_):
            raise GtrTurboError(f"whether {self.name} is won is said by {won!r}.", "let `won` return True or False.")
        return bool(won)

    def perception_correct(self, reply: Reply, info: Info) -> bool | None:
        """Say whether every field that is read off the picture has its true value; None where no truth is known.

        Numbers may stand as text and text as numbers; case and spaces do not matter; a ten is `10` or `T`. True, false and null
        stand as they are, and so do the parts of lists and dicts; see `same`.

        Raises: GtrTurboError: the truth is no JSON.
        """
        if self.truth is None:
            return None
        return all(name in reply.fields and same(reply.fields[name], value) for name, value in self.true_values(info).items())

    def true_values(self, info: Info) -> dict[str, Any]:
        """Return the true values of what is read off the picture, as plain JSON; none where no truth is known.

        Raises: GtrTurboError: something in it is no JSON, or missing; names it.
        """
        true = self.truth(copied(info)) if self.truth else {}
        if not isinstance(true, Mapping):
            raise GtrTurboError(f"the truth of {self.name} is {described(true)}.", "return a dict of values by name.")
        missing = [name for name in self.reads if self.truth and name not in true]
        if missing:
            raise GtrTurboError(
                f"the truth of {self.name} gives no {missing[0]!r}, which a reply has to read: what is said of it would count as "
                "true.",
                "let truth give every name in reads, whatever the state.",
            )
        return {str(name): plain_json(value, str(name), f"the truth of {self.name}") for name, value in true.items()}

    def kind_of(self, info: Info) -> str:
        """Say of which kind an episode is; see `kind`.

        Raises: GtrTurboError: that is no text.
        """
        kind = self.kind(copied(info)) if self.kind else ""
        if self.kind and not (isinstance(kind, str) and kind):
            raise GtrTurboError(f"the kind of an episode of {self.name} is {kind!r}.", "let kind return a text for each state.")
        return kind

    def require_told(self, info: Info) -> None:
        """Refuse, in the first state of an episode, a kind that is none and true values that no reply gives.

        Raises: GtrTurboError: names it.
        """
        self.kind_of(info)
        odd = [name for name in self.true_values(info) if self.parse is None and name not in self.reads]
        if odd:
            raise GtrTurboError(
                f"the truth of {self.name} gives {odd[0]!r}, which no reply has to read: one without it would count as misread.",
                "name it in reads, or leave it out of truth.",
            )

    def expert_reply(self, info: Info) -> str:
        """Return a whole reply with true fields, true thoughts and a good action.

        Raises: GtrTurboError: the task has no expert.
        """
        if self.expert is None:
            raise GtrTurboError(
                f"{self.name} has no expert.",
                "give the task one, let chance play (--random-expert-share 1), or start from what plays already (run --start)."
                if self.writes_random_replies
                else "give it an expert, or a random_expert, or start from what plays already (run --start).",
            )
        return self._reply(info, self.expert(copied(info)))

    @property
    def writes_random_replies(self) -> bool:
        """Whether there is a random expert: the task's own, or the one that every task without a parser of its own has."""
        return self.random_expert is not None or self.parse is None

    def random_expert_reply(self, info: Info, rng: np.random.Generator) -> str:
        """Return a reply of an expert who reads truly and keeps to the rules, but does not know what wins: the action is drawn.

        The turns before must be a random expert's too.
        """
        if self.random_expert:
            return self._reply(info, self.random_expert(copied(info), rng))
        if self.parse:
            raise GtrTurboError(f"{self.name} has no random expert.", "give the task one.")
        allowed = self.allowed(info)
        action = allowed[rng.integers(len(allowed))]
        return self._reply(info, (f"try {action}", action))

    def _reply(self, info: Info, advice: Advice) -> str:
        if isinstance(advice, str):
            return advice
        if not isinstance(advice, tuple) or len(advice) != 2 or not all(isinstance(each, str) for each in advice):
            raise GtrTurboError(
                f"the expert of {self.name} says {advice!r}.",
                "let it return its thoughts and its action, two texts, or a whole reply.",
            )
        thoughts, action = advice
        return json.dumps({**self.true_values(info), "thoughts": thoughts, "action": action}, ensure_ascii=False)
