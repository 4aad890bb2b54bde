"""Prove that what answers is the checkpoint that was asked for: its log-probs of a few replies against our own of these tokens.

A server gives no other sign of what it serves: another checkpoint, an adapter without its visual half and log-probs before
temperature all look like replies. So a few states are asked about before the first episode, the tokens that come back are scored
by the checkpoint here, and where the two differ they are compared with what a wrong set-up would have said.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import adapter_layers, switched_off
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.play.limits import NARROW, Limits, limits_of

STATES = 4
REPLY_TOKENS = 64  # tokens of a reply
TEMPERATURE = 1.0  # Of the model itself; what is to be trained on is asked for at its own temperature too.
# Another set-up explains what a server says if it comes closer than this share of the distance, and within the limits.
CLOSER = 0.5
TOWER_FLAG, ADAPTER_FLAG, PROCESSED = "--enable-tower-connector-lora", "--enable-lora", "--logprobs-mode processed_logprobs"
# A reply of a server that tells no log-probs is the most likely one, up to this many nats per token.
UNLIKELY = 0.1


@dataclass(frozen=True)
class Replied:
    """A reply to be judged: ids [R], at which temperature they were sampled, and the log-probs that came with them [R]."""

    prompt: Prompt
    response_ids: np.ndarray
    temperature: float
    logprobs: np.ndarray


@dataclass(frozen=True)
class Proof:
    """What a probe found.

    Attributes:
        gaps: |p − s| of each token, in nats. [M]
        limits: that their mean was held against.
        changes: by part of an adapter, how much that part changes these log-probs here: what the probe could have told.
        left_out: recorded tokens that could not be compared; None where none were recorded.
    """

    gaps: np.ndarray
    limits: Limits
    changes: dict[str, float]
    left_out: int | None = None

    def metrics(self) -> dict[str, float]:
        """Return what the manifest says of it."""
        told = {
            "probe_tokens": len(self.gaps),
            "probe_gap_mean": float(self.gaps.mean()),
            "probe_gap_max": float(self.gaps.max()),
        }
        if self.left_out is not None:
            told["probe_tokens_left_out"] = self.left_out
        return told | self.limits.told("probe") | {f"probe_{part}_changes": value for part, value in self.changes.items()}


@dataclass(frozen=True)
class _Wrong:
    """A wrong set-up: the log-probs that it gives, what it is, and what mends it."""

    logprobs: np.ndarray
    what: str
    mend: str


def prove(policy: Policy, replies: Sequence[Replied], *, who: str, path: Path, exact: bool) -> Proof:
    """Compare the log-probs of replies with those of the checkpoint.

    Args:
        policy: the checkpoint, here.
        replies: what came back.
        who: answered, as an error says it.
        path: of the checkpoint.
        exact: the log-probs are to be those of the distribution that was sampled from; else those before temperature do as well.

    Raises:
        GtrTurboError: they are another model's, or another distribution's; names what mends it.
    """
    given = np.concatenate([reply.logprobs for reply in replies])
    own, raw = _scored(policy, replies), _scored(policy, replies, raw=True)
    if not exact and _mean(raw, given) < _mean(own, given):
        own = raw
    parts = {name: _scored(policy, replies, off=name) for name in _parts(policy)}
    limits = limits_of(policy.model.dtype)
    proof = Proof(np.abs(own - given), limits, {name: _mean(own, values) for name, values in parts.items()})
    gap = float(proof.gaps.mean())
    if gap <= limits.warns:
        return proof
    for wrong in _wrongs(parts, raw if exact else None, path):
        if _mean(wrong.logprobs, given) < min(CLOSER * gap, limits.refuses):
            raise GtrTurboError(f"{who} {wrong.what} ({_told(gap)} from those of {path}).", wrong.mend)
    if gap > limits.refuses:
        raise GtrTurboError(
            f"{who} does not serve {path}: its log-probs are {_told(gap)} from the checkpoint's.", _mend(path, gap, limits)
        )
    stderr.print(f"the log-probs of {who} are {_told(gap)} from those of {path}; right ones are within {limits.warns:g}.")
    return proof


def _wrongs(parts: dict[str, np.ndarray], raw: np.ndarray | None, path: Path) -> Iterator[_Wrong]:
    if raw is not None:
        yield _Wrong(raw, "returns log-probs before temperature", f"start it with {PROCESSED}.")
    if "visual" in parts:
        said = "leaves out the part of the adapter that is on the vision tower or its connector"
        yield _Wrong(parts["visual"], said, f"start it with {TOWER_FLAG}.")
    if "adapter" in parts:
        yield _Wrong(
            parts["adapter"], "plays the model without the adapter", f"start it with {ADAPTER_FLAG}; the adapter is {path}."
        )


def _mend(path: Path, gap: float, limits: Limits) -> str:
    again = f"serve that checkpoint: start vLLM with --model {path}"
    if limits == NARROW or gap > NARROW.refuses:
        return again
    return f"{again} --dtype float32; or, if it is to compute in bfloat16, add --dtype bfloat16 here."


def _told(gap: float) -> str:
    return f"{gap:.2g} nats per token"


def _mean(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _parts(policy: Policy) -> list[str]:
    family = policy.renderer.family
    visual, all_of_it = (adapter_layers(policy.model, family, visual=each) for each in (True, False))
    return (["visual"] if visual and len(visual) < len(all_of_it) else []) + (["adapter"] if all_of_it else [])


@torch.no_grad()
def _scored(policy: Policy, replies: Sequence[Replied], *, raw: bool = False, off: str = "") -> np.ndarray:
    """Score replies one by one, so that no memory is needed but for one. [M] float32"""
    layers = adapter_layers(policy.model, policy.renderer.family, visual=off == "visual") if off else []
    with switched_off(layers), _all_allowed(policy) if raw else switched_off([]):
        rows = [
            policy.score([reply.prompt], [reply.response_ids], temperature=1.0 if raw else reply.temperature, values=False)
            for reply in replies
        ]
    return np.concatenate([row.logprobs[0].cpu().numpy() for row in rows])


@contextmanager
def _all_allowed(policy: Policy) -> Iterator[None]:
    """Let no token be excluded from the softmax."""
    kept = policy.scorer.forbidden
    policy.scorer.forbidden = kept[:0]
    try:
        yield
    finally:
        policy.scorer.forbidden = kept


@dataclass(frozen=True)
class GreedyReply:
    """The text of a greedy reply, and whether the model ended it, as far as the server says so."""

    prompt: Prompt
    text: str
    ended: bool


@torch.no_grad()
def require_likeliest(policy: Policy, replies: Sequence[GreedyReply], *, max_new_tokens: int, who: str, path: Path) -> Proof:
    """Refuse the text of greedy replies of which the checkpoint gives none itself, nor finds the most likely, token by token.

    Args:
        policy: the checkpoint, here.
        replies: what came back at temperature 0.
        max_new_tokens: up to which it was asked for.
        who, path: see `prove`.

    Raises:
        GtrTurboError: they are another model's, or too little to tell: empty, or cut off before they differ.
    """
    gaps = [_below_best(policy, said, max_new_tokens) for said in replies]
    if not any(map(len, gaps)):
        raise GtrTurboError(
            f"{who} answers {', '.join(sorted({repr(said.text) for said in replies}))}, which is empty or cut off: "
            f"nothing of it tells whether it serves {path}.",
            f"see that it answers with whole replies, of up to {max_new_tokens} tokens.",
        )
    found = np.concatenate(gaps)
    limits = Limits(warns=UNLIKELY / 10, refuses=UNLIKELY)
    gap = float(found.mean())
    if gap > limits.refuses:
        raise GtrTurboError(
            f"{who} does not serve {path}: its greedy replies are {_told(gap)} less likely than the checkpoint's own.",
            f"serve that checkpoint, {path}; or add --no-probe.",
        )
    return Proof(found, limits, {})


def _below_best(policy: Policy, said: GreedyReply, max_new_tokens: int) -> np.ndarray:
    """Say by how much less likely than the likeliest the tokens of a reply are, in nats; of one that proves nothing, of none."""
    [own] = policy.generate([said.prompt], None, temperature=TEMPERATURE, max_new_tokens=max_new_tokens)
    text, whole = said.text.strip(), policy.renderer.decode(own.response_ids.tolist())[0].strip()
    if text == whole:
        return np.zeros(1 if text else 0, np.float32)  # The text alone need not tell the tokens that it was written with.
    begins = whole.startswith(text)
    if begins and not said.ended:
        return np.zeros(0, np.float32)
    ids = policy.renderer.response_ids(said.text)[0]
    ids = np.array(ids if begins else ids[:-1], np.int32)  # What begins as it should ends where it should not.
    scored = policy.score([said.prompt], [ids], temperature=TEMPERATURE, values=False, read=_best)
    return (scored.read[0].cpu() - scored.logprobs[0].cpu()).numpy()


def _best(logits: Tensor, _: slice) -> tuple[Tensor, ...]:
    return (logits.amax(-1) - logits.logsumexp(-1),)
