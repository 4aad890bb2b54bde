"""Sample episodes on the page: picture, thought and action apart, tokens coloured by the teacher's KL, reward terms."""

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.analysis.history import Entry, History
from gtrturbo.analysis.summary import by_episode
from gtrturbo.analysis.token_kl import Scored, read_scored
from gtrturbo.console import number
from gtrturbo.distributed.escapes import visible
from gtrturbo.play.teachers import tells_of_tokens
from gtrturbo.report.page import details, paragraph, shown, table
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Turn, texts_of

# Nats per token at which the colour gets stronger.
LEVELS = (0.05, 0.5, 2.0)
ACTION_KEY = '"action"'


def samples(run: History, count: int) -> str:
    """Show episodes of the run's last rollouts, the teacher's scores beside them where it gave any; won and lost in turns."""
    if not run.entries["rollouts"] or not count:
        return ""
    rollout = run.entries["rollouts"][-1]
    scores = run.at("guidance").get(rollout.iteration)
    tells = scores and scores.manifest.kind == "scores" and tells_of_tokens(scores.manifest)
    scored = read_scored(rollout.path, scores.path) if scores and tells else None
    update = next((entry for entry in run.updates() if entry.iteration == rollout.iteration + 1), None)
    chosen = choose(by_episode(rollout.turns()), count)
    drawn = [_episode(run, rollout, turns, row, scored, update) for row, turns in chosen]
    return "".join([_key() if scored else paragraph("No teacher scored the tokens of these turns.", kind="faint"), *drawn])


def choose(episodes: Sequence[list[Turn]], count: int) -> list[tuple[int, list[Turn]]]:
    """Choose episodes, the first won, the first lost, the second won, …; each with the row of its first turn."""
    starts = np.cumsum([0, *map(len, episodes)]).tolist()
    placed = list(zip(starts, episodes, strict=False))
    won = [each for each in placed if each[1][-1].won]
    lost = [each for each in placed if not each[1][-1].won]
    mixed = [each for pair in zip(won, lost, strict=False) for each in pair]
    shorter = min(len(won), len(lost))
    return [*mixed, *won[shorter:], *lost[shorter:]][:count]


def _episode(run: History, rollout: Entry, turns: list[Turn], row: int, scored: Scored | None, update: Entry | None) -> str:
    total = undiscounted(turn.reward for turn in turns)
    end = "won" if turns[-1].won else "not won"
    title = f"seed {run.seed}, iteration {rollout.iteration}, episode {turns[0].episode}: {end}, return {number(total)}"
    prompt = "\n".join(texts_of(turns[0].messages[:-1]))
    body = [_turn(rollout, turn, row + place, scored, update) for place, turn in enumerate(turns)]
    return "".join([f"<h4>{shown(title)}</h4>", details("prompt of the first turn", f"<pre>{shown(prompt)}</pre>"), *body])


def _turn(rollout: Entry, turn: Turn, row: int, scored: Scored | None, update: Entry | None) -> str:
    pictures = "".join(
        f'<img alt="what turn {turn.turn} saw" src="data:image/png;base64,{_picture(rollout, image)}">' for image in turn.images
    )
    thought, action = _parts(turn, row, scored)
    said = f'<p class="said thought"><span class="label">thought</span>{thought}</p>'
    if action:
        said += f'<p class="said action"><span class="label">action</span>{action}</p>'
    facts = f'<p class="faint">{"<br>".join(map(shown, _facts(turn, row, scored, update)))}</p>'
    tokens = details("tokens", _token_table(turn, row, scored)) if scored else ""
    return f'<div class="turn"><div>{pictures}</div><div>{said}{facts}{tokens}</div></div>'


