"""A state as a task sees it, what a model is asked about it, and how an episode ended."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeGuard

import numpy as np

from gtrturbo.errors import GtrTurboError

Info = Mapping[str, Any]
Message = dict[str, Any]
Look = Literal["picture", "text", "both"]
WON = ("won", "is_success", "success")
CLOSE = 1e-6


@dataclass(frozen=True)
class ChatPrompt:
    """What a model is asked: chat messages with content parts, and the pictures of their image parts in order.

    images: pixels, each [H, W, 3] uint8.
    """

    messages: list[Message]
    images: list[np.ndarray]


def ask(text: str, *images: np.ndarray) -> ChatPrompt:
    """Make a prompt of one user message: the pictures, then the text."""
    parts: list[dict[str, str]] = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return ChatPrompt([{"role": "user", "content": parts}], list(images))


def ask_of(look: Look, text: str, lines: Sequence[str], legend: str, picture: Callable[[], np.ndarray]) -> ChatPrompt:
    """Make a prompt about a state that can be drawn and written down.

    Args:
        look: which of the two is shown.
        text: goes on from "The image shows", or from what is shown instead.
        lines: the state in words, after the text.
        legend: what stands for what in the lines.
        picture: draws the state, [H, W, 3] uint8; not asked where only the lines are shown.
    """
    if look == "picture":
        return ask(f"The image shows {text}", picture())
    shown = "The lines below show" if look == "text" else "The image and the lines below show"
    written = "\n".join([f"{shown} {text}", legend, *lines])
    return ask(written) if look == "text" else ask(written, picture())


@dataclass(frozen=True)
class Past:
    """One turn that lies behind: what was known, what was replied, what the environment was given (None: nothing) and paid.

    images: what was shown, each [H, W, 3] uint8. They cannot be written into: draw into a copy.
    """

    info: Info
    reply: str
    action: str | None
    reward: float
    images: list[np.ndarray]

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", [_read_only(image) for image in self.images])


@dataclass(frozen=True)
class View:
    """A state as a task puts it into words.

    Attributes:
        observation: the environment's own, of any kind.
        info: what is known of it, see `Task.known`.
        history: the turns of the episode so far, oldest first.
        render: draws the state.
    """

    observation: Any
    info: Info
    history: Sequence[Past] = ()
    render: Callable[[], Any] = lambda: None

    @cached_property
    def picture(self) -> np.ndarray:
        """The observation where it is a picture, else what the environment renders. [H, W, 3] uint8

        Raises: GtrTurboError: the environment draws nothing of that form.
        """
        return self.observation if is_picture(self.observation) else self.frame

    @cached_property
    def frame(self) -> np.ndarray:
        """What the environment renders. [H, W, 3] uint8

        Raises: GtrTurboError: it draws nothing of that form.
        """
        drawn = self.render()
        if drawn is None or not is_picture(drawn):
            raise GtrTurboError(
                f"the observation is {described(self.observation)} and the environment draws {described(drawn)}: neither is a "
                "picture of bytes (uint8) [height, width, 3].",
                'make it with render_mode="rgb_array", or turn its observation into a picture in the prompt.',
            )
        return drawn


def _read_only(image: np.ndarray) -> np.ndarray:
    shown = image.view()
    shown.flags.writeable = False
    return shown


def is_picture(value: Any) -> TypeGuard[np.ndarray]:
    """Tell whether a value is pixels, [H, W, 3] uint8, one at least."""
    pixels = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
    return pixels and value.size > 0


def described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclass(frozen=True)
class Ending:
    """How an episode ended: what is known at its end, its return, and whether it ended by its environment's rules.

    One that is cut, or that an invalid reply ends, did not. `task` is what errors call what was played.
    """

    info: Info
    total: float
    terminated: bool
    task: str = "the environment"


@dataclass(frozen=True)
class WonByReturn:
    """Says whether an episode was won by its return, which is reached where a millionth of it is missing, as by rounding.

    Where turns cost, a return of 0 or below is reached by not playing on, too: it wins only where the environment's rules ended
    the episode.

    Attributes:
        least: return from which an episode is won.
        named: what says so.
        info_first: whether an info that says itself whether it was won counts more.
    """

    least: float
    named: str
    info_first: bool = False

    def __call__(self, end: Ending) -> bool:
        """Say whether an episode was won."""
        if self.info_first and any(name in end.info for name in WON):
            return won_by_info(end)
        if self.least <= 0 and not end.terminated:
            return False
        return end.total >= self.least or math.isclose(end.total, self.least, rel_tol=CLOSE, abs_tol=CLOSE)


def won_by_info(end: Ending) -> bool:
    """Say whether an episode was won: by `won`, `is_success` or `success` of its info, else by a return above 0.

    By its return it is won only where the environment's rules ended it. What an info says is true or false, 1 or 0.

    Raises: GtrTurboError: an info says something else, such as how much was reached.
    """
    for name in WON:
        if name in end.info:
            won = flag(end.info[name])
            if won is None:
                raise GtrTurboError(
                    f"{name} in an info of {end.task} is {end.info[name]!r}, which is neither true nor false.",
                    "say what wins: --env win_return=RETURN of gym:ID, `won` of a task of your own.",
                )
            return won
    return end.terminated and end.total > 0


def who_won(info: Info, known: Info) -> dict[str, Any]:
    """Return what an environment's info says of who won, as JSON, where what is known of the state says nothing of it.

    What JSON cannot hold, such as NaN, is put into words: a rule that asks for it refuses it, and no other has to.
    """
    return {} if any(name in known for name in WON) else {name: _said(info[name]) for name in WON if name in info}


def _said(value: Any) -> Any:
    if (found := flag(value)) is not None:
        return found
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError):
        return str(plain) if isinstance(plain, float) else described(plain)
    return plain


def flag(value: Any) -> bool | None:
    """Return the truth that a value says: true, false, 0 or 1, or an array of one of these; None where it is nothing of it.

    A text, or a number such as -1, would be taken for true, whatever it says.
    """
    try:
        found = np.asarray(value)
    except ValueError:  # A list whose parts differ in length.
        return None
    said = found.size == 1 and found.dtype.kind in "biuf" and found.item() in (0, 1)
    return bool(found.item()) if said else None
