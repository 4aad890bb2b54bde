"""How many tokens a model reads, and what does not fit: prompts, replies to them, and replies that it would still be writing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.renderer import Prompt

SHORTER = "shorten the task's prompt or history, or leave out --hints; make pictures smaller, or take a model that reads more."


def positions_of(config: Any) -> int | None:
    """Return how many tokens a model reads, prompt and reply together, by its config; None where that does not say."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None


def require_context(prompts: Sequence[Prompt], config: Any, name: str, *, replies: Sequence[np.ndarray] | None = None) -> None:
    """Refuse prompts that leave no place for a reply in the positions that a model has.

    Args:
        prompts: rendered.
        config: of the model.
        name: of the model, as an error says it.
        replies: token ids of those that are there already; else one token has to find a place.

    Raises:
        GtrTurboError: names both numbers.
    """
    positions, lengths = positions_of(config), [_length(prompt) for prompt in prompts]
    if positions is None:
        return
    if replies is None:
        if max(lengths, default=0) >= positions:
            raise GtrTurboError(f"a prompt has {max(lengths)} tokens, and {name} reads {positions} at most.", SHORTER)
        return
    longest = max((count + len(reply) for count, reply in zip(lengths, replies, strict=True)), default=0)
    if longest > positions:
        raise GtrTurboError(
            f"a prompt and its reply have {longest} tokens, and {name} reads {positions} at most.",
            "take turns with shorter replies (a smaller --max-new-tokens) or prompts, leave out --hints, or take a model that "
            "reads more.",
        )


def most_new_tokens(prompts: Sequence[Prompt], config: Any, *, asked: int) -> int:
    """Return how many tokens of replies there is place for: as many as asked for, or what the shortest prompt leaves."""
    positions = positions_of(config)
    return asked if positions is None else min(asked, positions - min(map(_length, prompts)))


def require_ends(
    prompts: Sequence[Prompt], replies: Sequence[np.ndarray], config: Any, name: str, *, asked: int, end_ids: Sequence[int]
) -> None:
    """Refuse sampled replies that the end of the positions cuts, as a server's are, before they have the tokens asked for.

    Args:
        prompts, replies: rendered, and token ids of what was sampled.
        config, name: see `require_context`.
        asked: `--max-new-tokens`, up to which a reply may go on.
        end_ids: tokens of which each ends a reply.

    Raises:
        GtrTurboError: names both numbers, and the most tokens that fit.
    """
    positions = positions_of(config)
    if positions is None:
        return
    rooms = [positions - _length(prompt) for prompt in prompts]
    for prompt, reply, room in zip(prompts, replies, rooms, strict=True):
        if room < asked and not np.isin(reply[:room], end_ids).any() and len(reply) >= room:
            raise GtrTurboError(
                f"a reply to a prompt of {_length(prompt)} tokens does not end in the {room} that are left of the {positions} "
                f"that {name} reads, and may have {asked}.",
                f"--max-new-tokens {min(rooms)} fits here; or shorten the task's prompt or history, make pictures smaller, or "
                "take a model that reads more.",
            )


def _length(prompt: Prompt) -> int:
    return prompt.tensors["input_ids"].shape[1]
