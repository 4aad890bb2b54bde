"""One turn played with a new model, in every way that later stages use it: what cannot work is refused where it comes in."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.families import Family, read_family
from gtrturbo.models.policy import Policy
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Renderer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.store.records import Message

SIDE = 56  # Pixels of the picture.
MESSAGES: list[Message] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on the picture?"}]},
]
# Sampling and scoring of the same token, in nats; bfloat16 rounds logits of up to 16 by as much.
SAME, SAME_IN_BFLOAT16 = 1e-3, 0.25


def require_turn(model: Any, processor: Any, family: Family | None, name: str) -> None:
    """Refuse a model that cannot play a turn: render a picture and a question, generate a token, score it, and value the state.

    Args:
        model: a transformers model, or a PEFT model around one.
        processor: its processor.
        family: of the model; found by its config if None.
        name: as the user wrote it, a hub id or a folder.

    Raises:
        GtrTurboError: names what it cannot do.
    """
    if not processor.chat_template:
        raise GtrTurboError(
            f"{name} has no chat template, so that it is not known how a turn of its looks like.",
            "choose a model that was trained on conversations, or write its template into chat_template.jinja of a local copy.",
        )
    family = family or read_family(Path(name), model.config.model_type)
    mend = "choose another model, or bring a family of your own: --family."
    with reading_model(name, "cannot play a turn", mend=mend), torch.no_grad():
        head = ValueHead.new(model.config.get_text_config().hidden_size, seed=0).to(model.device)
        policy = Policy(model, processor, head, family)
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        require_rendering(policy.renderer, name, picture)
        prompt = policy.renderer.prompt(MESSAGES, [picture])
        [sample] = policy.generate([prompt], None, temperature=1.0, max_new_tokens=1)
        scored = policy.score([prompt], [sample.response_ids], temperature=1.0)
    _require_same(name, float(sample.logprobs[0]), float(scored.logprobs[0, 0]), whole=model.dtype == torch.float32)


def _require_same(name: str, sampled: float, scored: float, *, whole: bool) -> None:
    if not np.isfinite(scored) or abs(sampled - scored) > (SAME if whole else SAME_IN_BFLOAT16):
        raise GtrTurboError(
            f"{name} gives one token a log-prob of {sampled:.4g} where it samples and of {scored:.4g} where it scores.",
            "choose another model; this one cannot be trained from its own samples.",
        )


def require_rendering(renderer: Renderer, name: str, picture: np.ndarray) -> None:
    """Refuse a model whose prompt is rendered to other tokens here than by transformers' own `apply_chat_template`.

    Raises:
        GtrTurboError: names the first place where they differ.
    """
    own = renderer.prompt(MESSAGES, [picture]).ids.tolist()
    theirs = np.array(renderer.of_transformers(MESSAGES, [picture])).flatten().tolist()
    if own != theirs:
        pairs = enumerate(zip(own, theirs, strict=False))
        place = next((row for row, (one, other) in pairs if one != other), min(len(own), len(theirs)))
        raise GtrTurboError(
            f"{name} is rendered to {len(own)} tokens that differ from transformers' {len(theirs)}, from token {place} on.",
            "choose another model.",
        )
