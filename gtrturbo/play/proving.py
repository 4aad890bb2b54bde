"""Prove of each server, before it is believed, when it was away, now and then and at the end, that it serves the checkpoint.

See probe.py for how. What a server answers is believed once the proof after it holds.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock

from gtrturbo.algorithms.repeats import repeats_in
from gtrturbo.distributed.escapes import complain
from gtrturbo.errors import GtrTurboError, UnprovedError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.play.asked_states import ShownState, Told, identity_of, is_same, logprob_of
from gtrturbo.play.draws import require_anew
from gtrturbo.play.episodes import Response, Stretch
from gtrturbo.play.failures import AwayError, EndedError, RefusedError
from gtrturbo.play.greedy_probe import GreedyReply, require_greedy, require_likeliest
from gtrturbo.play.probe import REPLY_TOKENS, STATES, TEMPERATURE, Proof, Replied, prove, together
from gtrturbo.play.recorded_probe import AT_A_LOOK
from gtrturbo.play.served_folder import require_own_folder
from gtrturbo.play.server import Server
from gtrturbo.play.stretches import Stretches
from gtrturbo.store.ids import seed_for


@dataclass(frozen=True)
class Probing:
    """How it is proved what a server serves: where and in which type the checkpoint is loaded for that, whether the log-probs are
    to be those of the distribution that is sampled from, as training needs them, and the turns of its that are compared with
    instead, so that it is not loaded; None where it is."""

    device: str
    dtype: str
    exact: bool
    turns: Path | None = None


# Answers of a server after which one question of its proof is asked again: a share of 2 %.
EVERY = 50
# How often a state is asked about at most, by other seeds, while the reply is the same.
ASKED_ANEW = 8


class Prover:
    """What was proved of which server.

    Args:
        path: the checkpoint.
        probing: see there.
        ask: has a server reply to messages and pictures at a temperature.
        speaker: names a server as turns do where it spoke; None where there is no other.
        by_turns: proves it of a server by recorded turns, in place of all that.
    """

    def __init__(
        self,
        path: Path,
        probing: Probing,
        ask: Callable[..., Response],
        speaker: Callable[[Server], str | None],
        by_turns: Callable[..., Proof] | None = None,
    ) -> None:
        self._path = path
        self._probing = probing
        self._ask = ask
        self._speaker = speaker
        self._by_turns = by_turns
        self._question: Callable[[Server], list[Told]] = lambda _: []  # What is asked about, the same every time.
        self._sampled = self._question  # At the model's own temperature alone.
        self._longest = REPLY_TOKENS
        self._temperature: float | None = None
        self._told: dict[Server, list[Told]] = {}
        self._proofs: dict[Server, Proof] = {}
        self._proved_at: dict[Server, int] = {}
        self._proving = Lock()
        self._stretches = Stretches()
        self._every: dict[Server, int] = {}
        self._roots: dict[Server, list[str | None]] = {}
        self._looks, self._greedy = itertools.count(), itertools.count()

    def hear(self, server: Server) -> Stretch:
        """Count an answer; prove anew of a server that was away what it serves, and look now and then whether it does still.

        Returns: what the answer is a part of, which is believed once it was proved again.

        Raises:
            UnprovedError: it serves something else by now.
            AwayError, RefusedError: it is away, or refuses to say, before that is known.
        """
        if self._is_new(server):
            with self._proving:
                if self._is_new(server):  # No other thread has.
                    self._prove_again(server)
        stretch = self._stretches.add(server)
        if stretch.answers >= self._spacing(server) and self._proving.acquire(blocking=False):
            try:
                if self._stretches.is_open(server, stretch):
                    self._look(server)
            finally:
                self._proving.release()
        return stretch

    def _is_new(self, server: Server) -> bool:
        """Tell whether a server may be another than the one of which it was proved."""
        return self._proved_at.get(server) != server.failures

    def _spacing(self, server: Server) -> int:
        return self._every.get(server, EVERY * (AT_A_LOOK if self._by_turns else 1))

    def _look(self, server: Server) -> None:
        """Ask one question of the proof again; where the answer is another, all of them."""
        with self._stretches.proving(server):
            if not self._is_unchanged(server, next(self._looks)):
                self._prove_again(server)
                # It only computes otherwise each time: to find that out is not for every look.
                self._every[server] = 2 * self._spacing(server)

    def _is_unchanged(self, server: Server, turn: int) -> bool:
        try:
            if self._roots[server] != _roots_of(server):
                return False
            if self._by_turns:
                # Whether log-probs change with the temperature is a matter of how it was started.
                self._by_turns(server, who=_who(server), temperature=None if self._temperature else 0.0, only=turn)
                return True
            one = self._told[server][turn % len(self._told[server])]
            return is_same(one.response, self._answer(server, one), self._proofs[server].limits.warns)
        except (AwayError, EndedError, RefusedError):
            raise
        except GtrTurboError:
            return False

    def has_unproved(self, server: Server) -> bool:
        """Tell whether a server gave answers of which it is not proved yet that the checkpoint gave them."""
        return self._stretches.has_unproved(server)

    def prove(
        self, servers: Iterable[Server], states: Sequence[ShownState], *, temperature: float, max_new_tokens: int, seed: int
    ) -> None:
        """Prove it of those servers of which it was not proved yet; see `ServerPolicy.prove`."""
        with self._proving:
            # What is asked for at another temperature, as a teacher's further tries are, need not be played at that.
            is_as_before = temperature == self._temperature
            new = [server for server in servers if not is_as_before or server not in self._proved_at]
            if new:
                some = list({state.prompt: state for state in states}.values())[:STATES]
                temperatures = sorted({TEMPERATURE, temperature})
                self._longest, self._temperature = min(max_new_tokens, REPLY_TOKENS), temperature
                self._question = partial(self._asked, states=some, temperatures=temperatures, seed=seed)
                self._sampled = partial(self._asked, states=some, temperatures=[TEMPERATURE], seed=seed)
                self._prove(new)

    def prove_again(self, server: Server) -> None:
        """Prove once more of a server what it serves, if it answered since.

        Raises:
            UnprovedError: it serves something else by now.
        """
        with self._proving:
            if self.has_unproved(server):
                self._prove_again(server)

    def _prove_again(self, server: Server) -> None:
        try:
            self._prove([server])
        except (AwayError, EndedError, RefusedError):
            raise
        except GtrTurboError as error:
            if server not in self._proved_at:  # It was away at the start.
                raise
            raise UnprovedError(
                f"since it was proved who answers, another took its place, and what it answered is not kept: {error.what}",
                error.fix,
                speaker=self._speaker(server),
            ) from None

    def _prove(self, servers: Sequence[Server]) -> None:
        """Load the checkpoint, for as long as it takes to score what comes back, unless that is what came the last time."""
        with ExitStack() as proving:
            for server in servers:
                proving.enter_context(self._stretches.proving(server))
            self._prove_all(servers)

    def _prove_all(self, servers: Sequence[Server]) -> None:
        before = {server: server.failures for server in servers}
        unseen = [server for server in servers if not require_own_folder(server, self._path)]
        if self._by_turns:
            how = {"temperature": self._temperature}
            proofs = {server: self._by_turns(server, who=_who(server), **how) for server in servers}
            self._proofs |= {
                server: self._anew(server, proof, self._sampled(server) if self._temperature else [])
                for server, proof in proofs.items()
            }
        else:
            told = {server: self._question(server) for server in servers}
            if changed := [server for server in servers if not self._is_as_before(server, told[server])]:
                policy = load_policy(self._path, device=self._probing.device, dtype=self._probing.dtype)
                proofs = {server: self._judge(policy, server, told[server]) for server in changed}
                self._proofs |= {server: self._anew(server, proof, told[server]) for server, proof in proofs.items()}
            self._told |= told
        for server in unseen:
            if server not in self._proved_at:
                self._tell_unseen(server)
        self._proved_at |= before
        self._roots |= {server: _roots_of(server) for server in servers}

    def _anew(self, server: Server, proof: Proof, told: Sequence[Told]) -> Proof:
        """Refuse a server that gives a reply again whatever the seed, where it is to sample.

        The least likely of the replies at the model's own temperature is asked for again, as often as it comes back.
        """
        known = [each for each in told if each.temperature == TEMPERATURE and each.response.has_tokens]
        if not self._temperature or not known:
            return proof
        first = min(known, key=lambda each: logprob_of(each.response))
        replies = [first.response]
        while len(replies) < ASKED_ANEW and identity_of(replies[-1]) == identity_of(replies[0]):
            replies.append(self._answer(server, replace(first, seed=seed_for(first.seed, "anew", len(replies)))))
        # What differs is the last, so that its own log-prob would tell nothing.
        found = repeats_in([()] * len(replies), [identity_of(each) for each in replies], [logprob_of(replies[0])] * len(replies))
        require_anew(found, f"the replies of {_who(server)}")
        return replace(proof, repeats=found)

    def _tell_unseen(self, server: Server) -> None:
        limit = self._proofs[server].limits.refuses
        complain(
            f"{server.base_url} names no folder that is seen here and was not changed since it started: a checkpoint within "
            f"{limit:g} nats per token of {self._path}, such as the one before a small update, is not told from it. "
            "See that it was started with the right one."
        )

    def _is_as_before(self, server: Server, told: list[Told]) -> bool:
        before = self._told.get(server, [])
        if len(before) != len(told):
            return False
        limit = self._proofs[server].limits.warns
        return all(is_same(one.response, other.response, limit) for one, other in zip(before, told, strict=True))

    def _asked(self, server: Server, states: Sequence[ShownState], temperatures: Sequence[float], *, seed: int) -> list[Told]:
        """Ask about states at temperatures; where no log-probs come back, at 0 as well."""

        def ask(at: float) -> list[Told]:
            asked = [Told(state, at, seed_for(seed, "probe", row), Response("")) for row, state in enumerate(states)]
            return [replace(each, response=self._answer(server, each)) for each in asked]

        replies = [each for at in temperatures for each in ask(at)] if server.tells_tokens else []
        return replies if any(each.response.has_tokens for each in replies) else ask(0.0)

    def _answer(self, server: Server, asked: Told) -> Response:
        # What is likeliest hangs on no seed, what is sampled in its place does: so each time with another.
        seed = asked.seed if asked.temperature else seed_for(asked.seed, "again", next(self._greedy))
        sampling = {"temperature": asked.temperature, "max_new_tokens": self._longest, "seed": seed}
        return self._ask(server, asked.state.messages, asked.state.pictures, **sampling)

    def _judge(self, policy: Policy, server: Server, replies: list[Told]) -> Proof:
        whom = {"who": _who(server), "path": self._path}
        tokens = [
            Replied(each.state.prompt, each.response.response_ids, each.temperature, each.response.logprobs)
            for each in replies
            if each.response.response_ids is not None and each.response.logprobs is not None
        ]
        greedy, sampled = ([each for each in tokens if (each.temperature == 0) == zero] for zero in (True, False))
        if sampled:
            proof = prove(policy, sampled, exact=self._probing.exact, **whom)
            return replace(proof, below_best=require_greedy(policy, greedy, who=whom["who"])) if greedy else proof
        said = [GreedyReply(each.state.prompt, each.response.text, ended=each.response.ended) for each in replies]
        return require_likeliest(policy, said, max_new_tokens=self._longest, **whom)

    @property
    def tells_sampled(self) -> bool:
        """Whether it is proved that log-probs are those of the distribution that was sampled from."""
        raw = any(proof.raw for proof in self._proofs.values())
        return self._probing.exact or bool(self._proofs and not (raw and self._temperature != TEMPERATURE))

    def metrics(self) -> dict[str, float]:
        """Say what was found, of all servers together; nothing where none was asked."""
        return together(list(self._proofs.values())).metrics() if self._proofs else {}


def _who(server: Server) -> str:
    root = server.roots().get(server.model)
    return f"{server.base_url} (model {server.name}{f', started from {root}' if root else ''})"


def _roots_of(server: Server) -> list[str | None]:
    roots = server.roots()
    return [roots.get(name) for name in (server.model, server.name)]
