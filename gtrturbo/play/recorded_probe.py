"""Prove what a server serves by turns that the checkpoint played elsewhere, where it is too large to be loaded here.

The server is asked which token comes next after the beginnings of recorded replies; the log-probs that it tells of the recorded
tokens, at the temperature at which they were sampled, are to be the recorded ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtrturbo.config.choices import HF
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.play.limits import Limits
from gtrturbo.play.probe import PROCESSED, STATES, Proof
from gtrturbo.play.recording import read_transcript
from gtrturbo.play.server import Likely
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Message, said

PLACES = 16  # tokens of a reply that are looked at, a request each


@dataclass(frozen=True)
class RecordedReply:
    """A reply: what it answers, its ids and log-probs [R], and where each token ends in its text [R]."""

    prompt: Prompt
    messages: Sequence[Message]
    pictures: Sequence[np.ndarray]
    text: str
    ids: np.ndarray
    logprobs: np.ndarray
    ends: Sequence[int]


@dataclass(frozen=True)
class Recorded:
    """Replies of a checkpoint, and the temperature at which they were sampled."""

    path: Path
    temperature: float
    replies: Sequence[RecordedReply]


def read_recorded(turns: Path, checkpoint: Path, renderer: Renderer) -> Recorded:
    """Read a few turns that a checkpoint played.

    Raises:
        GtrTurboError: another one played them, or a server of which nothing was proved.
    """
    manifest = read_manifest(turns, "turns")
    again = f"play some where it fits: gtrturbo rollout --checkpoint {checkpoint} --episodes 4 … --out TURNS"
    if manifest.inputs.get("checkpoint") != artifact_id(checkpoint):
        raise GtrTurboError(f"{turns} was not played by {checkpoint}: nothing of it can prove who serves that.", again)
    if manifest.config.get("engine") != HF and "probe_gap_mean" not in manifest.metrics:
        raise GtrTurboError(f"{turns} was played by a server of which nothing was proved.", again)
    played = read_transcript(turns, renderer)
    rows = range(0, len(played.turns), max(1, len(played.turns) // STATES))[:STATES]
    replies = [
        RecordedReply(
            played.prompts[row],
            played.turns[row].messages[:-1],
            [load_picture(turns, name) for name in played.turns[row].images],
            played.turns[row].reply,
            played.tokens.response_ids[row],
            played.tokens.sample_logprobs[row],
            [int(end) for _, end in played.tokens.response_spans[row]],
        )
        for row in rows
    ]
    return Recorded(turns, float(manifest.config["temperature"]), replies)


def prove_recorded(
    recorded: Recorded,
    ask: Callable[..., Likely],
    *,
    same: Callable[[np.ndarray, np.ndarray], bool],
    limits: Limits,
    who: str,
    path: Path,
) -> Proof:
    """Compare what a server finds likely with what was recorded.

    Args:
        recorded: see there.
        ask: gives what it finds likely after messages with pictures.
        same: tells whether ids are those of our own rendering, the first, as servers write them.
        limits: of the mean of |p − s|.
        who: answers, as an error says it.
        path: of the checkpoint.

    Raises:
        GtrTurboError: they are another model's, or another distribution's.
    """
    gaps = np.array([gap for reply in recorded.replies for gap in _gaps(reply, recorded.temperature, ask, same)], np.float32)
    if not len(gaps):
        raise GtrTurboError(
            f"no beginning of a reply in {recorded.path} is read as it was written by {who}.", "leave --probe-turns out."
        )
    proof = Proof(gaps, limits, {})
    gap = float(gaps.mean())
    if gap > limits.refuses:
        raw = "" if recorded.temperature == 1.0 else f" {PROCESSED}"
        raise GtrTurboError(
            f"{who} does not serve {path}: its log-probs are {gap:.2g} nats per token from those in {recorded.path}.",
            f"serve that checkpoint: start vLLM with --model {path}{raw}, or as docs/engines.md says for an adapter.",
        )
    return proof


def _gaps(reply: RecordedReply, temperature: float, ask: Callable[..., Likely], same: Callable[..., bool]) -> list[float]:
    found = []
    places = np.unique(np.linspace(0, len(reply.ids) - 1, PLACES).astype(int))
    for place in places:
        begun = reply.text[: reply.ends[place - 1]] if place else ""
        if place and not begun:  # A message without content is none.
            continue
        messages = [*reply.messages, said(begun)] if place else reply.messages
        told = ask(messages, reply.pictures, begun=bool(place), temperature=temperature)
        if same(np.concatenate([reply.prompt.ids, reply.ids[:place]]), told.read_ids):
            identity, recorded = int(reply.ids[place]), float(reply.logprobs[place])
            likely = told.logprobs.get(identity)
            # One that is not among the likeliest is no likelier than the least of these.
            found.append(abs(recorded - likely) if likely is not None else max(0.0, recorded - min(told.logprobs.values())))
    return found
