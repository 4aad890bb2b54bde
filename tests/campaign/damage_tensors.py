"""Ways to damage files of tensors: their headers, their arrays, and what the arrays of turns and scores say."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from campaign.damage import Inapplicable, Mutation, by_bytes
from campaign.damage_json import NESTED


def read_tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _write_tensors(path: Path, header: Any, body: bytes) -> None:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _header(change: Callable[[dict[str, Any], Random], Any]) -> Callable[[Path, Random], None]:
    def changed(path: Path, draw: Random) -> None:
        header, body = read_tensors(path)
        _write_tensors(path, change(header, draw), body)

    return changed


def _arrays(change: Callable[[dict[str, np.ndarray], Random], None]) -> Callable[[Path, Random], None]:
    def changed(path: Path, draw: Random) -> None:
        from safetensors.numpy import load_file, save_file

        arrays = {name: np.array(value) for name, value in load_file(path).items()}
        change(arrays, draw)
        save_file(arrays, path, metadata={"format": "pt"})

    return changed


def _pick(
    arrays: dict[str, np.ndarray], draw: Random, wanted: Callable[[np.ndarray], bool] = lambda array: array.size > 1
) -> str:
    fitting = sorted(name for name, array in arrays.items() if wanted(array))
    if not fitting:
        raise Inapplicable
    return draw.choice(fitting)


def _floats(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.size > 0


def _puts(value: float) -> Callable[[dict[str, np.ndarray], Random], None]:
    def change(arrays: dict[str, np.ndarray], draw: Random) -> None:
        flat = arrays[_pick(arrays, draw, _floats)].reshape(-1)
        flat[draw.randrange(len(flat))] = value

    return change


def _renamed(arrays: dict[str, np.ndarray], draw: Random) -> None:
    name = _pick(arrays, draw)
    arrays[f"{name}s"] = arrays.pop(name)


def _misshaped(arrays: dict[str, np.ndarray], draw: Random) -> None:
    name = _pick(arrays, draw)
    arrays[name] = arrays[name].reshape(1, *arrays[name].shape)


def _shorter(arrays: dict[str, np.ndarray], draw: Random) -> None:
    name = _pick(arrays, draw)
    arrays[name] = np.ascontiguousarray(arrays[name][:-1])


def _other_type(arrays: dict[str, np.ndarray], draw: Random) -> None:
    name = _pick(arrays, draw)
    arrays[name] = arrays[name].astype(np.int8 if arrays[name].dtype.kind == "f" else np.float64)


def _entry(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any], Random], Any]:
    def changed(header: dict[str, Any], draw: Random) -> Any:
        change(header[draw.choice(sorted(name for name in header if name != "__metadata__"))])
        return header

    return changed


TENSORS = [
    Mutation("tensor missing", _arrays(lambda arrays, draw: arrays.pop(_pick(arrays, draw)) is None)),
    Mutation("tensor renamed", _arrays(_renamed)),
    Mutation("tensor more", _arrays(lambda arrays, _: arrays.update(more=np.zeros(3, np.float32)))),
    Mutation("tensor misshaped", _arrays(_misshaped)),
    Mutation("tensor shorter", _arrays(_shorter)),
    Mutation("tensor of another type", _arrays(_other_type)),
    Mutation("no tensors", _arrays(lambda arrays, _: arrays.clear())),
    Mutation("NaN in a tensor", _arrays(_puts(float("nan")))),
    Mutation("infinity in a tensor", _arrays(_puts(float("inf")))),
    Mutation("huge entry in a tensor", _arrays(_puts(3e38)), breaks=False),
    Mutation("header of 10^18 bytes", by_bytes(lambda content, _: struct.pack("<Q", 10**18) + content[8:])),
    Mutation("header of junk", _header(lambda header, draw: "{" + "x" * 50)),
    Mutation("header deep", _header(lambda header, draw: NESTED)),
    Mutation("header empty", _header(lambda header, draw: {})),
    Mutation("offsets backwards", _header(_entry(lambda entry: entry["data_offsets"].reverse()))),
    Mutation("offsets beyond", _header(_entry(lambda entry: entry.update(data_offsets=[0, 10**15])))),
    Mutation("offsets overlap", _header(_entry(lambda entry: entry.update(data_offsets=[0, 4])))),
    Mutation("negative shape", _header(_entry(lambda entry: entry.update(shape=[-1, -4])))),
    Mutation("huge shape", _header(_entry(lambda entry: entry.update(shape=[2**62, 4])))),
    Mutation("unknown type", _header(_entry(lambda entry: entry.update(dtype="F1")))),
]


def _on(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Random], None]:
    def changed(arrays: dict[str, np.ndarray], _: Random) -> None:
        if name not in arrays:
            raise Inapplicable
        arrays[name] = change(arrays[name].copy())

    return _arrays(changed)


def _set(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[place] = value
        return array

    return change


# What is wrong with the tokens of turns, or scores of them, although each array is of the right type and shape.
TOKENS = [
    Mutation("tokens: log-prob of -30", _on("sample_logprobs", _set(3, -30.0))),
    Mutation("tokens: log-prob above 0", _on("sample_logprobs", _set(3, 0.5))),
    Mutation("tokens: another token", _on("response_ids", _set(2, 7))),
    Mutation("tokens: negative token", _on("response_ids", _set(2, -1))),
    Mutation("tokens: token beyond the vocabulary", _on("response_ids", _set(2, 10**6))),
    Mutation("tokens: another prompt token", _on("prompt_ids", _set(2, 7))),
    Mutation("tokens: negative offset", _on("response_offsets", _set(1, -5))),
    Mutation("tokens: huge offset", _on("response_offsets", _set(-1, 10**9))),
    Mutation("tokens: offsets of prompts backwards", _on("prompt_offsets", lambda array: array[::-1].copy())),
    Mutation("tokens: span backwards", _on("response_spans", _set(0, 10**6))),
    Mutation("tokens: thought and action overlap", _on("thought_mask", lambda array: np.ones_like(array))),
    Mutation("tokens: nothing masked", _on("action_mask", lambda array: np.zeros_like(array)), breaks=False),
]
SCORES = [
    Mutation("scores: log-prob above 0", _on("teacher_logprobs", _set(3, 0.5))),
    Mutation("scores: negative offset", _on("offsets", _set(1, -5))),
    Mutation("scores: huge offset", _on("offsets", _set(-1, 10**9))),
    Mutation("scores: another turn's length", _on("offsets", lambda array: np.delete(array, 1))),
    Mutation("scores: token beyond the vocabulary", _on("top_ids", _set(0, 10**6))),
    Mutation("scores: one token twice", _on("top_ids", lambda array: np.zeros_like(array))),
    Mutation("scores: more than all", _on("rest_logprobs", _set(0, 0.5))),
]
