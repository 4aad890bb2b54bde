"""What must hold of turns, their tokens, scores and demos, whoever wrote them: one validator for all that reads them.

Each function yields what is wrong, in words, first things first; of what is right it yields nothing.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gtrturbo.config.chat_messages import message_faults
from gtrturbo.store.records import Demo, Turn
from gtrturbo.store.tensors import TopLogprobs, TurnTokens

ROUNDING = 1e-3  # nats. A log-prob near 0 is the difference of two numbers as large as logits, in what precision they have.
SUM_ERROR = 1e-9  # Of a reward to the sum of its terms, relative to the larger of it and 1.


def turn_faults(turns: Sequence[Turn]) -> Iterator[str]:
    """Say what is wrong with the turns of whole episodes: each by itself, their order, and where episodes end."""
    if not turns:
        yield "there are no turns"
    for row, turn in enumerate(turns):
        where = f"row {row} (episode {turn.episode}, turn {turn.turn})"
        yield from (f"{where}: {fault}" for fault in _of_one(turn))
        before = turns[row - 1] if row else None
        yield from (f"{where}: {fault}" for fault in _of_order(before, turn))
    if turns and not turns[-1].last:
        yield f"row {len(turns) - 1}: episode {turns[-1].episode} does not end"


def _of_one(turn: Turn) -> Iterator[str]:
    yield from message_faults(turn.messages, len(turn.images), replied=True)
    if turn.successor:
        yield from message_faults(turn.successor.messages, len(turn.successor.images), replied=False)
    if min(turn.episode, turn.turn, turn.seed) < 0:
        yield "episode, turn and seed are counted from 0"
    if turn.terminated and turn.truncated:
        yield "it is terminated and truncated"
    if turn.successor and not turn.truncated:
        yield "it has a successor, and is not truncated"
    if turn.legal != (turn.action is not None):
        yield "it is legal without an action, or has one and is not"
    if turn.legal and turn.executed != turn.action:
        yield f"its action is {turn.action!r}, and {turn.executed!r} was executed"
    if turn.perception_correct is not None and not turn.legal:
        yield "its reply did not parse, and says what the picture shows"
    total = math.fsum(turn.reward_terms.values())
    if turn.reward_terms and abs(turn.reward - total) > SUM_ERROR * max(1.0, abs(turn.reward)):
        yield f"its reward is {turn.reward}, and its terms sum to {total}"


def _of_order(before: Turn | None, turn: Turn) -> Iterator[str]:
    if before is None or turn.episode != before.episode:
        if turn.turn:
            yield f"its episode begins with turn {turn.turn}"
        if before and turn.episode < before.episode:
            yield f"it stands behind episode {before.episode}"
        if before and not before.last:
            yield f"episode {before.episode} before it does not end"
        return
    if turn.turn != before.turn + 1:
        yield f"it follows turn {before.turn} of the same episode"
    if before.last:
        yield "its episode ended before it"
    if (turn.seed, turn.group) != (before.seed, before.group):
        yield "its seed or group is not that of its episode"


def token_faults(turns: Sequence[Turn], tokens: TurnTokens) -> Iterator[str]:
    """Say what is wrong with the tokens of turns: how many, where they stand in the reply, which are thought, their log-probs."""
    if not len(turns) == len(tokens.prompt_ids) == len(tokens.response_ids):
        yield f"there are {len(turns)} turns and tokens of {len(tokens.response_ids)} replies"
        return
    for row, turn in enumerate(turns):
        yield from (f"row {row} (episode {turn.episode}, turn {turn.turn}): {fault}" for fault in _of_tokens(row, turn, tokens))


def _of_tokens(row: int, turn: Turn, tokens: TurnTokens) -> Iterator[str]:
    prompt, ids, spans = tokens.prompt_ids[row], tokens.response_ids[row], tokens.response_spans[row]
    thought, action, logprobs = tokens.thought_mask[row], tokens.action_mask[row], tokens.sample_logprobs[row]
    if not len(ids) or not len(prompt):
        yield "its prompt or its reply has no tokens"
        return
    if not len(ids) == len(spans) == len(thought) == len(action) == len(logprobs):
        yield "its token ids, offsets, masks and log-probs are not of one length"
        return
    yield from reply_faults(prompt, ids, spans, logprobs, turn.reply)
    if (thought == action).any():
        yield "a token is thought and action, or neither"
    if not turn.legal and action.any():
        yield "its reply did not parse, and has tokens of an action"
    if turn.legal and not action.any():
        yield "its reply has an action, and no token of it"


def reply_faults(prompt: np.ndarray, ids: np.ndarray, spans: np.ndarray, logprobs: np.ndarray, reply: str) -> Iterator[str]:
    """Say what is wrong with the tokens of one prompt [P] and its reply, one at least: ids [R], offsets [R, 2], log-probs [R]."""
    if min(prompt.min(), ids.min()) < 0:
        yield "a token id is negative"
    ends = np.concatenate([[0], spans[:, 1]])
    if (spans[:, 0] > spans[:, 1]).any() or (spans[:, 0] < ends[:-1]).any() or ends[-1] > len(reply):
        yield "the offsets of its tokens run backwards, or out of the reply"
    yield from logprob_faults(logprobs)


def logprob_faults(logprobs: np.ndarray) -> Iterator[str]:
    """Say which numbers are no log-probabilities, in nats."""
    wrong = logprobs[~(np.isfinite(logprobs) & (logprobs <= ROUNDING))]
    if len(wrong):
        yield f"{wrong[0]:g} is no log-probability"


def score_faults(lengths: Sequence[int], logprobs: Sequence[np.ndarray], top: TopLogprobs | None) -> Iterator[str]:
    """Say what is wrong with a teacher's scores of replies that have so many tokens each."""
    if [len(row) for row in logprobs] != list(lengths):
        yield "they are of other tokens than those of the turns"
        return
    for row, teacher in enumerate(logprobs):
        yield from (f"row {row}: {fault}" for fault in logprob_faults(teacher))
        if top:
            yield from (f"row {row}: {fault}" for fault in _of_top(top.ids[row], top.logprobs[row], top.rest[row]))


def _of_top(ids: np.ndarray, logprobs: np.ndarray, rest: np.ndarray) -> Iterator[str]:
    """Say what is wrong with likeliest tokens: different ones, the likeliest first, and with the rest no more than certainty."""
    if ids.size and ids.min() < 0:
        yield "one of the likeliest tokens is negative"
    if (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        yield "one of the likeliest tokens stands twice"
    if not (np.isfinite(logprobs) & (logprobs <= ROUNDING)).all() or np.isnan(rest).any() or (rest > ROUNDING).any():
        yield "log-probs of the likeliest tokens are none"
    elif (np.diff(logprobs, axis=1) > ROUNDING).any():
        yield "the likeliest tokens are not in order"
    elif (np.exp(logprobs.astype(np.float64)).sum(axis=1) + np.exp(rest.astype(np.float64)) > 1 + 10 * ROUNDING).any():
        yield "the likeliest tokens are more than certain together"


def demo_faults(demos: Sequence[Demo]) -> Iterator[str]:
    """Say what is wrong with demos: their messages, pictures, and the places of what carries no loss."""
    for row, demo in enumerate(demos):
        for fault in message_faults(demo.messages, len(demo.images), replied=True):
            yield f"row {row}: {fault}"
            return
        ends = [0, *itertools.chain.from_iterable(demo.masked_spans), len(demo.messages[-1]["content"][0]["text"])]
        if ends != sorted(ends):
            yield f"row {row}: its masked spans run backwards, or out of the reply"
