"""Which tokens end a turn: the one that the chat template writes after a reply, and all at which the model's makers stop it."""

from typing import Any

from jinja2 import TemplateError

from gtrturbo.errors import GtrTurboError

REPLY, OTHER = "gtrturbo", "another"  # Stand for a reply; no template writes the first.


def template_end(processor: Any) -> int:
    """Return the token that the chat template writes after an assistant's reply; the tokenizer's own where it writes none.

    Gemma ends its turns with <end_of_turn>, and its tokenizer's end of sequence is <eos>.

    Raises:
        GtrTurboError: it does not write the reply as it is, so that nothing says where it ends.
    """
    tokenizer = processor.tokenizer
    special = {identity for identity, token in tokenizer.added_tokens_decoder.items() if token.special}
    after = tokenizer(_after_reply(processor), add_special_tokens=False)["input_ids"]
    return next((identity for identity in after if identity in special), tokenizer.eos_token_id)


def _after_reply(processor: Any) -> str:
    if not processor.chat_template:
        return ""
    try:
        written, other = (_conversation(processor, reply) for reply in (REPLY, OTHER))
    except (TemplateError, TypeError):  # A template that takes no such turn writes none.
        return ""
    if REPLY in written:
        return written.rpartition(REPLY)[2]
    if written == other:  # It writes no turns of an assistant.
        return ""
    raise GtrTurboError(
        f"the chat template of {processor.tokenizer.name_or_path} does not write an assistant's text as it is: where a reply "
        "ends is not known.",
        "bring a template that does: gtrturbo init --chat-template FILE",
    )


def _conversation(processor: Any, reply: str) -> str:
    said = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("user", "?"), ("assistant", reply))]
    return processor.apply_chat_template(said, tokenize=False)


def end_ids(written: int, tokenizer: Any, generation: Any) -> tuple[int, ...]:
    """Name all tokens that end a reply, in order.

    Args:
        written: what the template writes, see `template_end`.
        tokenizer: whose end of sequence counts as well.
        generation: the model's generation config, whose `eos_token_id` is one id, several or None; None where there is none.

    Raises:
        GtrTurboError: that is something else.
    """
    stops = getattr(generation, "eos_token_id", None)
    several = stops if isinstance(stops, list | tuple) else [] if stops is None else [stops]
    if odd := [identity for identity in several if type(identity) is not int]:
        raise GtrTurboError(
            f"generation_config.json of {tokenizer.name_or_path} names {odd[0]!r} as eos_token_id, which is no id of a token.",
            "write a whole number there, or a list of them.",
        )
    known = len(tokenizer)
    return tuple(sorted({identity for identity in (written, tokenizer.eos_token_id, *several) if 0 <= identity < known}))
