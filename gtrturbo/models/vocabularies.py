"""Tokenizers of several models: as one, and whether two mean the same by their ids."""

import hashlib
import json
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


def contents_of(tokenizer: Tokenizer, end_id: int) -> dict[str, str]:
    """Hash what decides how text becomes ids, however its files are written: `vocabulary`, `merges`, and `special` tokens.

    Args:
        end_id: of the token that ends a reply, which is one of what is special.

    Returns: sha256 of each, over tokens with their ids, pairs in their order, and added tokens with their ids.
    """
    fast: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    backend = json.loads(fast.to_str())["model"] if fast else {}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in backend.get("merges") or []]
    parts = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": merges,
        "special": [end_id, *sorted((place, token.content) for place, token in tokenizer.added_tokens_decoder.items())],
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


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
