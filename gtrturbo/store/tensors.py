"""Ragged arrays on disk: one array per turn, written flat with offsets."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_whole
from gtrturbo.store.safetensors_files import SAFETENSORS_METADATA

# Type and number of dimensions of each array in a file.
TOKEN_TYPES = {
    "prompt_ids": (np.int32, 1),
    "prompt_offsets": (np.int64, 1),
    "response_ids": (np.int32, 1),
    "response_offsets": (np.int64, 1),
    "response_spans": (np.int32, 2),
    "thought_mask": (np.bool_, 1),
    "action_mask": (np.bool_, 1),
    "sample_logprobs": (np.float32, 1),
}
SCORE_TYPES = {"teacher_logprobs": (np.float32, 1), "offsets": (np.int64, 1)}
TOP_TYPES = {"top_ids": (np.int32, 2), "top_logprobs": (np.float32, 2), "rest_logprobs": (np.float32, 1)}


@dataclass(frozen=True)
class TurnTokens:
    """Tokens of N turns, one array per turn. P prompt tokens, R reply tokens.

    Attributes:
        prompt_ids: what the policy was given, image placeholders included. N × [P] int32
        response_ids: what it sampled, end-of-turn token included. N × [R] int32
        response_spans: [start, end) of each token in the reply's text, in characters; a token without text is (n, n).
            N × [R, 2] int32
        thought_mask: tokens before the action key. N × [R] bool
        action_mask: the action key, its value and all after. N × [R] bool
        sample_logprobs: nats, at the sampling temperature. N × [R] float32
    """

    prompt_ids: list[np.ndarray]
    response_ids: list[np.ndarray]
    response_spans: list[np.ndarray]
    thought_mask: list[np.ndarray]
    action_mask: list[np.ndarray]
    sample_logprobs: list[np.ndarray]


def save_turn_tokens(path: Path, tokens: TurnTokens) -> None:
    """Write the tokens of all turns to one safetensors file: flat arrays and offsets [N+1]."""
    _save(
        path,
        {
            **_flatten("prompt_", {"ids": tokens.prompt_ids}, np.int32),
            **_flatten("response_", {"ids": tokens.response_ids}, np.int32),
            "response_spans": _flat(tokens.response_spans, np.int32),
            "thought_mask": _flat(tokens.thought_mask, np.bool_),
            "action_mask": _flat(tokens.action_mask, np.bool_),
            "sample_logprobs": _flat(tokens.sample_logprobs, np.float32),
        },
    )


def load_turn_tokens(path: Path) -> TurnTokens:
    """Read what `save_turn_tokens` wrote."""
    return turn_tokens_of(read_tensor_file(path), path)


def turn_tokens_of(content: bytes, path: Path) -> TurnTokens:
    """Return the tokens that a file holds whose bytes were read.

    Raises:
        GtrTurboError: it is damaged, or holds other tensors than those of tokens.
    """
    arrays = arrays_of(content, path)
    _require_types(path, arrays, TOKEN_TYPES)
    by_response = {
        name: _split(path, arrays[name], arrays["response_offsets"])
        for name in ("response_ids", "response_spans", "thought_mask", "action_mask", "sample_logprobs")
    }
    return TurnTokens(prompt_ids=_split(path, arrays["prompt_ids"], arrays["prompt_offsets"]), **by_response)


@dataclass(frozen=True)
class TopLogprobs:
    """The teacher's K most likely tokens at each token of N replies.

    Attributes:
        ids: most likely first. N × [R, K] int32
        logprobs: of these, in nats. N × [R, K] float32
        rest: log-prob of all other tokens together, in nats; −inf where there are none. N × [R] float32
    """

    ids: list[np.ndarray]
    logprobs: list[np.ndarray]
    rest: list[np.ndarray]


def save_scores(path: Path, teacher_logprobs: Sequence[np.ndarray], top: TopLogprobs | None = None) -> None:
    """Write the teacher's log-probs of N replies, N × [R] float32, nats; and its most likely tokens where they are kept."""
    arrays = _flatten("", {"teacher_logprobs": teacher_logprobs}, np.float32)
    if top:
        arrays["top_ids"] = _flat(top.ids, np.int32)
        arrays |= {"top_logprobs": _flat(top.logprobs, np.float32), "rest_logprobs": _flat(top.rest, np.float32)}
    _save(path, arrays)


