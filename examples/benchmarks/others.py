"""How others play the same episodes: transformers' `generate` over all environments at once, and vLLM."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmarks.common import bare
from gtrturbo.models.inputs import to_device
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import collate
from gtrturbo.play.episodes import Response, State
from gtrturbo.play.own_server import own_server
from gtrturbo.play.server import Server
from gtrturbo.play.server_agent import ServerPolicy
from gtrturbo.play.server_player import ServerAgent
from gtrturbo.play.servers import Servers

Answering = Callable[[Sequence[State]], list[Any]]


def generating(policy: Policy, generation: Any) -> Answering:
    """Answer all states by one call of `generate`, as TRL does by default; log-probs, a second forward pass there, are left out.

    Args:
        generation: a GenerationConfig.
    """
    model, renderer = bare(policy), policy.renderer

    @torch.no_grad()
    def answer(states: Sequence[State]) -> list[Response]:
        prompts = [renderer.prompt(state.messages, state.images) for state in states]
        batch = to_device(model, collate(prompts, pad_id=policy.pad_id))
        model.generation_config = generation
        rows = model.generate(**batch)[:, batch["input_ids"].shape[1] :].cpu().numpy().astype(np.int32)
        return [_response(policy, prompt, _cut(row, policy.end_ids)) for prompt, row in zip(prompts, rows, strict=True)]

    return answer


def _cut(ids: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Leave a row up to its first end of turn."""
    found = np.flatnonzero(np.isin(ids, list(ends)))
    return ids[: found[0] + 1] if len(found) else ids


def _response(policy: Policy, prompt: Any, ids: np.ndarray) -> Response:
    text, offsets = policy.renderer.decode(ids.tolist())
    return Response(text, prompt.ids, ids, offsets, np.zeros(len(ids), np.float32))


@contextmanager
def serving_vllm(checkpoint: Path, python: str, *, num_envs: int, **sampling: Any) -> Iterator[Callable[[], Answering]]:
    """Run vLLM for as long as the block runs; give what makes an agent that asks it, `num_envs` requests at once."""
    with own_server(checkpoint, python, dtype="auto") as server:
        servers = Servers([Server("vllm", server.url, own=server.require_running)])
        policy = ServerPolicy(servers, checkpoint, max_concurrency=num_envs)
        yield lambda: ServerAgent(policy, **sampling)