def _picture(rollout: Entry, image: str) -> str:
    """Write a picture anew, as the model saw it: what else its file holds does not get onto the page."""
    file = io.BytesIO()
    Image.fromarray(load_picture(rollout.path, image)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _parts(turn: Turn, row: int, scored: Scored | None) -> tuple[str, str]:
    """Return thought and action as HTML; a reply that does not parse is all thought."""
    if scored is None:
        cut = turn.reply.rfind(ACTION_KEY) if turn.legal else len(turn.reply)
        return shown(turn.reply[:cut]), shown(turn.reply[cut:])
    parts: dict[bool, list[str]] = {True: [], False: []}
    tokens, k1 = scored.tokens, scored.k1(row).tolist()
    for (start, end), is_thought, value in zip(
        tokens.response_spans[row].tolist(), tokens.thought_mask[row].tolist(), k1, strict=True
    ):
        text = shown(turn.reply[start:end]) or "¶"
        kind = level(value) if is_thought else ""
        parts[is_thought].append(f'<span class="{kind}" title="k1 {value:+.3f}">{text}</span>' if kind else text)
    return "".join(parts[True]), "".join(parts[False])


def level(k1: float) -> str:
    """Name the colour of a token: r1 to r3 where the teacher finds it less likely than the student, b1 to b3 where more."""
    strength = sum(abs(k1) >= bound for bound in LEVELS)
    return f"{'r' if k1 > 0 else 'b'}{strength}" if strength else ""


def _facts(turn: Turn, row: int, scored: Scored | None, update: Entry | None) -> Iterator[str]:
    terms = " + ".join(f"{name} {number(value)}" for name, value in turn.reward_terms.items())
    yield f"reward {number(turn.reward)} = {terms}" if terms else f"reward {number(turn.reward)}"
    text_terms = list(_text_terms(turn, row, scored, update))
    if text_terms:
        yield "for the text: " + ", ".join(text_terms)
    unknown = "unknown: the task knows no truth" if turn.legal else "unreadable"
    reads = {True: "true", False: "not true", None: unknown}[turn.perception_correct]
    executed = f"executed {visible(str(turn.executed))}" if turn.executed is not None else "nothing executed"
    if not turn.legal:
        executed += ", for the reply did not parse"
    yield f"thought {reads}; {executed}"


def _text_terms(turn: Turn, row: int, scored: Scored | None, update: Entry | None) -> Iterator[str]:
    """Say what the update added for the format and for the teacher."""
    if update:
        yield f"format {number(update.manifest.config['format_valid' if turn.legal else 'format_invalid'])}"
    if scored:
        k1 = scored.k1(row)[scored.tokens.thought_mask[row]].astype(np.float64)
        if len(k1):
            weight = f", weight {number(update.manifest.config['kl_coef'])}" if update else ""
            estimates = f"{k1.mean():+.4g} raw, {np.maximum(k1, 0).mean():.4g} clipped at 0"
            yield f"KL to the teacher {estimates} (nats per thought token{weight})"


def _token_table(turn: Turn, row: int, scored: Scored) -> str:
    tokens = scored.tokens
    columns = (tokens.response_spans, tokens.thought_mask, tokens.sample_logprobs, scored.teacher)
    rows = [
        [_shown(turn.reply[start:end]), "thought" if thought else "action", f"{student:.3f}", f"{teacher:.3f}", f"{k1:+.3f}"]
        for (start, end), thought, student, teacher, k1 in zip(
            *(column[row].tolist() for column in columns), scored.k1(row).tolist(), strict=True
        )
    ]
    return table("log-probs in nats", ["token", "part", "student", "teacher", "k1"], rows)


def _shown(text: str) -> str:
    return visible(text).replace(" ", "␣") or "end"


def _key() -> str:
    words = [("b3", "−2"), ("b2", "−0.5"), ("b1", "−0.05"), ("r1", "+0.05"), ("r2", "+0.5"), ("r3", "+2")]
    spans = " ".join(f'<span class="{kind}">{word}</span>' for kind, word in words)
    told = f"Thought tokens by k1 = log p(student) − log p(teacher), in nats, from: {spans}."
    return f'<p class="key faint">{told} Blue: the teacher finds the token more likely; red: less likely. ¶ ends the reply.</p>'
