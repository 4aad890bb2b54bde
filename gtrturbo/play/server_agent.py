"""Let a policy on an inference server play: requests at once up to a bound, what comes back checked against our own rendering."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gtrturbo.distributed.processes import group
from gtrturbo.distributed.threads import map_at_once
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_architecture, load_generation, load_policy, quiet
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.end_of_turn import end_ids
from gtrturbo.models.families import forbidden_ids, read_family
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Prompt, Renderer, require_context
from gtrturbo.play.episodes import Response, State
from gtrturbo.play.probe import REPLY_TOKENS, STATES, TEMPERATURE, Proof, Replied, prove, require_likeliest
from gtrturbo.play.server import Answer, Server
from gtrturbo.play.teachers import Question
from gtrturbo.store.ids import artifact_id, seed_for
from gtrturbo.store.records import Message

NAME_DIGITS = 12


@dataclass(frozen=True)
class Probing:
    """How it is proved what a server serves: where and in which type the checkpoint is loaded for that, and whether the log-probs
    are to be those of the distribution that is sampled from, as training needs them."""

    device: str
    dtype: str
    exact: bool


class ServerPolicy:
    """A checkpoint as a server plays it: what only a server needs of it is loaded here, which is no weights.

    Args:
        server: where it is served; an adapter is loaded there under a name made of its artifact's id.
        path: the checkpoint.
        max_concurrency: requests at once.
        probing: how it is proved that the server serves this checkpoint; None where that is not asked for.

    Raises:
        GtrTurboError: the server does not take the adapter.
    """

    def __init__(self, server: Server, path: Path, *, max_concurrency: int, probing: "Probing | None" = None) -> None:
        quiet()
        self.path = path
        self.proof: Proof | None = None
        self._probing = probing
        self._proved_at: int | None = None
        self._proving = Lock()
        config = load_architecture(path)
        self.server = server
        self._config = config
        family = read_family(path, config.model_type)
        with reading_model(path):
            self.renderer = Renderer(load_processor(path, family=family, local_files_only=True), family)
        self.end_ids = end_ids(self.renderer.end_id, self.renderer.processor.tokenizer, load_generation(path))
        self.forbidden = sorted(forbidden_ids(config, family))
        self.image_id = getattr(config, family.repeated_id, None)
        self.max_concurrency = max_concurrency
        self.name = server.model
        if is_adapter(path):
            self.name = f"gtrturbo-{artifact_id(path)[:NAME_DIGITS]}"
            if group().world.first:
                server.load_adapter(self.name, path)
            group().barrier()
            server.adapter = self.name

    def reply(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Response:
        """Ask for one reply; of a server that was away in the meantime it is proved anew what it serves.

        Raises:
            GtrTurboError: the server rendered the prompt to other tokens than we do, or does not end its replies as we do.
        """
        sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        response = self._reply(messages, pictures, **sampling)
        if self._proved_at not in (None, self.server.starts):
            self.prove([(messages, pictures)], **sampling)
        return response

    def prove(
        self,
        states: Sequence[tuple[Sequence[Message], Sequence[np.ndarray]]],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        """Prove, once for each start of the server, that it serves this checkpoint; see `gtrturbo/play/probe.py`.

        Args:
            states: messages and pictures of what will be asked; a few are enough.
            temperature, max_new_tokens: at which that will be.
            seed: of the replies that are looked at.

        Raises:
            GtrTurboError: it serves something else.
        """
        with self._proving:
            if self._probing is None or self._proved_at == self.server.starts:
                return
            shown = {self.renderer.prompt(*state): state for state in states}
            some = list(shown.items())[:STATES]
            longest = min(max_new_tokens, REPLY_TOKENS)
            temperatures = sorted({TEMPERATURE, temperature} if self._probing.exact else {TEMPERATURE})
            replies = self._asked(some, temperatures, longest, seed) if self.server.tells_tokens else []
            if not any(given.has_tokens for _, _, given in replies):
                replies = self._asked(some, [0.0], longest, seed)
            self.proof = self._judge(self._probing, replies)
            self._proved_at = self.server.starts

    def _asked(
        self, states: Sequence[tuple[Prompt, Any]], temperatures: Sequence[float], longest: int, seed: int
    ) -> list[tuple[Prompt, float, Response]]:
        return [
            (prompt, at, self._reply(*state, temperature=at, max_new_tokens=longest, seed=seed_for(seed, "probe", row)))
            for at in temperatures
            for row, (prompt, state) in enumerate(states)
        ]

    def _judge(self, probing: "Probing", replies: Sequence[tuple[Prompt, float, Response]]) -> Proof:
        """Load the checkpoint, for as long as it takes to score what came back at which temperatures."""
        policy = load_policy(self.path, device=probing.device, dtype=probing.dtype)
        whom = {"who": self._who(), "path": self.path}
        tokens = [
            Replied(prompt, given.response_ids, at, given.logprobs)
            for prompt, at, given in replies
            if given.response_ids is not None and given.logprobs is not None
        ]
        if tokens:
            return prove(policy, tokens, exact=probing.exact, **whom)
        return require_likeliest(policy, [(prompt, given.text) for prompt, _, given in replies], **whom)

    def _who(self) -> str:
        root = self.server.root()
        return f"{self.server.base_url} (model {self.name}{f', started from {root}' if root else ''})"

    def _reply(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Response:
        require_context([self.renderer.prompt(messages, pictures)], self._config, str(self.path))
        answer = self.server.chat(
            messages,
            pictures,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            forbidden=self.forbidden,
            end_ids=self.end_ids,
        )
        if answer.response_ids is None or answer.prompt_ids is None:
            return Response(answer.text, agent=self.name)
        ids = self._own_ids(messages, pictures, answer.prompt_ids)
        self._check_end(answer, max_new_tokens)
        text, offsets = self.renderer.decode(answer.response_ids.tolist())
        return Response(text, ids, answer.response_ids, offsets, answer.logprobs, agent=self.name)

    def _own_ids(self, messages: Sequence[Message], pictures: Sequence[np.ndarray], given: np.ndarray) -> np.ndarray:
        """Return our own rendering of the prompt, if the server's is the same but for how often a picture's token stands."""
        own = self.renderer.prompt(messages, pictures).ids
        if np.array_equal(own, given) or np.array_equal(_once(own, self.image_id), given):
            return own
        raise GtrTurboError(
            f"{self.server.base_url} renders a prompt to {len(given)} tokens that differ from our {len(own)}: its tokenizer, "
            "chat template or picture size is another.",
            "serve the folder that the checkpoint was made from, with its own template.",
        )

    def _check_end(self, answer: Answer, longest: int) -> None:
        assert answer.response_ids is not None and answer.prompt_ids is not None
        count, end = len(answer.response_ids), self.renderer.end_id
        ends = np.flatnonzero(np.isin(answer.response_ids, self.end_ids))
        if not len(ends) and count < longest:
            raise GtrTurboError(
                f"{self.server.base_url} ends a reply after {count} of at most {longest} tokens that do not end with the end of "
                "turn: its context is full, or it stops at other tokens.",
                f"start vLLM with --max-model-len {len(answer.prompt_ids) + longest} or more, and let it return token {end}.",
            )
        if len(ends) and (len(ends) > 1 or ends[0] != count - 1):
            raise GtrTurboError(
                f"{self.server.base_url} returned {count} tokens that do not end with the end of turn.",
                f"let it stop at token {end} and return that token.",
            )
        if count > longest:
            raise GtrTurboError(f"{self.server.base_url} returned {count} tokens, and was asked for {longest} at most.")

    def metrics(self) -> dict[str, float]:
        """Say what was found when it was proved what the server serves."""
        return self.proof.metrics() if self.proof else {}

    def machine(self) -> dict[str, Any]:
        """Say where the policy is."""
        return {"server": self.server.kind}


def ask_server(
    policy: ServerPolicy, questions: Sequence[Question], *, seeds: Sequence[int], temperature: float, max_new_tokens: int
) -> list[str]:
    """Reply to a teacher's questions, as many at once as the bound allows."""

    def reply(question: Question, seed: int) -> str:
        sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        return policy.reply(question.messages, question.pictures, **sampling).text

    first = [(question.messages, question.pictures) for question in questions[:STATES]]
    policy.prove(first, temperature=temperature, max_new_tokens=max_new_tokens, seed=seeds[0])
    return map_at_once(reply, questions, seeds, threads=policy.max_concurrency)


