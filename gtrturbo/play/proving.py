"""Prove of each server, before it is believed and again when it was away, that it serves the checkpoint; see probe.py."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np

from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.play.episodes import Response
from gtrturbo.play.probe import REPLY_TOKENS, STATES, TEMPERATURE, Proof, Replied, prove, require_likeliest
from gtrturbo.play.server import Server
from gtrturbo.store.ids import seed_for
from gtrturbo.store.records import Message


@dataclass(frozen=True)
class Probing:
    """How it is proved what a server serves: where and in which type the checkpoint is loaded for that, whether the log-probs are
    to be those of the distribution that is sampled from, as training needs them, and the turns of its that are compared with
    instead, so that it is not loaded; None where it is."""

    device: str
    dtype: str
    exact: bool
    turns: Path | None = None


@dataclass(frozen=True)
class ShownState:
    """A state that is asked about: its prompt as it is rendered here, messages, and pictures, each [H, W, 3] uint8."""

    prompt: Prompt
    messages: Sequence[Message]
    pictures: Sequence[np.ndarray]


Told = list[tuple[Prompt, float, Response]]  # What was asked about, at which temperature, and what came back.


class Prover:
    """What was proved of which server.

    Args:
        path: the checkpoint.
        probing: see there.
        ask: has a server reply to messages and pictures at a temperature.
        by_turns: proves it of a server by recorded turns, in place of all that.
    """

    def __init__(
        self, path: Path, probing: Probing, ask: Callable[..., Response], by_turns: Callable[..., Proof] | None = None
    ) -> None:
        self._path = path
        self._probing = probing
        self._ask = ask
        self._by_turns = by_turns
        self._proofs: dict[Server, Proof] = {}
        self._proved_at: dict[Server, int] = {}
        self._proving = Lock()

    def is_new(self, server: Server) -> bool:
        """Tell whether a server may be another than the one of which it was proved."""
        return self._proved_at.get(server) != server.starts

    def prove(self, servers: Iterable[Server], states: Sequence[ShownState], *, temperature: float, **sampling: int) -> None:
        """Prove it of those servers of which it was not proved yet; see `ServerPolicy.prove`."""
        self._prove([each for each in servers if each not in self._proved_at], states, temperature=temperature, **sampling)

    def prove_anew(self, server: Server, states: Sequence[ShownState], *, temperature: float, **sampling: int) -> None:
        """Prove it of a server that was away."""
        self._prove([server], states, temperature=temperature, **sampling)

    def _prove(self, servers: Sequence[Server], states: Sequence[ShownState], *, temperature: float, **sampling: int) -> None:
        """Load the checkpoint, for as long as it takes to score what comes back at which temperatures."""
        with self._proving:
            waiting = {server: server.starts for server in servers if self.is_new(server)}
            if self._by_turns:
                for server, starts in waiting.items():
                    self._proofs[server] = self._by_turns(server, who=_who(server))
                    self._proved_at[server] = starts
                return
            if not waiting:
                return
            some = list({state.prompt: state for state in states}.values())[:STATES]
            temperatures = sorted({TEMPERATURE, temperature} if self._probing.exact else {TEMPERATURE})
            told = {server: self._told(server, some, temperatures, **sampling) for server in waiting}
            policy = load_policy(self._path, device=self._probing.device, dtype=self._probing.dtype)
            for server, replies in told.items():
                self._proofs[server] = self._judge(policy, server, replies)
                self._proved_at[server] = waiting[server]

    def _told(
        self, server: Server, states: Sequence[ShownState], temperatures: Sequence[float], *, max_new_tokens: int, seed: int
    ) -> Told:
        """Ask about states at temperatures; where no log-probs come back, at 0 as well."""

        def ask(at: float) -> Told:
            return [
                (
                    state.prompt,
                    at,
                    self._ask(
                        server,
                        state.messages,
                        state.pictures,
                        temperature=at,
                        max_new_tokens=min(max_new_tokens, REPLY_TOKENS),
                        seed=seed_for(seed, "probe", row),
                    ),
                )
                for row, state in enumerate(states)
            ]

        replies = [each for at in temperatures for each in ask(at)] if server.tells_tokens else []
        return replies if any(given.has_tokens for _, _, given in replies) else ask(0.0)

    def _judge(self, policy: Policy, server: Server, replies: Told) -> Proof:
        whom = {"who": _who(server), "path": self._path}
        tokens = [
            Replied(prompt, given.response_ids, at, given.logprobs)
            for prompt, at, given in replies
            if given.response_ids is not None and given.logprobs is not None
        ]
        if tokens:
            return prove(policy, tokens, exact=self._probing.exact, **whom)
        return require_likeliest(policy, [(prompt, given.text) for prompt, _, given in replies], **whom)

    def metrics(self) -> dict[str, float]:
        """Say what was found, of all servers together; nothing where none was asked."""
        proofs = list(self._proofs.values())
        if not proofs:
            return {}
        return replace(proofs[0], gaps=np.concatenate([proof.gaps for proof in proofs])).metrics()


def _who(server: Server) -> str:
    root = server.root()
    return f"{server.base_url} (model {server.name}{f', started from {root}' if root else ''})"
