"""What the teacher thinks of each token that the student sampled: the two log-probs side by side, and their difference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import mode_of, tells_of_tokens
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import mean
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.store.turns import read_scores, read_turn_tokens, read_turns


@dataclass(frozen=True)
class Scored:
    """The tokens of all turns, and the teacher's log-probs of them in nats, N × [R]."""

    tokens: TurnTokens
    teacher: list[np.ndarray]

    def k1(self, row: int) -> np.ndarray:
        """Return log p − log q of each token of a reply: the student's log-prob less the teacher's, in nats. [R]"""
        return self.tokens.sample_logprobs[row] - self.teacher[row]


def read_scored(path: Path, scores: Path) -> Scored:
    """Read a turns artifact's tokens beside the teacher's log-probs of them.

    Raises: GtrTurboError: the scores were made for other turns, or are not of the tokens sampled.
    """
    read_manifest(path, "turns")
    made_for, given = read_manifest(scores, "scores").inputs.get("rollouts"), artifact_id(path)
    if made_for != given:
        raise GtrTurboError(
            f"the scores in {scores} were made for turns {short(made_for)}, but {path} is {short(given)}.",
            f"run: gtrturbo distill --rollouts {shell_word(str(path))} --mode kl …",
        )
    if not tells_of_tokens(read_manifest(scores)):
        raise GtrTurboError(
            f"{scores} was made by mode {mode_of(read_manifest(scores))}, whose log-probs are not of the tokens sampled.",
            "leave out --scores.",
        )
    tokens = read_turn_tokens(path, read_turns(path))
    teacher, _ = read_scores(scores, [len(ids) for ids in tokens.response_ids])
    return Scored(tokens, teacher)


def thought_kl(scored: Scored, row: int) -> str:
    """Say the mean k1 over a turn's thought tokens, and the mean of k1 clipped at 0."""
    k1 = scored.k1(row)[scored.tokens.thought_mask[row]].tolist()
    clipped = mean(max(value, 0.0) for value in k1)
    return f"mean {mean(k1):+.4g}, clipped at 0 {clipped:.4g} nats per token over {len(k1)} tokens"