def _once(ids: np.ndarray, repeated: int | None) -> np.ndarray:
    """Leave one of each run of a token, as a server writes the place of a picture before it is laid out."""
    same = np.concatenate([[False], (ids[1:] == ids[:-1]) & (ids[1:] == repeated)])
    return ids[~same]


class ServerAgent:
    """Answer states with the replies of a policy on a server, in the order in which they arrive.

    A server cannot be given the numbers that choose each token, so a reply depends on a seed of its own, made of the run's
    seed, the episode and the turn, and on what the server makes of it.
    """

    def __init__(self, policy: ServerPolicy, *, seed: int, temperature: float, max_new_tokens: int) -> None:
        self.policy = policy
        self.seed = seed
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self._threads = ThreadPoolExecutor(policy.max_concurrency)
        self._asked: dict[tuple[int, int], Future[Response]] = {}

    def __call__(self, states: Sequence[State]) -> list[Response | None]:
        """Answer those states whose replies are there, at least one; the others are asked for again and not sent twice."""
        if not self._asked:
            shown = [(state.messages, state.images) for state in states]
            self.policy.prove(shown, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed)
        keys = [(state.episode, state.turn) for state in states]
        for key, state in zip(keys, states, strict=True):
            if key not in self._asked:
                self._asked[key] = self._threads.submit(self._reply, state)
        done, _ = wait(self._asked.values(), return_when=FIRST_COMPLETED)
        try:
            return [self._asked.pop(key).result() if self._asked[key] in done else None for key in keys]
        except BaseException:
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise

    def _reply(self, state: State) -> Response:
        return self.policy.reply(
            state.messages,
            state.images,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=seed_for(self.seed, "reply", state.episode, state.turn),
        )
