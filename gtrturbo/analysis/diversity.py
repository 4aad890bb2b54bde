"""How alike are the thoughts of a policy? Self-BLEU of texts: 1 where all are the same, near 0 where they share no words."""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDER = 4
# In place of no match at all, so that one missing 4-gram does not make the score 0.
SMOOTHING = 0.1
WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Split a text into lower-case words, numbers and single marks."""
    return WORD.findall(text.lower())


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU-4 of each text against all others as references; None for fewer than two texts.

    Source: Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models" (arXiv 1802.01886), section 3.2.
    """
    if len(texts) < 2:
        return None
    split = [words(text) for text in texts]
    counts = [_Grams(text) for text in split]
    scores = [_bleu(counts[i], counts[:i] + counts[i + 1 :]) for i in range(len(texts))]
    return math.fsum(scores) / len(scores)


def bleu(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of one text, in [0, 1].

    BP · exp(¼ Σ_n log p_n), p_n the share of the hypothesis' n-grams that occur in a reference, each counted at most as often
    as in the reference that has it most. BP = exp(1 − r / c) if the hypothesis has c ≤ r words, r of the reference nearest in
    length (the shorter of two), else 1. Smoothing: 0.1 matches in place of none, and one n-gram in place of none.

    Raises: ValueError: no references.

    Source: Papineni et al., "BLEU" (2002), section 2.3; Chen and Cherry, "A Systematic Comparison of Smoothing Techniques"
        (2014), method 1 with ε = 0.1.
    """
    return _bleu(_Grams(hypothesis), [_Grams(reference) for reference in references])


class _Grams:
    """The n-grams of a text, counted, for n = 1 to 4."""

    def __init__(self, text: Sequence[str]) -> None:
        self.length = len(text)
        self.counts = [Counter(zip(*(text[k:] for k in range(n)), strict=False)) for n in range(1, ORDER + 1)]


def _bleu(hypothesis: _Grams, references: Sequence[_Grams]) -> float:
    """Return BLEU-4 from n-grams counted once per text; 0 for a text without words."""
    if not references:
        raise ValueError("BLEU needs at least one reference.")
    if not hypothesis.length:
        return 0.0
    logs = [_log_precision(hypothesis.counts[n], [reference.counts[n] for reference in references]) for n in range(ORDER)]
    nearest = min((abs(each.length - hypothesis.length), each.length) for each in references)[1]
    penalty = min(0.0, 1 - nearest / hypothesis.length)
    return math.exp(penalty + math.fsum(logs) / ORDER)


def _log_precision(grams: Counter, references: Sequence[Counter]) -> float:
    matched = sum(min(count, max(reference[gram] for reference in references)) for gram, count in grams.items())
    return math.log((matched or SMOOTHING) / max(1, sum(grams.values())))
