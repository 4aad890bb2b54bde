"""Ragged arrays and pictures on disk: one array per turn, written flat with offsets, and pictures under their content's hash."""

import hashlib
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import write_one_of_many
from gtrturbo.store.safetensors_files import SAFETENSORS_METADATA

PNG_END = b"IEND\xaeB`\x82"  # The last chunk: its name and checksum.


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
    arrays = load_arrays(path)
    by_response = {
        name: _split(arrays[name], arrays["response_offsets"])
        for name in ("response_ids", "response_spans", "thought_mask", "action_mask", "sample_logprobs")
    }
    return TurnTokens(prompt_ids=_split(arrays["prompt_ids"], arrays["prompt_offsets"]), **by_response)


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
    arrays = load_arrays(path)
    return _split(arrays["teacher_logprobs"], arrays["offsets"])


def load_top_logprobs(path: Path) -> TopLogprobs:
    """Read the teacher's most likely tokens of scores that have them."""
    arrays = load_arrays(path)
    return TopLogprobs(*(_split(arrays[name], arrays["offsets"]) for name in ("top_ids", "top_logprobs", "rest_logprobs")))


def _flatten(prefix: str, ragged: Mapping[str, Sequence[np.ndarray]], dtype: type) -> dict[str, np.ndarray]:
    rows = next(iter(ragged.values()))
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return {f"{prefix}offsets": offsets, **{f"{prefix}{name}": _flat(values, dtype) for name, values in ragged.items()}}


def _flat(rows: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in rows] or [np.empty(0, dtype)])


def _split(flat: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return [flat[start:end] for start, end in itertools.pairwise(offsets)]


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    save_file(arrays, path, metadata=SAFETENSORS_METADATA)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of numpy arrays.

    Raises:
        GtrTurboError: the file is missing or damaged; names the command that finds out more.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise GtrTurboError(f"{path} cannot be read: {error}.", f"see: gtrturbo show {path.parent} --check") from None


def save_image(folder: Path, pixels: np.ndarray) -> str:
    """Write a picture, [H, W, 3] uint8, under the hash of its pixels, once; return its path relative to the artifact."""
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
    name = f"images/{digest}.png"
    target = folder / name
    if not _is_whole(target):
        target.parent.mkdir(exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        write_one_of_many(target, file.getvalue())
    return name


def _is_whole(file: Path) -> bool:
    """Tell whether a picture is there to its end: what a killed process left of one is made again."""
    if not file.is_file() or file.stat().st_size < len(PNG_END):
        return False
    with file.open("rb") as opened:
        opened.seek(-len(PNG_END), os.SEEK_END)
        return opened.read() == PNG_END
