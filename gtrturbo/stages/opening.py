"""How a stage opens the checkpoint that answers, as its config says."""

from contextlib import ExitStack
from typing import Any

from gtrturbo.play.agents import Endpoint, Opening


def opening_of(config: Any, *, at_once: int, for_training: bool, ending: ExitStack) -> Opening:
    """Read off a rollout's, an evaluation's or a teacher's config how its checkpoint is opened; see `Opening`.

    Args:
        at_once: most requests at once to a server.
    """
    return Opening(
        Endpoint(config.engine, config.served_model, at_once=at_once),
        for_training=for_training,
        device=config.device,
        dtype=config.dtype,
        probe=config.probe,
        probe_turns=config.probe_turns,
        python=config.vllm_python,
        ending=ending,
    )
