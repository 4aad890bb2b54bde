"""Which tokens end a turn: the one that the chat template writes after a reply, and all at which the model's makers stop it."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Message, said

REPLY, OTHER = "gtrturbo", "another"  # Stand for a reply; no template writes the first.
ASKED: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]


def template_end(processor: Any) -> int:
    """Return the token that the chat template writes after an assistant's reply; the tokenizer's own where it writes none.

    Gemma ends its turns with <end_of_turn>, and its tokenizer's end of sequence is <eos>. What ends a turn is a token that was
    added to the tokenizer and is no blank, whether the tokenizer calls it special or not.

    Raises:
        GtrTurboError: it does not write the reply as it is, so that nothing says where it ends.
    """
    tokenizer = processor.tokenizer
    marks = {identity for identity, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    after = tokenizer(_after_reply(processor), add_special_tokens=False)["input_ids"]
    return next((identity for identity in after if identity in marks), tokenizer.eos_token_id)


def _after_reply(processor: Any) -> str:
    around = _around_reply(processor, ASKED) if processor.chat_template else None
    return around[1] if around else ""


def written_before_reply(processor: Any, messages: Sequence[Message]) -> str | None:
    """Return all that the chat template writes before an assistant's reply to messages; None where it writes no such turns.

    Raises:
        GtrTurboError: it does not write the reply as it is.
    """
    around = _around_reply(processor, messages)
    return around[0] if around else None


def _around_reply(processor: Any, messages: Sequence[Message]) -> tuple[str, str] | None:
    try:
        written, other = (processor.apply_chat_template([*messages, said(text)], tokenize=False) for text in (REPLY, OTHER))
    except (TemplateError, TypeError):  # A template that takes no such turn writes none.
        return None
    if REPLY in written:
        before, _, after = written.rpartition(REPLY)
        return before, after
    if written == other:  # It writes no turns of an assistant.
        return None
    raise GtrTurboError(
        f"the chat template of {processor.tokenizer.name_or_path} does not write an assistant's text as it is: where a reply "
        "ends is not known.",
        "bring a template that does: gtrturbo init --chat-template FILE",
    )


def end_ids(written: int, tokenizer: Any, generation: Any) -> tuple[int, ...]:
    """Name all tokens that end a reply, in order.

    Args:
        written: what the template writes, see `template_end`.
        tokenizer: whose end of sequence counts as well.
        generation: the model's generation config, whose `eos_token_id` is one id, several or None; None where there is none.

    Raises:
        GtrTurboError: that is something else, or the tokenizer has no such token.
    """
    stops = getattr(generation, "eos_token_id", None)
    several = stops if isinstance(stops, list | tuple) else [] if stops is None else [stops]
    known = len(tokenizer)
    if odd := [identity for identity in several if type(identity) is not int or not 0 <= identity < known]:
        raise GtrTurboError(
            f"generation_config.json of {tokenizer.name_or_path} names {odd[0]!r} as eos_token_id, which is no id of a token.",
            f"write a whole number from 0 to {known - 1} there, or a list of them.",
        )
    return tuple(sorted({written, tokenizer.eos_token_id, *several}))
