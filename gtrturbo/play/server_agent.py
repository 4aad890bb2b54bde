"""Let a policy on an inference server play: requests at once up to a bound, what comes back checked against our own rendering."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from gtrturbo.distributed.processes import group
from gtrturbo.distributed.threads import map_at_once
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_architecture, load_generation, quiet
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.end_of_turn import end_ids
from gtrturbo.models.families import forbidden_ids, read_family
from gtrturbo.models.processor import load_processor
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Renderer
from gtrturbo.play.episodes import Response, State
from gtrturbo.play.server import Answer, Server
from gtrturbo.play.teachers import Question
from gtrturbo.store.ids import artifact_id, seed_for
from gtrturbo.store.records import Message

NAME_DIGITS = 12


class ServerPolicy:
    """A checkpoint as a server plays it: what only a server needs of it is loaded here, which is no weights.

    Args:
        server: where it is served; an adapter is loaded there under a name made of its artifact's id.
        path: the checkpoint.
        max_concurrency: requests at once.

    Raises:
        GtrTurboError: the server does not take the adapter.
    """

    def __init__(self, server: Server, path: Path, *, max_concurrency: int) -> None:
        quiet()
        config = load_architecture(path)
        self.server = server
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
        """Ask for one reply.

        Raises:
            GtrTurboError: the server rendered the prompt to other tokens than we do, or does not end its replies as we do.
        """
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
        assert answer.response_ids is not None
        ends = np.flatnonzero(np.isin(answer.response_ids, self.end_ids))
        whole = len(ends) == 1 and ends[0] == len(answer.response_ids) - 1
        if not whole and (len(ends) or len(answer.response_ids) != longest):
            raise GtrTurboError(
                f"{self.server.base_url} returned {len(answer.response_ids)} tokens that do not end with the end of turn.",
                f"let it stop at token {self.renderer.end_id} and return that token.",
            )

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
