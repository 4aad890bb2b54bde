"""What the teacher thinks of each token that the student sampled, as colours or as a table."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.color import Color
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gtrturbo.artifacts import SCORES, TOKENS, artifact_id, read_manifest, short
from gtrturbo.config import RELEASE
from gtrturbo.errors import GtrTurboError
from gtrturbo.records import mean
from gtrturbo.show_text import visible
from gtrturbo.tensors import TurnTokens, load_scores, load_turn_tokens

# Below FAINT nats a token stays plain; from STRONG on it has the full colour.
FAINT, STRONG = 0.05, 2.0
GREY, RED, BLUE, WHITE = (88, 88, 88), (200, 20, 20), (20, 80, 230), (255, 255, 255)
LEGEND = (-STRONG, -1.0, -0.25, 0.25, 1.0, STRONG)
END = "¶"


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

    Raises: GtrTurboError: the scores were made for other turns.
    """
    read_manifest(path, "turns")
    made_for, given = read_manifest(scores, "scores").inputs.get("rollouts"), artifact_id(path)
    if made_for != given:
        raise GtrTurboError(
            f"the scores in {scores} were made for turns {short(made_for)}, but {path} is {short(given)}.",
            f"run: gtrturbo distill --rollouts {shlex.quote(str(path))} --mode kl …",
        )
    if read_manifest(scores).config.get("compat") == RELEASE:
        raise GtrTurboError(
            f"{scores} was made with --compat release: blind and one token off, so it says nothing of the tokens sampled.",
            "leave out --scores.",
        )
    scored = Scored(load_turn_tokens(path / TOKENS), load_scores(scores / SCORES))
    if [*map(len, scored.teacher)] != [*map(len, scored.tokens.response_ids)]:
        raise GtrTurboError(f"{scores} has other tokens than {path}.", f"see: gtrturbo show {shlex.quote(str(scores))} --check")
    return scored


def coloured(reply: str, scored: Scored, row: int) -> Text:
    """Colour the thought tokens of a reply by the teacher's k1, and underline the action.

    A last token without text, the end of turn, is drawn as ¶.
    """
    spans, thought = scored.tokens.response_spans[row].tolist(), scored.tokens.thought_mask[row]
    ended = spans[-1][0] == spans[-1][1]
    text = Text(visible(reply) + END * ended)
    if ended:
        spans[-1] = (len(reply), len(reply) + 1)
    for (start, end), is_thought, k1 in zip(spans, thought, scored.k1(row).tolist(), strict=True):
        text.stylize(_colour(k1) if is_thought else Style(underline=True), start, end)
    return text


def _colour(k1: float) -> Style:
    if abs(k1) < FAINT:
        return Style()
    strength = min(abs(k1) / STRONG, 1.0)
    target = RED if k1 > 0 else BLUE
    red, green, blue = (round(low + strength * (high - low)) for low, high in zip(GREY, target, strict=True))
    return Style(color=Color.from_rgb(*WHITE), bgcolor=Color.from_rgb(red, green, blue))


def legend() -> Text:
    """Explain the colours."""
    text = Text("k1 in nats per token: ")
    for k1 in LEGEND:
        text.append(f" {k1:+g} ", _colour(k1)).append(" ")
    return text.append(" blue: the teacher finds the token more likely; red: less likely; underlined: action; ¶: end")


def token_table(reply: str, scored: Scored, row: int) -> Table:
    """List the tokens of a reply: its part, the student's and the teacher's log-prob, and k1, in nats."""
    table = Table("token", "part", box=box.SIMPLE_HEAD, pad_edge=True)
    for title in ("logprob", "teacher", "k1"):
        table.add_column(title, justify="right")
    tokens = scored.tokens
    columns = (tokens.response_spans, tokens.thought_mask, tokens.sample_logprobs, scored.teacher)
    rows = zip(*(column[row].tolist() for column in columns), scored.k1(row).tolist(), strict=True)
    for (start, end), thought, student, teacher, k1 in rows:
        token = json.dumps(visible(reply[start:end]), ensure_ascii=False)
        table.add_row(Text(token), "thought" if thought else "action", f"{student:.3f}", f"{teacher:.3f}", f"{k1:+.3f}")
    return table


def thought_kl(scored: Scored, row: int) -> str:
    """Say the mean k1 over a turn's thought tokens, and the mean of k1 clipped at 0."""
    k1 = scored.k1(row)[scored.tokens.thought_mask[row]].tolist()
    clipped = mean(max(value, 0.0) for value in k1)
    return f"mean {mean(k1):+.4g}, clipped at 0 {clipped:.4g} nats per token over {len(k1)} tokens"
