"""A policy on inference servers: what comes back is checked against our own rendering, and proved to be the checkpoint's."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.config.choices import AUTO, VLLM
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_architecture, load_generation, quiet
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.context import positions_of, require_context
from gtrturbo.models.end_of_turn import end_ids
from gtrturbo.models.families import forbidden_ids, read_family
from gtrturbo.models.first_turn import require_prompts
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Renderer
from gtrturbo.play.asked_states import ShownState
from gtrturbo.play.completions import Answer
from gtrturbo.play.episodes import Response
from gtrturbo.play.failures import AwayError, RefusedError
from gtrturbo.play.limits import limits_of
from gtrturbo.play.probe import Proof
from gtrturbo.play.proving import Probing, Prover
from gtrturbo.play.recorded_probe import AT_A_LOOK, prove_recorded, read_recorded
from gtrturbo.play.server import Server
from gtrturbo.play.servers import Servers
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.records import Message

NAME_DIGITS = 12
CONTEXT = ("maximum context length", "max_model_len")  # What vLLM says where a prompt or a reply is too long for it.


class ServerPolicy:
    """A checkpoint as a server plays it: what only a server needs of it is loaded here, which is no weights.

    Args:
        servers: where it is served; an adapter is loaded on each under a name made of its artifact's id.
        path: the checkpoint.
        max_concurrency: requests at once.
        probing: how it is proved that the server serves this checkpoint; None where that is not asked for.

    Raises:
        GtrTurboError: a server does not take the adapter.
    """

    def __init__(self, servers: Servers, path: Path, *, max_concurrency: int, probing: Probing | None = None) -> None:
        quiet()
        self.path = path
        config = load_architecture(path)
        self.servers = servers
        self._config = config
        family = read_family(path, config.model_type)
        with reading_model(path):
            self.renderer = Renderer(load_processor(path, family=family, local_files_only=True), family)
        for server in servers:
            server.tokenizer_begins = self.renderer.tokenizer_begins()
        self.end_ids = end_ids(self.renderer.end_id, self.renderer.processor.tokenizer, load_generation(path))
        self.renderer.end_at(self.end_ids)
        if not (path / MANIFEST).is_file():
            require_prompts(self.renderer, str(path))
        self.forbidden = sorted(forbidden_ids(config, family))
        self.image_id = getattr(config, family.repeated_id, None)
        self.max_concurrency = max_concurrency
        self._prover = self._prover_of(probing) if probing else None
        self._meet_servers()

    def _prover_of(self, probing: Probing) -> Prover:
        if probing.turns is None:
            return Prover(self.path, probing, self._reply, self._one_of_several)
        recorded = read_recorded(probing.turns, self.path, self.renderer)
        dtype = (self._config.dtype or "float32") if probing.dtype == AUTO else probing.dtype

        def prove(server: Server, who: str, temperature: float | None, only: int | None = None) -> Proof:
            if server.kind != VLLM:
                raise GtrTurboError(f"--probe-turns asks vLLM, and {who} is of kind {server.kind}.", "leave --probe-turns out.")
            ask = partial(server.likely, forbidden=self.forbidden, end_ids=self.end_ids)
            how = {"same": self._same, "limits": limits_of(dtype), "temperature": temperature, "who": who, "path": self.path}
            if only is None:
                return prove_recorded(recorded, ask, **how)
            one = replace(recorded, replies=[recorded.replies[only % len(recorded.replies)]])
            return prove_recorded(one, ask, **how, places=AT_A_LOOK, least=1, seed=only)

        return Prover(self.path, probing, self._reply, self._one_of_several, prove)

    def _one_of_several(self, server: Server) -> str | None:
        return self.servers.speaker(server) if self.servers.are_several else None

    def _meet_servers(self) -> None:
        """See which model each serves; load the adapter on it."""
        if not is_adapter(self.path):
            self.servers.meet(lambda server: server.model)
            return
        name = f"gtrturbo-{artifact_id(self.path)[:NAME_DIGITS]}"
        for first in (True, False):  # The other processes find it there.
            if group().world.first == first:
                self.servers.meet(lambda server: server.load_adapter(name, self.path))
            group().barrier()

    def reply(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Response:
        """Ask for one reply; of a server that was away in the meantime it is proved anew what it serves.

        It is to be believed once `prove_again` has been called, or sooner.

        Raises:
            GtrTurboError: the server rendered the prompt to other tokens than we do, or does not end its replies as we do.
        """
        sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        while True:
            server, response = self.servers.ask(lambda server: self._reply(server, messages, pictures, **sampling))
            try:
                return replace(response, stretch=self._prover.hear(server)) if self._prover else response
            except (AwayError, RefusedError) as error:  # It went away again before it was proved what it serves.
                if len(self.servers) == 1:
                    raise
                self.servers.lose(server, error.as_away())

    def prove(
        self,
        states: Sequence[tuple[Sequence[Message], Sequence[np.ndarray]]],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        """Prove that each server of which it was not proved yet serves this checkpoint; see `gtrturbo/play/probe.py`.

        Args:
            states: messages and pictures of what will be asked; a few are enough.
            temperature, max_new_tokens: at which that will be.
            seed: of the replies that are looked at.

        Raises:
            GtrTurboError: one serves something else.
        """
        sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        if prover := self._prover:
            shown = self._shown(states)
            self.servers.together(lambda there: prover.prove(there, shown, **sampling))

    def prove_again(self) -> None:
        """Prove after the last reply that those that gave them serve this checkpoint still.

        A server that is away is left out from now on: what it said since the last proof is not believed.

        Raises:
            GtrTurboError: one serves something else by now, or the only one is away.
        """
        for server in list(self.servers) if self._prover else []:
            assert self._prover
            try:
                self._prover.prove_again(server)
            except (AwayError, RefusedError) as error:
                if len(self.servers) == 1:
                    raise
                self.servers.leave_out(server, error.as_away())

    def _shown(self, states: Sequence[tuple[Sequence[Message], Sequence[np.ndarray]]]) -> list[ShownState]:
        return [ShownState(self.renderer.prompt(*state), *state) for state in states]

    def _reply(
        self,
        server: Server,
        messages: Sequence[Message],
        pictures: Sequence[np.ndarray],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ) -> Response:
        prompt = self.renderer.prompt(messages, pictures)
        require_context([prompt], self._config, str(self.path))
        try:
            answer = server.chat(
                messages,
                pictures,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=seed,
                forbidden=self.forbidden,
                end_ids=self.end_ids,
            )
        except RefusedError as error:
            if any(words in error.said for words in CONTEXT):
                raise GtrTurboError(error.what, self._mend_length(len(prompt.ids), max_new_tokens)) from None
            raise
        if answer.response_ids is None or answer.prompt_ids is None:
            return Response(answer.text, agent=self.servers.speaker(server), ended=answer.ended)
        ids = self._own_ids(server, messages, pictures, answer.prompt_ids)
        self._check_end(server, answer, prompt=len(ids), longest=max_new_tokens)
        require_context([prompt], self._config, str(self.path), replies=[answer.response_ids])
        text, offsets = self.renderer.decode(answer.response_ids.tolist())
        return Response(text, ids, answer.response_ids, offsets, answer.logprobs, agent=self.servers.speaker(server))

    def _own_ids(
        self, server: Server, messages: Sequence[Message], pictures: Sequence[np.ndarray], given: np.ndarray
    ) -> np.ndarray:
        """Return our own rendering of the prompt, if the server's is the same but for how often a picture's token stands."""
        own = self.renderer.prompt(messages, pictures).ids
        if self._same(own, given):
            return own
        raise GtrTurboError(
            f"{server.base_url} renders a prompt to {len(given)} tokens that differ from our {len(own)}: its tokenizer, "
            "chat template or picture size is another.",
            "serve the folder that the checkpoint was made from, with its own template.",
        )

    def _same(self, own: np.ndarray, given: np.ndarray) -> bool:
        return np.array_equal(own, given) or np.array_equal(_once(own, self.image_id), given)

    def _mend_length(self, prompt: int, longest: int) -> str:
        """Say what helps where a server has no place for a prompt and a reply; no server has more than the model."""
        positions = positions_of(self._config)
        if positions is not None and prompt + longest > positions:
            return (
                f"give --max-new-tokens {positions - prompt} or less: this prompt has {prompt} tokens, and the model reads "
                f"{positions}, prompt and reply together."
            )
        return f"start vLLM with --max-model-len {prompt + longest} or more."

    def _check_end(self, server: Server, answer: Answer, *, prompt: int, longest: int) -> None:
        assert answer.response_ids is not None
        count, end = len(answer.response_ids), self.renderer.end_id
        ends = np.flatnonzero(np.isin(answer.response_ids, self.end_ids))
        if not len(ends) and count < longest:
            raise GtrTurboError(
                f"{server.base_url} ends a reply after {count} of at most {longest} tokens that do not end with the end of "
                "turn: its context is full, or it stops at other tokens.",
                f"{self._mend_length(prompt, longest).removesuffix('.')}, and let it return token {end}.",
            )
        if len(ends) and (len(ends) > 1 or ends[0] != count - 1):
            raise GtrTurboError(
                f"{server.base_url} returned {count} tokens that do not end with the end of turn.",
                f"let it stop at token {end} and return that token.",
            )
        if count > longest:
            raise GtrTurboError(f"{server.base_url} returned {count} tokens, and was asked for {longest} at most.")

    @property
    def tells_sampled(self) -> bool:
        """Whether it is proved that log-probs are those of the distribution that was sampled from."""
        return self._prover is not None and self._prover.tells_sampled

    def metrics(self) -> dict[str, float]:
        """Say what was found when it was proved what the server serves."""
        return self._prover.metrics() if self._prover else {}

    def machine(self) -> dict[str, Any]:
        """Say where the policy is."""
        [kind] = {server.kind for server in self.servers}
        return {"server": kind, "servers": len(self.servers)}


def _once(ids: np.ndarray, repeated: int | None) -> np.ndarray:
    """Leave one of each run of a token, as a server writes the place of a picture before it is laid out."""
    same = np.concatenate([[False], (ids[1:] == ids[:-1]) & (ids[1:] == repeated)])
    return ids[~same]
