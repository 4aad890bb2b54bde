"""A task's prompt as it is asked and recorded: a copy of it, for who made it may write into what it is made of again."""

import json
from typing import Any

import numpy as np

from gtrturbo.config.chat_messages import message_faults
from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.view import ChatPrompt, Message, described, is_picture

LEAVE_PIXELS = 'leave the pixels to ChatPrompt.images, in the order of the parts {"type": "image"}; ask(text, picture) does both.'


def asked(prompt: Any, task: str) -> ChatPrompt:
    """Copy what a task's prompt returned.

    Args:
        prompt: what it is.
        task: its name.

    Raises: GtrTurboError: it is no ChatPrompt, its messages are no JSON or none that a turn may have, or a picture is none.
    """
    if not isinstance(prompt, ChatPrompt):
        raise GtrTurboError(f"the prompt of {task} is {described(prompt)}, not a ChatPrompt.", "return: ask(text, picture)")
    if not isinstance(prompt.images, list | tuple | np.ndarray):
        raise GtrTurboError(f"the prompt of {task} has {described(prompt.images)} for its pictures.", "give a list of them.")
    odd = next((image for image in prompt.images if not is_picture(image)), None)
    if odd is not None:
        raise GtrTurboError(f"the prompt of {task} has {described(odd)} for a picture.", "give bytes (uint8) [height, width, 3].")
    messages = _copied(prompt.messages, task)
    if fault := next(message_faults(messages, len(prompt.images), replied=False), None):
        raise GtrTurboError(f"the prompt of {task} cannot be asked: {fault}.", LEAVE_PIXELS)
    return ChatPrompt(messages, [np.array(image, order="C") for image in prompt.images])


def _copied(messages: Any, task: str) -> list[Message]:
    """Copy messages by writing them as JSON, as they are recorded."""
    if not isinstance(messages, list | tuple):
        raise GtrTurboError(f"the prompt of {task} has {described(messages)} for its messages.", "give a list of them.")
    try:
        return json.loads(json.dumps(messages, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise GtrTurboError(f"the messages of the prompt of {task} are no JSON: {error}.", LEAVE_PIXELS) from None
