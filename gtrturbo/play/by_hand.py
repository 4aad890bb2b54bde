"""play: a person at a task, who sees each state as a model does, and replies."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gtrturbo.console import number
from gtrturbo.distributed.escapes import say
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.episodes import Response, Slot, State
from gtrturbo.store.claims import require_own_file
from gtrturbo.store.files import make_folder
from gtrturbo.store.records import parts_of
from gtrturbo.tasks.environment import closed_after
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.wording import reply_with

QUIT = "q"
PICTURE = "picture-{:04d}.png"


def play_by_hand(name: str, options: Sequence[str], *, seed: int, out: Path, expert: bool) -> None:
    """Play one episode, the first that a rollout of the same seed plays: states to stdout, actions or replies from stdin.

    Args:
        name, options: of the task.
        seed: of the episode.
        out: folder for the pictures.
        expert: show what the expert would reply.

    Raises: GtrTurboError: the folder is an artifact, or there is no expert to show.
    """
    require_own_file(out / PICTURE.format(0))
    task = load_task(name, options)
    if expert and task.expert is None:
        raise GtrTurboError(f"{task.name} has no expert.", "leave out --expert.")
    slot = Slot.open(task, seed, 0)
    with closed_after(slot.env):
        while not slot.done:
            _show(slot.task, slot.state, out, expert=expert)
            text = _asked(slot.task, slot.state)
            if text is None:
                break
            slot.play(Response(text), "noop")
            turn = slot.played[-1].turn
            _say(f"{turn.executed}: reward {number(turn.reward)}; known: {slot.state.info}")
        _say(_ending(slot))


def _show(task: Task, state: State, out: Path, *, expert: bool) -> None:
    """Print the prompt as it is asked, with a file in the place of each picture."""
    files = iter([_saved(image, out) for image in state.images])
    _say(f"\nturn {state.turn}")
    for message in state.messages:
        for part in parts_of(message):
            _say(f"{message['role']}: {part['text'] if part['type'] == 'text' else next(files)}")
    _say(f"known: {state.info}")
    if expert:
        _say(f"expert: {task.expert_reply(state.info)}")
    _say("actions: " + "  ".join(f"{place} {action}" for place, action in enumerate(task.allowed(state.info))))


def _saved(image: np.ndarray, out: Path) -> Path:
    """Save a picture under the next name that is free."""
    make_folder(out)
    file = next(file for count in itertools.count() if not os.path.lexists(file := out / PICTURE.format(count)))
    with file.open("xb") as opened:
        Image.fromarray(image).save(opened, format="PNG")
    return file


def _asked(task: Task, state: State) -> str | None:
    """Read an action, by text or number, or a whole reply; ask again where it is none. None at the end of the input."""
    while True:
        try:
            text = input(f"action, reply, or {QUIT}: ").strip()
        except EOFError:
            say("")
            return None
        if text == QUIT:
            return None
        reply = _meant(task, state, text)
        if reply is not None:
            return reply


def _meant(task: Task, state: State, text: str) -> str | None:
    allowed = task.allowed(state.info)
    named = {str(place): action for place, action in enumerate(allowed)} | {action: action for action in allowed}
    if text in named or task.is_action(text, state.info):
        reply = reply_with(task, state.info, named.get(text, text))
        if reply is None:
            _say("this task reads replies of its own form, and has no expert to show one: type a whole reply.")
        return reply
    if task.read(text, state.info) is not None:
        return text
    _say(f"{text!r} is neither an action nor a reply that the task can read.")
    return None


def _ending(slot: Slot) -> str:
    count = len(slot.played)
    if not slot.done:
        return f"left after {count} turns, return {number(slot.total)}."
    last = slot.played[-1].turn
    how = "was cut" if last.truncated else "ended"
    return f"the episode {how} after {count} turns: {'won' if last.won else 'not won'}, return {number(slot.total)}."


def _say(text: str) -> None:
    say(text)
