"""Episodes as `show` prints them: what was seen, replied and executed, and what the teacher thinks of each token."""

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.analysis.token_kl import Scored, read_scored, thought_kl
from gtrturbo.console import number
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.show.scores import coloured, legend, token_table
from gtrturbo.show.text import Row, has_colours, link, section
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import TURNS
from gtrturbo.store.records import Demo, Message, Turn, texts_of
from gtrturbo.store.turns import read_turns

THOUGHT, ACTION, WRONG = "cyan", "bold magenta", "bold red"
ACTION_KEY = '"action"'


def show_episode(console: Console, path: Path, episode: int, scores: Path | None) -> None:
    """Print an episode turn by turn, and its return.

    Raises: GtrTurboError: no such episode, no turns artifact, or scores of other turns.
    """
    turns = _read(path)
    chosen = [(row, turn) for row, turn in enumerate(turns) if turn.episode == episode]
    if not chosen:
        known = sorted({turn.episode for turn in turns})
        raise GtrTurboError(f"{path} has no episode {episode}.", f"it holds {len(known)} episodes: {known[0]}-{known[-1]}.")
    scored = read_scored(path, scores) if scores else None
    console.print(Text(f"episode {episode} of {path}, seed {chosen[0][1].seed}", "bold"))
    _print_turns(console, path, chosen, scored)
    last = chosen[-1][1]
    total = undiscounted(turn.reward for _, turn in chosen)
    console.print(f"\nreturn {number(total)} in {len(chosen)} turns: {_end(last)}")


def show_row(console: Console, path: Path, row: int, scores: Path | None) -> None:
    """Print one row of turns.jsonl.

    Raises: GtrTurboError: no such row, no turns artifact, or scores of other turns.
    """
    turns = _read(path)
    if row >= len(turns):
        raise GtrTurboError(f"{path} has no turn {row}.", f"{TURNS} has rows 0-{len(turns) - 1}.")
    turn = turns[row]
    console.print(Text(f"episode {turn.episode} of {path}, seed {turn.seed}", "bold"))
    _print_turns(console, path, [(row, turn)], read_scored(path, scores) if scores else None)


def demo_rows(path: Path, demo: Demo) -> list[Row]:
    """Show what a demo teaches; the part of the reply that carries no loss is coloured as action."""
    reply = Text(visible(demo.messages[-1]["content"][0]["text"]), THOUGHT)
    for start, end in demo.masked_spans:
        reply.stylize(ACTION, start, end)
    pictures: list[Row] = [("picture", link(path / image)) for image in demo.images]
    return [*pictures, ("prompt", _prompt(demo.messages)), ("reply", reply)]


def _read(path: Path) -> list[Turn]:
    manifest = read_manifest(path)
    if manifest.kind not in ("turns", "evaluation"):
        raise GtrTurboError(
            f"{path} holds {manifest.kind} (made by {manifest.stage}): only turns and evaluations have episodes.",
            "make turns with: gtrturbo rollout …",
        )
    return read_turns(path)


def _print_turns(console: Console, path: Path, chosen: list[tuple[int, Turn]], scored: Scored | None) -> None:
    in_colour = has_colours(console)
    before = None
    for row, turn in chosen:
        prompt = _prompt(turn.messages)
        reply = coloured(turn.reply, scored, row) if scored and in_colour else _reply(turn)
        rows = _turn_rows(path, turn, "as before" if prompt == before else prompt, reply)
        before = prompt
        console.print()
        section(console, f"turn {turn.turn} (row {row})", [*rows, ("thought k1", thought_kl(scored, row))] if scored else rows)
        if scored and not in_colour:
            console.print(token_table(turn.reply, scored, row))
    if scored and in_colour:
        console.print()
        console.print(legend())


def _turn_rows(path: Path, turn: Turn, prompt: str, reply: Text) -> list[Row]:
    state = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in turn.info.items())
    terms = " + ".join(f"{name} {number(value)}" for name, value in turn.reward_terms.items())
    rows: list[Row] = [("picture", link(path / image)) for image in turn.images]
    rows += [("prompt", prompt), ("state", state), ("reply", reply), ("executed", _executed(turn))]
    rows += [("legal", "yes" if turn.legal else "no"), ("reads truly", _reads(turn))]
    rows.append(("reward", f"{number(turn.reward)} = {terms}"))
    return [*rows, ("ends", _end(turn))] if turn.last else rows


def _prompt(messages: list[Message]) -> str:
    return "\n".join(texts_of(messages[:-1]))


def _reply(turn: Turn) -> Text:
    text = Text(visible(turn.reply), THOUGHT)
    # The action is the last field of a legal reply and holds no quotes, so the last such key is the one.
    if turn.legal:
        text.stylize(ACTION, turn.reply.rfind(ACTION_KEY))
    return text


def _executed(turn: Turn) -> Text:
    if turn.legal:
        return Text(visible(str(turn.executed)), ACTION)
    if turn.executed is not None:
        return Text(f"the reply did not parse: {visible(turn.executed)} was executed, drawn at random", WRONG)
    ended = ", the episode ended" if turn.terminated else ""
    return Text(f"the reply did not parse: nothing was executed{ended}", WRONG)


def _reads(turn: Turn) -> str:
    unknown = "unknown: the task knows no truth" if turn.legal else "unknown: the reply did not parse"
    return {True: "yes", False: "no", None: unknown}[turn.perception_correct]


def _end(turn: Turn) -> str:
    how = "terminated" if turn.terminated else "truncated" if turn.truncated else "goes on"
    return f"{how}, {'won' if turn.won else 'not won'}"
