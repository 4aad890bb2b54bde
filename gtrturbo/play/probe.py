"""Prove that what answers is the checkpoint that was asked for: its log-probs of a few replies against our own of these tokens.

A server gives no other sign of what it serves: another checkpoint, an adapter without its visual half and log-probs before
temperature all look like replies. So a few states are asked about before the first episode, the tokens that come back are scored
by the checkpoint here, and where the two differ they are compared with what a wrong set-up would have said.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from gtrturbo.algorithms.repeats import Repeats
from gtrturbo.algorithms.sampled import Drawn, drawn, draws_reader
from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import adapter_layers, switched_off
from gtrturbo.models.policy import Policy, ScoredBatch
from gtrturbo.models.renderer import Prompt
from gtrturbo.play.draws import require_drawn
from gtrturbo.play.limits import NARROW, Limits, limits_of

STATES = 4
REPLY_TOKENS = 64  # tokens of a reply
TEMPERATURE = 1.0  # Of the model itself; what is to be trained on is asked for at its own temperature too.
# Another set-up explains what a server says if it comes closer than this share of the distance, and within the limits.
CLOSER = 0.5
TOWER_FLAG, ADAPTER_FLAG, PROCESSED = "--enable-tower-connector-lora", "--enable-lora", "--logprobs-mode processed_logprobs"


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
        below_best: by how much the tokens of greedy replies are less likely than the likeliest, in nats. [G]
        drawn: how the others compare with samples, at the temperature at which they do least; None where nothing tells.
        repeats: how replies to one prompt compare with independent ones; None where none were sampled.
        raw: the log-probs are those before temperature.
    """

    gaps: np.ndarray
    limits: Limits
    changes: dict[str, float]
    left_out: int | None = None
    below_best: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    drawn: Drawn | None = None
    repeats: Repeats | None = None
    raw: bool = False

    def metrics(self) -> dict[str, float]:
        """Return what the manifest says of it."""
        told = {
            "probe_tokens": len(self.gaps),
            "probe_gap_mean": float(self.gaps.mean()),
            "probe_gap_max": float(self.gaps.max()),
        }
        if self.left_out is not None:
            told["probe_tokens_left_out"] = self.left_out
        if len(self.below_best):
            told |= {"probe_greedy_tokens": len(self.below_best), "probe_greedy_gap_max": float(self.below_best.max())}
        if self.drawn:
            told |= {"probe_sampling_z": self.drawn.z, "probe_sampling_evidence": self.drawn.evidence}
        if self.repeats:
            told["probe_repeats_evidence"] = self.repeats.evidence
        return told | self.limits.told("probe") | {f"probe_{part}_changes": value for part, value in self.changes.items()}


def together(proofs: Sequence[Proof]) -> Proof:
    """Put the proofs of several servers of one checkpoint together; what its parts change is the same of each."""
    left_out = [proof.left_out for proof in proofs if proof.left_out is not None]
    return replace(
        proofs[0],
        gaps=np.concatenate([proof.gaps for proof in proofs]),
        left_out=sum(left_out) if left_out else None,
        below_best=np.concatenate([proof.below_best for proof in proofs]),
        drawn=max((proof.drawn for proof in proofs if proof.drawn), key=lambda drawn: drawn.evidence, default=None),
        repeats=max((proof.repeats for proof in proofs if proof.repeats), key=lambda repeats: repeats.evidence, default=None),
    )


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
    passes = _passes(policy, replies, reading=True)
    own, raw = _logprobs(passes), _scored(policy, replies, raw=True)
    given = np.concatenate([reply.logprobs for reply in replies])
    is_raw = not exact and _mean(raw, given) < _mean(own, given)
    proof = _compared(policy, replies, raw if is_raw else own, raw if exact else None, who=who, path=path)
    return replace(proof, drawn=_require_drawn(replies, passes, who=who, tells_own=not is_raw), raw=is_raw)


