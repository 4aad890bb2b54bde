"""Whether replies to one and the same prompt are sampled anew each time: a test that holds at any number of replies.

Log-probs that are right do not show it, nor which tokens were taken: what answers from a cache, or draws by one seed whatever it
is sent, gives right samples, and the same ones again and again. How often a reply comes back shows it.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Shares of replies that are repeated: what is held against none.
SHARES = (0.01, 0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Repeats:
    """How replies compare with samples that are independent of one another.

    Attributes:
        evidence: ln of how many times likelier they are where some are repeated than where each is sampled, in nats.
        rate: of replies to a prompt that had been replied to before, the share that had been given to it; 0 where there are none.
    """

    evidence: float
    rate: float

    def metrics(self) -> dict[str, float]:
        """Return what the manifest says of it."""
        return {"repeats_evidence": self.evidence, "repeat_rate": self.rate}


def repeats_in(prompts: Sequence[Hashable], replies: Sequence[Hashable], logprobs: Sequence[float]) -> Repeats:
    """Compare replies, in the order in which they were given, with samples that are independent of one another.

    Where D are the different replies to a prompt so far, a sample falls into D with q = Σ_{d ∈ D} p(d). Where an earlier one is
    repeated with probability c, and else a sample is taken:

        P(in D) = c + (1 − c) q,  P(not in D) = (1 − c) (1 − q)
        E = 1/K Σ_c Π P / P₀,  P₀(in D) = q,  P₀(not in D) = 1 − q

    For independent samples each factor has the mean 1 whatever came before, so that E is a martingale of mean 1 and
    P(E ever reaches a) ≤ 1/a, however many replies there are; see `sampled.evidence_against`. That a few replies are all that is
    likely costs nothing: q is near 1 then.

    Args:
        prompts: what each is a reply to; equal where they are the same.
        replies: equal where they are the same.
        logprobs: log p of each whole reply as it was sampled, in nats. Where it is known twice, the larger one is milder.

    Source: Ville (1939), as there.
    """
    shares, total = np.array(SHARES), np.zeros(len(SHARES))
    covered: dict[Hashable, float] = {}  # By prompt, log q.
    given: set[tuple[Hashable, Hashable]] = set()
    asked = repeated = 0
    for prompt, reply, logprob in zip(prompts, replies, logprobs, strict=True):
        is_repeated = (prompt, reply) in given
        if prompt in covered:
            asked, repeated = asked + 1, repeated + is_repeated
            log_q = min(covered[prompt], 0.0)  # Above by rounding.
            total += np.logaddexp(np.log(shares), np.log1p(-shares) + log_q) - log_q if is_repeated else np.log1p(-shares)
        if not is_repeated:
            given.add((prompt, reply))
            covered[prompt] = float(np.logaddexp(covered.get(prompt, -math.inf), logprob))
    return Repeats(float(np.logaddexp.reduce(total)) - math.log(len(SHARES)), repeated / max(1, asked))
