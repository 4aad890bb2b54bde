"""Let a policy on inference servers play episodes or answer a teacher's questions: requests at once up to a bound."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from gtrturbo.distributed.threads import hear_at_once
from gtrturbo.play.episodes import Response, State
from gtrturbo.play.probe import STATES
from gtrturbo.play.server_agent import ServerPolicy
from gtrturbo.play.teachers import Question
from gtrturbo.store.ids import seed_for


def ask_server(
    policy: ServerPolicy,
    questions: Sequence[Question],
    *,
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    keep: Callable[[int, str, str | None], object] = lambda *_: None,
) -> list[str]:
    """Reply to a teacher's questions, as many at once as the bound allows.

    `keep` is given a question's place, its reply and who spoke as soon as that is believed.
    """

    def reply(row: int) -> Response:
        question = questions[row]
        sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seeds[row]}
        return policy.reply(question.told, question.pictures, **sampling)

    first = [(question.told, question.pictures) for question in questions[:STATES]]
    policy.prove(first, temperature=temperature, max_new_tokens=max_new_tokens, seed=seeds[0])
    replies: dict[int, Response] = {}
    texts: dict[int, str] = {}

    def believe() -> None:
        for row in [row for row, response in replies.items() if response.believed]:
            response = replies.pop(row)
            texts[row] = response.text
            keep(row, response.text, response.agent)

    def hear(row: int, response: Response) -> None:
        replies[row] = response
        believe()

    while rows := [row for row in range(len(questions)) if row not in texts]:
        hear_at_once(reply, rows, hear, threads=policy.max_concurrency)
        policy.prove_again()
        believe()
    return [texts[row] for row in range(len(questions))]


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
