"""Who answers: this process with transformers (hf), a server that speaks the OpenAI protocol, running already or started for the
stage (vllm), or the user's own code."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from gtrturbo.config.addresses import kind_of, servers_of
from gtrturbo.config.choices import AUTO, HF, OPENAI, SGLANG, VLLM, ServerName
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.vocabularies import contents_of
from gtrturbo.play.episodes import Agent, Response, State
from gtrturbo.play.own_server import own_server
from gtrturbo.play.policy_agent import PolicyAgent, ask_policy
from gtrturbo.play.proving import Probing
from gtrturbo.play.response_checks import TOKENS_OR_NONE, check_responses
from gtrturbo.play.server import Server
from gtrturbo.play.server_agent import ServerPolicy
from gtrturbo.play.server_player import ServerAgent, ask_server
from gtrturbo.play.servers import Servers
from gtrturbo.play.teachers import Question
from gtrturbo.plugins import calling, find


@dataclass(frozen=True)
class Endpoint:
    """What is asked of a server.

    Attributes:
        engine: its kind and addresses, as the user names them; see `servers_of`.
        model: name of the model that it serves; the first that it lists if None.
        at_once: most requests at once.
    """

    engine: str
    model: str | None
    at_once: int


@dataclass(frozen=True)
class Opening:
    """How a checkpoint is opened to answer.

    Attributes:
        endpoint: counts for a server alone.
        for_training: replies without token ids and log-probs are of no use.
        device, dtype: of the weights, where they are loaded here.
        python: of an environment that has vLLM, where one is started.
        ending: what is started for as long as the checkpoint answers ends with it.
        probe: prove that a server serves the checkpoint before it is believed.
        probe_turns: turns of the checkpoint that prove it, in place of its weights.
    """

    endpoint: Endpoint
    for_training: bool
    device: str
    dtype: str
    probe: bool = True
    probe_turns: Path | None = None
    python: str = "python3"
    ending: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class Engine:
    """A way to have a checkpoint answer.

    Attributes:
        open: makes a policy of a checkpoint.
        agent: lets that policy play, drawing what is random from a seed, at a temperature, up to so many tokens.
        ask: has it reply to a teacher's questions, each with a seed of its own; see `Ask`.
        in_process: the policy's weights are loaded here, so that it scores as well.
        exact_logprobs: what it samples has the log-probs that the trainer's own forward pass gives.
        asked_at_once: questions in one call of `ask`; None: as many as share a forward pass.
    """

    open: Callable[[Path, Opening], Any]
    agent: Callable[..., Agent]
    ask: Callable[..., list[str]]
    in_process: bool
    exact_logprobs: bool
    asked_at_once: int | None = None


def _load(path: Path, opening: Opening) -> Policy:
    return load_policy(path, device=opening.device, dtype=opening.dtype)


def _served(path: Path, opening: Opening) -> ServerPolicy:
    """Have a server play a checkpoint, or several.

    Raises:
        GtrTurboError: no server is named, or it is of a kind that returns no token ids, which are needed.
    """
    endpoint = opening.endpoint
    kind, addresses = cast(ServerName, kind_of(endpoint.engine)), servers_of(endpoint.engine)
    ours: dict[str, Any] = {}
    if not addresses:
        started = opening.ending.enter_context(own_server(path, opening.python, dtype=opening.dtype))
        addresses, ours = (started.url,), {"own": started.require_running, "began": started.began}
    if opening.for_training and kind == OPENAI:
        raise GtrTurboError(
            "a server of kind openai returns no token ids: what it samples cannot be trained on.",
            f"use --engine vllm:{addresses[0]} or sglang:{addresses[0]}; openai is enough for eval.",
        )
    servers = Servers([Server(kind, url, endpoint.model, needs_ids=opening.for_training, **ours) for url in addresses])
    # Where nothing is said the checkpoint is loaded beside no server's memory on a GPU.
    device = "cpu" if opening.device == AUTO else opening.device
    probing = Probing(device, opening.dtype, opening.for_training, opening.probe_turns) if opening.probe else None
    return ServerPolicy(servers, path, max_concurrency=endpoint.at_once, probing=probing)


# Turns between two looks at what parses, of which fewer are asked for at once.
SERVED = Engine(open=_served, agent=ServerAgent, ask=ask_server, in_process=False, exact_logprobs=False, asked_at_once=1024)
ENGINES = {
    HF: Engine(open=_load, agent=PolicyAgent, ask=ask_policy, in_process=True, exact_logprobs=True),
    VLLM: SERVED,
    SGLANG: SERVED,
    OPENAI: SERVED,
}


@dataclass(frozen=True)
class Player:
    """A checkpoint that answers: its agent, the policy where its weights are in this process, where it runs, metrics of who
    answered, hashes of its tokenizer's contents where the replies have tokens, what is called after the last of them, and whether
    the log-probs of tokens are those of the distribution that they were sampled from, as far as is known."""

    agent: Agent
    policy: Policy | None
    machine: Callable[[], dict[str, Any]]
    metrics: Callable[[], dict[str, float]] = dict
    tokenizer: dict[str, str] | None = None
    at_end: Callable[[], object] = lambda: None
    tells_sampled: Callable[[], bool] = lambda: True


def open_player(path: Path, engine: str, opening: Opening, *, seed: int, temperature: float, max_new_tokens: int) -> Player:
    """Let a checkpoint answer states.

    Args:
        path: the checkpoint.
        engine: who generates: a name of `ENGINES`, with an address where it is a server, or the user's own code, which makes an
            agent by `NAME(checkpoint, seed=…, temperature=…, max_new_tokens=…)`.
        opening: see there.
        seed: with episode and turn it decides what is random in a reply.
        temperature: of sampling; 0 takes the most likely token.
        max_new_tokens: longest reply.

    Raises:
        GtrTurboError: there is no such engine, or it cannot answer as is needed.
    """
    found, sampling = (
        find("engine", kind_of(engine), ENGINES),
        {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens},
    )
    if isinstance(found, Engine):
        policy = found.open(path, opening)
        contents = contents_of(policy.renderer.processor.tokenizer, policy.renderer.end_id)
        agent = found.agent(policy, **sampling)
        player = Player(agent, policy if found.in_process else None, policy.machine, policy.metrics, contents)
        if isinstance(policy, ServerPolicy):
            return replace(player, at_end=policy.prove_again, tells_sampled=lambda: policy.tells_sampled)
        return player
    agent = make_agent(engine, path, for_training=opening.for_training, **sampling)
    return Player(agent, None, lambda: {"engine": engine.rpartition("/")[2]})


def has_exact_logprobs(engine: str) -> bool:
    """Tell whether what an engine sampled has the trainer's log-probs. Code of the user's own is not loaded to find out."""
    return kind_of(engine) in ENGINES and ENGINES[kind_of(engine)].exact_logprobs


def make_agent(engine: str, path: Path, *, for_training: bool, seed: int, temperature: float, max_new_tokens: int) -> Agent:
    """Make an agent of the user's own code, what it answers checked.

    Raises:
        GtrTurboError: there is no such code, it makes nothing that can be called, or it raises.
    """
    make: Any = find("engine", engine, ENGINES)
    with calling("engine", engine):
        agent = make(path, seed=seed, temperature=temperature, max_new_tokens=max_new_tokens)
    if not callable(agent):
        raise GtrTurboError(
            f"engine {engine} makes no agent: it returns {type(agent).__name__}.", "return a function of states to responses."
        )
    return _checked(engine, agent, for_training=for_training)


def _checked(engine: str, agent: Callable[..., Any], *, for_training: bool) -> Agent:
    have_tokens: set[bool] = set()

    def answer(states: Sequence[State]) -> Sequence[Response | None]:
        with calling("engine", engine):
            given = list(agent([deepcopy(state) for state in states]))  # The turns are recorded from ours.
        responses = check_responses(engine, states, given, for_training=for_training)
        have_tokens.update(response.has_tokens for response in responses if response is not None)
        if len(have_tokens) > 1:
            raise GtrTurboError(f"engine {engine} gives tokens with some responses and none with others.", TOKENS_OR_NONE)
        return responses

    return answer


def ask_agent(agent: Agent, questions: Sequence[Question], *, keep: Callable[[int, str], object], **_: Any) -> list[str]:
    """Have an agent reply to a teacher's questions, until all replies are there; it was made with its sampling."""
    states = [_state(question) for question in questions]
    texts: dict[int, str] = {}
    while waiting := [row for row in range(len(states)) if row not in texts]:
        responses = agent([states[row] for row in waiting])
        new = {row: response.text for row, response in zip(waiting, responses, strict=True) if response is not None}
        for row, text in new.items():
            keep(row, text)
        texts |= new
    return [texts[row] for row in range(len(states))]


def _state(question: Question) -> State:
    return State(question.row, question.attempt, question.told, question.pictures, info=dict(question.info))