def load_scores(path: Path) -> list[np.ndarray]:
    """Read what `save_scores` wrote: the teacher's log-probs, one array per turn."""
    return scores_of(read_tensor_file(path), path)


def scores_of(content: bytes, path: Path) -> list[np.ndarray]:
    """Return the log-probs that a file holds whose bytes were read.

    Raises:
        GtrTurboError: it is damaged, or holds other tensors than those of scores.
    """
    arrays = arrays_of(content, path)
    _require_types(path, arrays, SCORE_TYPES | (TOP_TYPES if "top_ids" in arrays else {}))
    return _split(path, arrays["teacher_logprobs"], arrays["offsets"])


def load_top_logprobs(path: Path) -> TopLogprobs:
    """Read the teacher's most likely tokens of scores that have them."""
    return top_logprobs_of(read_tensor_file(path), path)


def top_logprobs_of(content: bytes, path: Path) -> TopLogprobs:
    """Return the teacher's most likely tokens of scores that have them.

    Raises:
        GtrTurboError: they have none, or the file is damaged.
    """
    arrays = arrays_of(content, path)
    _require_types(path, arrays, SCORE_TYPES | TOP_TYPES)
    if arrays["top_ids"].shape != arrays["top_logprobs"].shape:
        raise _damaged(path, "its most likely tokens and their log-probs are not of one shape")
    return TopLogprobs(*(_split(path, arrays[name], arrays["offsets"]) for name in TOP_TYPES))


def _flatten(prefix: str, ragged: Mapping[str, Sequence[np.ndarray]], dtype: type) -> dict[str, np.ndarray]:
    rows = next(iter(ragged.values()))
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return {f"{prefix}offsets": offsets, **{f"{prefix}{name}": _flat(values, dtype) for name, values in ragged.items()}}


def _flat(rows: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in rows] or [np.empty(0, dtype)])


def _split(path: Path, flat: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(flat) or (np.diff(offsets) < 0).any():
        raise _damaged(path, "its offsets do not lead from 0 to the end of its rows")
    return [flat[start:end] for start, end in itertools.pairwise(offsets)]


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_whole(path, save(arrays, metadata=SAFETENSORS_METADATA))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of numpy arrays.

    Raises:
        GtrTurboError: the file is missing or damaged; names the command that finds out more.
    """
    return arrays_of(read_tensor_file(path), path)


def read_tensor_file(path: Path) -> bytes:
    """Read the bytes of a file of arrays.

    Raises:
        GtrTurboError: it cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise GtrTurboError(f"{path} cannot be read: {error}.", f"see: gtrturbo show {path.parent} --check") from None


def arrays_of(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays that a safetensors file holds whose bytes were read.

    Raises:
        GtrTurboError: it is damaged.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise GtrTurboError(f"{path} cannot be read: {error}.", f"see: gtrturbo show {path.parent} --check") from None


def _require_types(path: Path, arrays: Mapping[str, np.ndarray], types: Mapping[str, tuple[type, int]]) -> None:
    """Refuse other arrays than these, and those of another type or number of dimensions."""
    if odd := sorted(arrays.keys() ^ types.keys()):
        raise _damaged(path, f"{odd[0]} is missing or has no place in it")
    for name, (dtype, dimensions) in types.items():
        array = arrays[name]
        if array.dtype != dtype or (array.size and array.ndim != dimensions):  # Of no rows nobody knows how wide they are.
            raise _damaged(path, f"{name} is {array.dtype} {list(array.shape)}")
    if "response_spans" in types and arrays["response_spans"].shape[1:] not in ((), (2,)):
        raise _damaged(path, "response_spans are no pairs")


def _damaged(path: Path, what: str) -> GtrTurboError:
    return GtrTurboError(f"{path} is damaged: {what}.", f"see: gtrturbo show {path.parent} --check")
