"""Numbers that a person reads first: success with its interval, return, length, illegal replies, and what thoughts are like."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.analysis.diversity import self_bleu
from gtrturbo.store.records import Turn, mean

OBJECT = re.compile(r"\s*(?:```(?:json)?\s*)?(\{.*\})\s*(?:```\s*)?", re.DOTALL)
COMPARED_THOUGHTS = 32


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n),   p = successes / trials

    Raises: ValueError: no trials.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, n = successes / trials, trials
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def by_episode(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Group turns, sorted by (episode, turn), into episodes."""
    return [list(group) for _, group in itertools.groupby(turns, key=lambda turn: turn.episode)]


def summarize(turns: Sequence[Turn], *, knows_truth: bool, own_parser: bool) -> dict[str, float]:
    """Summarise whole episodes.

    Args:
        turns: of whole episodes, at least one.
        knows_truth: the task knows what its pictures show.
        own_parser: the task reads replies itself, so that they need not be JSON.

    success_rate: share of episodes won, with Wilson's 95 % interval success_low, success_high.
    positive_return_rate: share with return > 0, which is what the papers of this line report as success.
    return_mean: undiscounted return of the environment's rewards. length_mean: turns per episode.
    illegal_rate: share of replies that do not parse. invalid_rate: share that is not even one JSON object; left
        out where replies need be none: the task has a parser of its own, and reads others, or none of these.
    thought_accuracy: share of turns whose reply states what the picture shows; a reply that does not parse states
        nothing. Left out where the task knows no truth.
    thought_length: characters of the thoughts; left out, as the next, where replies have none.
    self_bleu: of the thoughts on up to 32 different inputs (picture and prompt), evenly spaced in the order in which they came
        up; see `diversity.self_bleu`. High where thoughts are one template whatever the picture shows.
    """
    episodes = by_episode(turns)
    won = sum(episode[-1].won for episode in episodes)
    low, high = wilson(won, len(episodes))
    returns = [undiscounted(turn.reward for turn in episode) for episode in episodes]
    return (
        {
            "episodes": len(episodes),
            "turns": len(turns),
            "success_rate": won / len(episodes),
            "success_low": low,
            "success_high": high,
            "positive_return_rate": mean(total > 0 for total in returns),
            "return_mean": mean(returns),
            "length_mean": len(turns) / len(episodes),
            "illegal_rate": mean(not turn.legal for turn in turns),
        }
        | ({"thought_accuracy": mean(bool(turn.perception_correct) for turn in turns)} if knows_truth else {})
        | _thoughts(turns, own_parser=own_parser)
    )


def success_by_kind(turns: Sequence[Turn], kind: Callable[[dict[str, Any]], str] | None) -> dict[str, float]:
    """Tell success apart for each kind of episode: success_rate_KIND of episodes_KIND episodes.

    Args:
        kind: tells it of what is known of an episode's state, see `Task.kind`; without it nothing is told.
    """
    if kind is None:
        return {}
    won: dict[str, list[bool]] = {}
    for episode in by_episode(turns):
        won.setdefault(kind(episode[0].info), []).append(episode[-1].won)
    rates = {f"success_rate_{name}": mean(found) for name, found in sorted(won.items())}
    return rates | {f"episodes_{name}": float(len(found)) for name, found in sorted(won.items())}


def _thoughts(turns: Sequence[Turn], *, own_parser: bool) -> dict[str, float]:
    """Measure what can be read off the text of the replies alone."""
    objects = [read_object(turn.reply) for turn in turns]
    thoughts = [each["thoughts"] for each in objects if each and isinstance(each.get("thoughts"), str)]
    found: dict[str, float] = {}
    legal = [each for each, turn in zip(objects, turns, strict=True) if turn.legal]
    if None not in legal and (legal or not own_parser):
        found["invalid_rate"] = mean(each is None for each in objects)
    if thoughts:
        found["thought_length"] = mean(map(len, thoughts))
    rows = different_inputs(turns, COMPARED_THOUGHTS)
    compared = [each["thoughts"] for each in (objects[row] for row in rows) if each and isinstance(each.get("thoughts"), str)]
    alike = self_bleu(compared)
    return found if alike is None else found | {"self_bleu": alike}


def read_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a reply is, in a code fence or not; None if it is none, whatever its fields."""
    match = OBJECT.fullmatch(text)
    if match is None:
        return None
    try:
        return json.loads(match[1])
    except (ValueError, RecursionError):
        return None


def different_inputs(turns: Sequence[Turn], most: int) -> list[int]:
    """Choose up to `most` rows of legal turns with different inputs (picture and prompt), evenly spaced, the same every time."""
    first: dict[tuple[Any, ...], int] = {}
    for row, turn in enumerate(turns):
        if turn.legal:
            first.setdefault((*turn.images, json.dumps(turn.messages[:-1], sort_keys=True)), row)
    rows = list(first.values())
    count = min(most, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def sampled_entropy(sample_logprobs: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float | None:
    """Estimate the policy's entropy per token from its own samples: −mean log p of the sampled tokens, in nats.

    Unbiased for the distribution that was sampled from. Where the most likely token is taken (temperature 0) it is no entropy
    but how far from certain the policy was of what it said.

    Args:
        sample_logprobs: log p of each token of each reply, in nats. N × [R]
        masks: which tokens count. N × [R] bool

    Returns: None where no token counts.
    """
    chosen = np.concatenate([row[mask] for row, mask in zip(sample_logprobs, masks, strict=True)] or [np.empty(0)])
    return -mean(chosen.tolist()) if len(chosen) else None


def paired_difference(before: Sequence[bool], after: Sequence[bool], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the difference of two success rates on the same deals, with its normal interval.

    d̄ ± z s / √n over the differences d of each deal, s their sample standard deviation.

    Raises: ValueError: different numbers of deals, or fewer than two.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"pairs need equal numbers of deals, at least 2, got {len(before)} and {len(after)}.")
    differences = [int(late) - int(early) for early, late in zip(before, after, strict=True)]
    centre = mean(differences)
    variance = sum((d - centre) ** 2 for d in differences) / (len(differences) - 1)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(variance / len(differences))
    return centre, centre - half, centre + half
