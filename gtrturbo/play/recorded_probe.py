"""Prove what a server serves by turns that the checkpoint played elsewhere, where it is too large to be loaded here.

The server is asked which token comes next after the beginnings of recorded replies; the log-probs that it tells of the recorded
tokens, at the temperature at which they were sampled, are to be the recorded ones. A recorded token that is not among the
likeliest, and was no likelier than the least of these, tells nothing and is left out; enough have to be left to compare.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtrturbo.algorithms.sampled import Drawn, drawn, draws_reader
from gtrturbo.config.choices import HF
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import is_on_another
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.play.completions import LIKELIEST, Likely
from gtrturbo.play.draws import require_drawn
from gtrturbo.play.greedy_probe import require_ties
from gtrturbo.play.limits import Limits
from gtrturbo.play.probe import CLOSER, PROCESSED, STATES, TEMPERATURE, Proof
from gtrturbo.play.recording import read_transcript
from gtrturbo.store.ids import artifact_id, seed_for
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Message, said

PLACES = 16  # tokens of a reply that are looked at, a request each
LOOKED_AT = STATES * PLACES  # tokens in all; where replies are shorter, more replies
AT_A_LOOK = 4  # tokens of one reply that are looked at now and then
ROUNDED = 1e-5  # what is left beside the likeliest tokens is no less: rounding makes as much of it
LEAST = 16  # tokens that have to be compared: fewer prove nothing


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
    """Read a few turns that a checkpoint played, of which so many tokens can be looked at as are wanted if there are as many.

    Raises:
        GtrTurboError: another one played them, or a server of which nothing was proved.
    """
    manifest = read_manifest(turns, "turns")
    again = f"play some where it fits: gtrturbo rollout --checkpoint {checkpoint} --episodes 4 … --out TURNS"
    if manifest.inputs.get("checkpoint") != artifact_id(checkpoint):
        raise GtrTurboError(f"{turns} was not played by {checkpoint}: nothing of it can prove who serves that.", again)
    if is_on_another(manifest, "checkpoint", checkpoint):
        raise GtrTurboError(f"{turns} was played on another model under the adapter {checkpoint}.", again)
    if manifest.config.get("engine") != HF and "probe_gap_mean" not in manifest.metrics:
        raise GtrTurboError(f"{turns} was played by a server of which nothing was proved.", again)
    played = read_transcript(turns, renderer)
    rows = _spread([min(PLACES, len(ids)) for ids in played.tokens.response_ids])
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


def _spread(lengths: Sequence[int]) -> list[int]:
    """Choose rows that are spread evenly: four, or so many that their tokens are as many as are looked at."""
    count = STATES
    while True:
        rows = np.unique(np.linspace(0, len(lengths) - 1, min(count, len(lengths))).astype(int)).tolist()
        if count >= len(lengths) or sum(lengths[row] for row in rows) >= LOOKED_AT:
            return rows
        count *= 2


def prove_recorded(
    recorded: Recorded,
    ask: Callable[..., Likely],
    *,
    same: Callable[[np.ndarray, np.ndarray], bool],
    limits: Limits,
    temperature: float | None,
    who: str,
    path: Path,
    places: int = PLACES,
    least: int = LEAST,
    seed: int = 0,
) -> Proof:
    """Compare what a server finds likely with what was recorded.

    Args:
        recorded: see there.
        ask: gives what it finds likely after messages with pictures.
        same: tells whether ids are those of our own rendering, the first, as servers write them.
        limits: of the mean of |p − s|.
        temperature: at which it is to play; None where it is not looked at whether it does.
        who: answers, as an error says it.
        path: of the checkpoint.
        places: tokens of a reply that are looked at.
        least: tokens that have to be compared.
        seed: of what is sampled.

    Raises:
        GtrTurboError: they are another model's, or another distribution's, or too few tokens could be compared.
    """
    if temperature:
        _require_tempered(recorded, ask, temperature, limits, who)
    looks = [
        look
        for row, reply in enumerate(recorded.replies)
        for look in _looks(reply, recorded.temperature, ask, same, places, partial(seed_for, seed, "recorded", row))
    ]
    found = [look.gap for look in looks]
    gaps = np.array([gap for gap in found if gap is not None], np.float32)
    gap = float(gaps.mean()) if len(gaps) else 0.0
    if gap > limits.refuses:  # However few they are.
        raise GtrTurboError(
            f"{who} does not serve {path}: its log-probs are {gap:.2g} nats per token from those in {recorded.path}.",
            f"serve that checkpoint: start vLLM with --model {path}, or as the documentation's page engines says for an adapter.",
        )
    if len(gaps) < least:
        raise GtrTurboError(
            f"{recorded.path} proves nothing of {who}: {len(gaps)} of {len(found)} tokens can be compared, {least} are needed; "
            "of the others it tells no log-prob, or it reads what is before them otherwise.",
            f"play more, or at a lower temperature: gtrturbo rollout --checkpoint {path} --temperature 1 …; "
            "or leave --probe-turns out.",
        )
    below = np.array([look.below_best(ask) for look in looks] if temperature == 0 else [], np.float32)
    if len(below):
        require_ties(below, limits, who)
    found_drawn = _drawn([look.told for look in looks])
    if found_drawn:
        require_drawn(found_drawn, f"the tokens of {who}", temperatures=[recorded.temperature], tokens=len(looks))
    return Proof(gaps, limits, {}, left_out=len(found) - len(gaps), below_best=below, drawn=found_drawn)


def _drawn(told: Sequence[Likely]) -> Drawn | None:
    """Say how the tokens that were sampled compare with samples, by the likeliest tokens and all others as one; None where it is
    not told of each which it was."""
    rows, ids = [], []
    for each in told:
        if each.sampled is None:
            return None
        # One less than are told: which of them is the last hangs on what was sampled.
        likeliest = dict(sorted(each.logprobs.items(), key=lambda entry: -entry[1])[: LIKELIEST - 1])
        rest = math.log(max(1 - math.fsum(map(math.exp, likeliest.values())), ROUNDED))
        rows.append([*likeliest.values(), rest])
        ids.append([*likeliest, each.sampled].index(each.sampled))
    logprobs, own = torch.tensor(rows), torch.tensor(ids)
    [read] = draws_reader(own)(logprobs, slice(0, len(own)))
    return drawn(read, logprobs.gather(-1, own[:, None])[:, 0])


def _require_tempered(recorded: Recorded, ask: Callable[..., Likely], temperature: float, limits: Limits, who: str) -> None:
    """Refuse log-probs that do not change with the temperature as those of what is sampled do.

    Of two tokens, (p_i − p_j) at one temperature is that at another times the second over the first.
    """
    here = recorded.temperature
    other = temperature if temperature != here else TEMPERATURE
    if other == here:
        return  # At 1 the log-probs before temperature are those after it.
    reply = recorded.replies[0]
    question = {"messages": reply.messages, "pictures": reply.pictures, "begun": False, "seed": 0}
    one, two = (ask(**question, temperature=at).logprobs for at in (here, other))
    both = sorted(one.keys() & two.keys())
    first, second = (np.array([told[each] for each in both]) - max(told[each] for each in both) for told in (one, two))
    right, raw = float(np.abs(second - first * here / other).mean()), float(np.abs(second - first).mean())
    if right > limits.refuses and raw < CLOSER * right:
        raise GtrTurboError(
            f"{who} returns log-probs before temperature: they are the same at {here:g} and {other:g}.",
            f"start it with {PROCESSED}.",
        )


@dataclass(frozen=True)
class _PlaceAsked:
    """A place of a reply that is looked at: what is asked there, what a server told at a temperature, and |p − s| of the recorded
    token, in nats; None where it tells nothing."""

    question: dict[str, Any]
    temperature: float
    told: Likely
    gap: float | None

    def below_best(self, ask: Callable[..., Likely]) -> float:
        """Say by how much what is played at temperature 0 is less likely than the likeliest, in nats of the model itself."""
        played = ask(**self.question, temperature=0.0).sampled
        logprobs = self.told.logprobs
        likely = self.told.least if played is None else logprobs.get(played, self.told.least)
        return (max(logprobs.values()) - likely) * self.temperature


def _looks(
    reply: RecordedReply,
    temperature: float,
    ask: Callable[..., Likely],
    same: Callable[..., bool],
    places: int,
    seed_of: Callable[[int], int],
) -> Iterator[_PlaceAsked]:
    """Look at places that are spread evenly over a reply."""
    for place in np.unique(np.linspace(0, len(reply.ids) - 1, places).astype(int)):
        begun = reply.text[: reply.ends[place - 1]] if place else ""
        if place and not begun:  # A message without content is none.
            continue
        messages = [*reply.messages, said(begun)] if place else reply.messages
        question = {"messages": messages, "pictures": reply.pictures, "begun": bool(place), "seed": seed_of(int(place))}
        told = ask(**question, temperature=temperature)
        is_read = same(np.concatenate([reply.prompt.ids, reply.ids[:place]]), told.read_ids)
        gap = _gap(told, int(reply.ids[place]), float(reply.logprobs[place])) if is_read else None
        yield _PlaceAsked(question, temperature, told, gap)


def _gap(told: Likely, identity: int, recorded: float) -> float | None:
    likely = told.logprobs.get(identity)
    if likely is not None:
        return abs(recorded - likely)
    # It is no likelier than the least of those that are told: that is something only where it was.
    return max(0.0, recorded - told.least) or None
