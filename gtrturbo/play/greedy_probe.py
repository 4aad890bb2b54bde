"""Prove by its greedy replies that a server takes the tokens that the checkpoint finds likeliest, and serves that checkpoint.

A server, or what stands before it, that plays at another temperature than 0 where it is asked for that gives other tokens; what
log-probs it tells of them need not show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt
from gtrturbo.play.limits import Limits, limits_of
from gtrturbo.play.probe import TEMPERATURE, Proof, Replied, told_gap

# A server that tells no log-probs tells no type either: its greedy replies are the likeliest up to this many nats per token, and
# none of their tokens is less likely than the likeliest by more than rounding in a narrow type makes it.
ANY_TYPE = Limits(warns=0.01, refuses=0.1, tie=1.0)


@dataclass(frozen=True)
class GreedyReply:
    """The text of a greedy reply, and whether the model ended it, as far as the server says so."""

    prompt: Prompt
    text: str
    ended: bool


def require_greedy(policy: Policy, replies: Sequence[Replied], *, who: str) -> np.ndarray:
    """Refuse replies at temperature 0 of which a token is not the one that the checkpoint finds likeliest.

    Args:
        policy: the checkpoint, here.
        replies: what came back, with its tokens.
        who: answered, as an error says it.

    Returns: by how much each token is less likely than the likeliest, in nats. [G]

    Raises:
        GtrTurboError: by more than ties in the rounding of the weights' type can be.
    """
    found = np.concatenate([_below_best(policy, reply.prompt, reply.response_ids) for reply in replies])
    require_ties(found, limits_of(policy.model.dtype), who)
    return found


def require_ties(found: np.ndarray, limits: Limits, who: str) -> None:
    """Refuse what was played at temperature 0, by how much each token is less likely than the likeliest, in nats. [G]

    Raises:
        GtrTurboError: by more than ties in the rounding of the weights' type can be.
    """
    refused = f"{who} does not play at temperature 0 where it is asked to: its replies are"
    mend = "see that nothing before it leaves out or raises the temperature, or play at one that it keeps: --temperature 1."
    _judge(found, limits, f"the greedy replies of {who}", refused, mend)


def require_likeliest(policy: Policy, replies: Sequence[GreedyReply], *, max_new_tokens: int, who: str, path: Path) -> Proof:
    """Refuse the text of greedy replies of which the checkpoint gives none itself, nor finds the most likely, token by token.

    Args:
        policy: the checkpoint, here.
        replies: what came back at temperature 0.
        max_new_tokens: up to which it was asked for.
        who, path: see `probe.prove`.

    Raises:
        GtrTurboError: they are another model's, or too little to tell: empty, or cut off before they differ.
    """
    gaps = [_text_below_best(policy, said, max_new_tokens) for said in replies]
    if not any(map(len, gaps)):
        raise GtrTurboError(
            f"{who} answers {', '.join(sorted({repr(said.text) for said in replies}))}, which is empty or cut off: "
            f"nothing of it tells whether it serves {path}.",
            f"see that it answers with whole replies, of up to {max_new_tokens} tokens.",
        )
    found = np.concatenate(gaps)
    _judge(
        found,
        ANY_TYPE,
        f"the greedy replies of {who}",
        f"{who} does not serve {path}, or not at temperature 0: its greedy replies are",
        f"serve that checkpoint, {path}, and let nothing before it leave out or raise the temperature; or add --no-probe.",
    )
    return Proof(found, ANY_TYPE, {})


def _judge(found: np.ndarray, limits: Limits, whose: str, refused: str, mend: str) -> None:
    """Hold the mean of what tokens are below the likeliest, and the largest, against limits."""
    gap, most = float(found.mean()), float(found.max())
    said = f"{told_gap(gap)} less likely than the checkpoint's own, one of them {most:.2g} nats"
    if gap > limits.refuses or most > limits.tie:
        raise GtrTurboError(f"{refused} {said}.", mend)
    if gap > limits.warns:
        stderr.print(f"{whose} are {said}; right ones are within {limits.warns:g} in the mean.")


def _text_below_best(policy: Policy, said: GreedyReply, max_new_tokens: int) -> np.ndarray:
    """Say by how much less likely than the likeliest the tokens of a text are, in nats; of one that proves nothing, of none."""
    with torch.no_grad():
        [own] = policy.generate([said.prompt], None, temperature=TEMPERATURE, max_new_tokens=max_new_tokens)
    text, whole = said.text.strip(), policy.renderer.decode(own.response_ids.tolist())[0].strip()
    if text == whole:
        return np.zeros(1 if text else 0, np.float32)  # The text alone need not tell the tokens that it was written with.
    begins = whole.startswith(text)
    if begins and not said.ended:
        return np.zeros(0, np.float32)
    ids = policy.renderer.response_ids(said.text)[0]
    # What begins as it should ends where it should not.
    return _below_best(policy, said.prompt, np.array(ids if begins else ids[:-1], np.int32))


@torch.no_grad()
def _below_best(policy: Policy, prompt: Prompt, ids: np.ndarray) -> np.ndarray:
    """Say by how much less likely than the likeliest each token of a reply is, in nats. [R]"""
    scored = policy.score([prompt], [ids], temperature=TEMPERATURE, values=False, read=_best)
    return (scored.read[0].cpu() - scored.logprobs[0].cpu()).numpy()


def _best(logits: Tensor, _: slice) -> tuple[Tensor, ...]:
    return (logits.amax(-1) - logits.logsumexp(-1),)
