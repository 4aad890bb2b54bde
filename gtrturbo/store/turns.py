"""Turns, their tokens, scores and demos as artifacts hold them: read here by all that reads them, verified and validated."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import DEMOS, MANIFEST, METRICS, SCORES, TOKENS, TURNS
from gtrturbo.store.records import Demo, Turn, parse_rows
from gtrturbo.store.strict_json import parse_json
from gtrturbo.store.tensors import TopLogprobs, TurnTokens, scores_of, top_logprobs_of, turn_tokens_of
from gtrturbo.store.turn_checks import demo_faults, score_faults, token_faults, turn_faults
from gtrturbo.store.verification import require_hash

Read = TypeVar("Read")


def read_turns(path: Path) -> list[Turn]:
    """Read the turns of an artifact, turns or an evaluation.

    Raises:
        GtrTurboError: they are missing, changed, damaged, or do not fit together.
    """
    turns = _read(path, TURNS, lambda content, file: list(parse_rows(content, file, Turn)))
    _refuse(path, TURNS, turn_faults(turns))
    if (path / MANIFEST).is_file():
        _refuse(path, TURNS, _of_manifest(path, turns, read_manifest(path)))
    return turns


def _of_manifest(path: Path, turns: Sequence[Turn], manifest: Manifest) -> Iterator[str]:
    """Say where turns are not those that the manifest speaks of: which episodes were played, and an evaluation's numbers."""
    config = manifest.config
    if type(count := config.get("episodes")) is int and not config.get("panel"):
        first = config.get("first_episode", 0)
        played = list(dict.fromkeys(turn.episode for turn in turns))
        if played != list(range(first, first + count)):
            other = min(set(played) ^ set(range(first, first + count)), default=first)
            yield f"episodes {first}-{first + count - 1} were asked for; episode {other} is missing, additional or out of order"
    measured = manifest.kind == "evaluation" and METRICS in manifest.files
    if measured and _read(path, METRICS, lambda content, _: parse_json(content)) != manifest.metrics:
        yield f"{METRICS} says other numbers than {MANIFEST}"


def read_turn_tokens(path: Path, turns: Sequence[Turn]) -> TurnTokens:
    """Read the tokens of an artifact's turns.

    Raises:
        GtrTurboError: there are none (an expert played), or they are changed, damaged, or not of these turns.
    """
    require_tokens(path)
    tokens = _read(path, TOKENS, turn_tokens_of)
    _refuse(path, TOKENS, token_faults(turns, tokens))
    return tokens


def require_tokens(path: Path) -> None:
    """Refuse turns that no policy sampled.

    Raises:
        GtrTurboError: an expert played.
    """
    if not has_tokens(path):
        raise GtrTurboError(
            f"{path} has no tokens: an expert played it, not a policy.", "play with: gtrturbo rollout --checkpoint …"
        )


def has_tokens(path: Path) -> bool:
    """Tell whether a policy spoke in an artifact's turns: by its manifest, so that tokens that are gone are missed."""
    named = (path / MANIFEST).is_file() and TOKENS in read_manifest(path).files
    return named or (path / TOKENS).is_file()


def read_scores(path: Path, lengths: Sequence[int] | None = None, *, top: bool = False) -> tuple[list, TopLogprobs | None]:
    """Read a teacher's log-probs, and its most likely tokens where they are asked for.

    Args:
        path: the scores.
        lengths: tokens of each reply that they were made for; None: nobody knows them here.
        top: whether the most likely tokens are read.

    Raises:
        GtrTurboError: they are missing, changed, damaged, or of other replies.
    """
    logprobs = _read(path, SCORES, scores_of)
    likeliest = _read(path, SCORES, top_logprobs_of) if top else None
    _refuse(path, SCORES, score_faults([len(row) for row in logprobs] if lengths is None else lengths, logprobs, likeliest))
    return logprobs, likeliest


def read_demos(path: Path) -> list[Demo]:
    """Read the demos of an artifact.

    Raises:
        GtrTurboError: they are missing, changed or damaged, or more or fewer than the manifest says.
    """
    demos = _read(path, DEMOS, lambda content, file: list(parse_rows(content, file, Demo)))
    _refuse(path, DEMOS, demo_faults(demos))
    count = read_manifest(path).metrics.get("demos", len(demos))
    if count != len(demos):
        _refuse(path, DEMOS, iter([f"there are {len(demos)} demos, and {MANIFEST} says {count:g}"]))
    return demos


def _read(path: Path, name: str, parse: Callable[[bytes, Path], Read]) -> Read:
    """Read a file of an artifact; what cannot be parsed is said so before what was changed."""
    file = path / name
    if not file.is_file():
        raise GtrTurboError(f"{file} is missing.", f"see: gtrturbo show {shell_word(str(path))} --check")
    content = file.read_bytes()
    try:
        parsed = parse(content, file)
    except ValueError as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", "make the artifact again.") from None
    if (path / MANIFEST).is_file():  # There is none while a stage is at work on them.
        require_hash(path, read_manifest(path), name, hashlib.sha256(content).hexdigest())
    return parsed


def _refuse(path: Path, name: str, faults: Iterator[str]) -> None:
    if fault := next(faults, None):
        raise GtrTurboError(f"{path / name} is damaged: {fault}.", "make the artifact again.")
