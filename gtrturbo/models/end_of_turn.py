"""Which tokens end a turn: the one that the chat template writes after a reply, and all at which the model's makers stop it."""

from collections.abc import Collection
from typing import Any

from jinja2 import TemplateError

REPLY = "gtrturbo"  # Stands for a reply; no template writes it.


def template_end(processor: Any) -> int:
    """Return the token that the chat template writes after an assistant's reply; the tokenizer's own where it writes none.

    Gemma ends its turns with <end_of_turn>, and its tokenizer's end of sequence is <eos>.
    """
    tokenizer = processor.tokenizer
    special = {identity for identity, token in tokenizer.added_tokens_decoder.items() if token.special}
    after = tokenizer(_after_reply(processor), add_special_tokens=False)["input_ids"]
    return next((identity for identity in after if identity in special), tokenizer.eos_token_id)


def _after_reply(processor: Any) -> str:
    if not processor.chat_template:
        return ""
    said = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("user", "?"), ("assistant", REPLY))]
    try:
        return processor.apply_chat_template(said, tokenize=False).rpartition(REPLY)[2]
    except (TemplateError, TypeError):  # A template that takes no such turn writes none.
        return ""


def end_ids(written: int, tokenizer: Any, generation: Any) -> tuple[int, ...]:
    """Name all tokens that end a reply, in order.

    Args:
        written: what the template writes, see `template_end`.
        tokenizer: whose end of sequence counts as well.
        generation: the model's generation config, whose `eos_token_id` is one id, several or None; None where there is none.
    """
    stops = getattr(generation, "eos_token_id", None)
    several = stops if isinstance(stops, Collection) else [] if stops is None else [stops]
    known = len(tokenizer)
    return tuple(sorted({identity for identity in (written, tokenizer.eos_token_id, *several) if 0 <= int(identity) < known}))
