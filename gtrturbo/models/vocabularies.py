"""Tokenizers of several models as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gtrturbo.errors import GtrTurboError

Tokenizer = PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a tokenizer.

    Raises:
        GtrTurboError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # So it says of files that it cannot read.
        raise GtrTurboError(f"the tokenizer of {folder} cannot be loaded: {error}") from None


def add_all(out: Tokenizer, others: Sequence[Tokenizer]) -> None:
    """Add tokens that others have: plain ones first, then those that were added to them, with what was said of these."""
    plain: dict[str, None] = {}
    added: dict[str, Any] = {}
    for other in others:
        special = {token.content: token for _, token in sorted(other.added_tokens_decoder.items())}
        tokens = sorted(other.get_vocab().items(), key=lambda each: each[1])
        plain |= dict.fromkeys(token for token, _ in tokens if token not in special)
        added = special | added
    known = out.get_vocab()
    out.add_tokens([token for token in plain if token not in known and token not in added])
    out.add_tokens([token for text, token in added.items() if text not in out.get_vocab()])
