"""What the teacher thinks of each token that the student sampled, as colours or as a table."""

import json

from rich import box
from rich.color import Color
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gtrturbo.analysis.token_kl import Scored
from gtrturbo.distributed.escapes import visible

# Below FAINT nats a token stays plain; from STRONG on it has the full colour.
FAINT, STRONG = 0.05, 2.0
GREY, RED, BLUE, WHITE = (88, 88, 88), (200, 20, 20), (20, 80, 230), (255, 255, 255)
LEGEND = (-STRONG, -1.0, -0.25, 0.25, 1.0, STRONG)
END = "¶"


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
