"""One turn played with a new model, in every way that later stages use it: what cannot work is refused where it comes in."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtrturbo.errors import Collapse, GtrTurboError
from gtrturbo.models.end_of_turn import written_before_reply
from gtrturbo.models.families import Family, read_family
from gtrturbo.models.policy import Policy
from gtrturbo.models.reading import reading_model
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.store.mending import FETCH_AGAIN

SIDE = 56  # Pixels of the picture.
MESSAGES, LONGER = (
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    for text in ("What is on the picture?", "What is on the picture? Answer in as few words as you can.")
)
REPLY_TOKENS = 4
OTHER_MODEL = "choose another model, or bring a family of your own: --family."
ODD = "it does not work as transformers' models of pictures and text do"
# What a template may write on one side only: marks of a thought that it opens for the model, or leaves out of what was said.
THOUGHT = re.compile("think|thought|reason", re.IGNORECASE)
ENDING_SHOWN = 40  # characters
CLOCK = "strftime_now"  # By this a template asks for the time.
# Sampling and scoring of the same token, in nats; bfloat16 rounds logits of up to 16 by as much.
EVENLY = 1e-6  # nats
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
    require_template(processor, name)
    family = family or read_family(Path(name), model.config.model_type)
    does = f"is of type {model.config.model_type} and cannot play a turn"
    with reading_model(name, does, mend=OTHER_MODEL, why=ODD), torch.no_grad():
        head = ValueHead.new(model.config.get_text_config().hidden_size, seed=0).to(model.device)
        policy = Policy(model, processor, head, family)
        policy.renderer.fit(len(model.get_input_embeddings().weight))
        prompts = _prompts(policy.renderer, name)
        try:
            samples = policy.generate(prompts, None, temperature=1.0, max_new_tokens=REPLY_TOKENS)
        except Collapse as error:  # Nothing was trained yet that could have collapsed.
            wider = FETCH_AGAIN if model.dtype == torch.float32 else "add: --dtype float32"
            raise GtrTurboError(f"{name} cannot play a turn: {error.what}", wider) from None
        _require_choice(name, [sample.logprobs for sample in samples], len(policy.scorer.forbidden), model)
        for prompt, sample in zip(prompts, samples, strict=True):  # Sampled side by side, scored one by one.
            scored = policy.score([prompt], [sample.response_ids], temperature=1.0).logprobs[0].cpu().numpy()
            _require_same(name, sample.logprobs, scored, whole=model.dtype == torch.float32)


def require_prompts(renderer: Renderer, name: str) -> None:
    """Refuse a model by what its processor and template make of a turn, without its weights.

    Raises:
        GtrTurboError: names what they cannot do.
    """
    require_template(renderer.processor, name)
    with reading_model(name, "cannot play a turn", mend=OTHER_MODEL, why=ODD):
        _prompts(renderer, name)


def _prompts(renderer: Renderer, name: str) -> list[Prompt]:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    require_rendering(renderer, name, picture)
    prompts = [renderer.prompt(messages, [picture]) for messages in (MESSAGES, LONGER)]
    require_known_tensors(prompts[0], name)
    _require_finished(renderer.processor, name)
    return prompts


def require_template(processor: Any, name: str) -> None:
    """Refuse a model whose turns have no form, or another one every day.

    Raises:
        GtrTurboError: it has no chat template, or one that writes the date.
    """
    if not processor.chat_template:
        raise GtrTurboError(
            f"{name} has no chat template, so that it is not known how a turn of its looks like.",
            "choose a model that was trained on conversations, or write one: --chat-template FILE (documentation: engines).",
        )
    if CLOCK in str(processor.chat_template):
        raise GtrTurboError(
            f"the chat template of {name} writes the date ({CLOCK}), so that what is played today is another prompt tomorrow.",
            "write one that does not: --chat-template FILE (documentation: engines).",
        )


def _require_finished(processor: Any, name: str) -> None:
    """Refuse a template whose prompt with a reply behind it is not the conversation that it writes itself: blanks apart, and
    marks of a thought, that of an assistant's turn begins where the prompt ends.

    Raises:
        GtrTurboError: says what its prompt ends with, and what it writes before a reply.
    """
    before = written_before_reply(processor, MESSAGES)
    if before is None:  # It writes no turns of an assistant.
        return
    asked = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    prompt, whole = ("".join(text.split()) for text in (asked, before))
    shorter, longer = sorted((prompt, whole), key=len)
    if longer.startswith(shorter) and (shorter == longer or THOUGHT.search(longer[len(shorter) :])):
        return
    raise GtrTurboError(
        f"the chat template of {name} ends a prompt with {_end(asked)!r}, and writes {_end(before)!r} before an assistant's "
        "text: its replies would begin in another place than those that it was trained on.",
        "write one that ends its prompts as an assistant's turn begins: --chat-template FILE (documentation: engines).",
    )


def _end(text: str) -> str:
    return text[-ENDING_SHOWN:]


def require_known_tensors(prompt: Prompt, name: str) -> None:
    """Refuse a model whose processor gives something per token that nobody would carry on over the reply.

    Raises:
        GtrTurboError: names it.
    """
    count = len(prompt.ids)
    for tensor, value in prompt.tensors.items():
        if tensor not in prompt.per_token and tuple(value.shape[:2]) == (1, count):
            raise GtrTurboError(
                f"the processor of {name} gives {tensor} for each token, which is carried on over a reply for no family here.",
                "choose a model whose pictures stand among the tokens of its prompt.",
            )


def _require_choice(name: str, logprobs: Sequence[np.ndarray], forbidden: int, model: Any) -> None:
    """Refuse a model that gives every token the same chance: a norm makes 0 of states that overflow, and no weight tells."""
    evenly = -np.log(model.config.get_text_config().vocab_size - forbidden)
    if all(np.abs(row - evenly).max() < EVENLY for row in logprobs):
        raise GtrTurboError(
            f"{name} gives every token the same chance: its weights are too large, or its head is all zeros.",
            FETCH_AGAIN,
        )


def _require_same(name: str, sampled: np.ndarray, scored: np.ndarray, *, whole: bool) -> None:
    gaps = np.abs(sampled - scored)
    place = int(np.argmax(np.where(np.isfinite(gaps), gaps, np.inf)))
    if not gaps[place] <= (SAME if whole else SAME_IN_BFLOAT16):
        raise GtrTurboError(
            f"{name} gives a token a log-prob of {sampled[place]:.4g} where it samples and {scored[place]:.4g} where it scores.",
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
