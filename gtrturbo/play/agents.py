"""Who generates: this process with transformers (hf), or a server that speaks the OpenAI protocol (openai)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.play.policy_agent import PolicyAgent
from gtrturbo.play.server import Kind, Server
from gtrturbo.play.server_agent import ServerAgent, ServerPolicy

Engine = Literal["hf", "openai"]


@dataclass(frozen=True)
class Endpoint:
    """A server as the user names it; see `Server` and `ServerPolicy`."""

    kind: Kind
    base_url: str | None
    model: str | None
    max_concurrency: int


def open_policy(
    path: Path, engine: Engine, endpoint: Endpoint, *, needs_ids: bool, device: str, dtype: str
) -> Policy | ServerPolicy:
    """Load a checkpoint here, or have a server play it.

    Args:
        path: the checkpoint.
        engine, endpoint: who generates; the endpoint counts for a server alone.
        needs_ids: whether replies without token ids are of no use, as in training.
        device, dtype: of the weights, where they are loaded here.

    Raises:
        GtrTurboError: no server is named, or it is of a kind that returns no token ids, which are needed.
    """
    if engine == "hf":
        return load_policy(path, device=device, dtype=dtype)
    if endpoint.base_url is None:
        raise GtrTurboError("--engine openai asks a server, and none is named.", "add: --base-url http://localhost:8000")
    if needs_ids and endpoint.kind == "generic":
        raise GtrTurboError(
            "a generic server returns no token ids: what it samples cannot be trained on.",
            "use --server vllm or --server sglang; a generic one is enough for eval.",
        )
    server = Server(endpoint.kind, endpoint.base_url, endpoint.model, needs_ids=needs_ids)
    return ServerPolicy(server, path, max_concurrency=endpoint.max_concurrency)


def agent_of(policy: Policy | ServerPolicy, *, seed: int, temperature: float, max_new_tokens: int) -> PolicyAgent | ServerAgent:
    """Let a policy answer states; see `PolicyAgent` for the arguments."""
    kind = PolicyAgent if isinstance(policy, Policy) else ServerAgent
    return kind(policy, seed=seed, temperature=temperature, max_new_tokens=max_new_tokens)  # type: ignore[arg-type]