def _compared(
    policy: Policy, replies: Sequence[Replied], own: np.ndarray, raw: np.ndarray | None, *, who: str, path: Path
) -> Proof:
    """Hold the log-probs that came against our own, [M], and those before temperature, where they would be wrong."""
    given = np.concatenate([reply.logprobs for reply in replies])
    parts = {name: _scored(policy, replies, off=name) for name in _parts(policy)}
    limits = limits_of(policy.model.dtype)
    proof = Proof(np.abs(own - given), limits, {name: _mean(own, values) for name, values in parts.items()})
    gap = float(proof.gaps.mean())
    if gap <= limits.warns:
        return proof
    for wrong in _wrongs(parts, raw, path):
        if _mean(wrong.logprobs, given) < min(CLOSER * gap, limits.refuses):
            raise GtrTurboError(f"{who} {wrong.what} ({told_gap(gap)} from those of {path}).", wrong.mend)
    if gap > limits.refuses:
        raise GtrTurboError(
            f"{who} does not serve {path}: its log-probs are {told_gap(gap)} from the checkpoint's.",
            _mend(path, gap, limits, is_adapter="adapter" in parts),
        )
    stderr.print(f"the log-probs of {who} are {told_gap(gap)} from those of {path}; right ones are within {limits.warns:g}.")
    return proof


def _require_drawn(replies: Sequence[Replied], passes: Sequence[ScoredBatch], *, who: str, tells_own: bool) -> Drawn:
    """Refuse replies that are not sampled at their temperature, at one or at all together; return how they compare at worst."""
    temperatures = sorted({reply.temperature for reply in replies})
    found = []
    for some in [[each] for each in temperatures] + [temperatures]:
        rows = [(reply, each) for reply, each in zip(replies, passes, strict=True) if reply.temperature in some]
        read, logprobs = (torch.cat(column).cpu() for column in zip(*((e.read[0], e.logprobs[0]) for _, e in rows), strict=True))
        told = torch.from_numpy(np.concatenate([reply.logprobs for reply, _ in rows])) if tells_own else None
        found.append(drawn(read, logprobs, told))
        require_drawn(found[-1], f"the replies of {who}", temperatures=some, tokens=len(read))
    return max(found, key=lambda each: each.evidence)


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


def _mend(path: Path, gap: float, limits: Limits, *, is_adapter: bool) -> str:
    again = f"serve that checkpoint: start vLLM with --model {path}"
    if is_adapter:
        again = f"start the server anew, so that it loads the adapter {path} from there: what it holds under that name is another"
    if limits == NARROW or gap > NARROW.refuses:
        return again
    way = ", and with --dtype float32" if is_adapter else " --dtype float32"
    return f"{again}{way}; or, if it is to compute in bfloat16, add --dtype bfloat16 here."


def told_gap(gap: float) -> str:
    return f"{gap:.2g} nats per token"


def _mean(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _parts(policy: Policy) -> list[str]:
    family = policy.renderer.family
    visual, all_of_it = (adapter_layers(policy.model, family, visual=each) for each in (True, False))
    return (["visual"] if visual and len(visual) < len(all_of_it) else []) + (["adapter"] if all_of_it else [])


def _scored(policy: Policy, replies: Sequence[Replied], *, raw: bool = False, off: str = "") -> np.ndarray:
    return _logprobs(_passes(policy, replies, raw=raw, off=off))


def _logprobs(passes: Sequence[ScoredBatch]) -> np.ndarray:
    """Put the log-probs of replies together. [M] float32"""
    return np.concatenate([each.logprobs[0].cpu().numpy() for each in passes])


@torch.no_grad()
def _passes(
    policy: Policy, replies: Sequence[Replied], *, raw: bool = False, off: str = "", reading: bool = False
) -> list[ScoredBatch]:
    """Score replies one by one, so that no memory is needed but for one, and read off whether they were sampled."""
    layers = adapter_layers(policy.model, policy.renderer.family, visual=off == "visual") if off else []
    with switched_off(layers), _all_allowed(policy) if raw else switched_off([]):
        return [
            policy.score(
                [reply.prompt],
                [reply.response_ids],
                temperature=1.0 if raw else reply.temperature,
                values=False,
                read=draws_reader(torch.from_numpy(reply.response_ids)) if reading else None,
            )
            for reply in replies
        ]


@contextmanager
def _all_allowed(policy: Policy) -> Iterator[None]:
    """Let no token be excluded from the softmax."""
    kept = policy.scorer.forbidden
    policy.scorer.forbidden = kept[:0]
    try:
        yield
    finally:
        policy.scorer.forbidden = kept
