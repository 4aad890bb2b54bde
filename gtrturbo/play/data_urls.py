"""Pictures in chat messages as the OpenAI protocol wants them: PNG files in data URLs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gtrturbo.store.records import Message


def with_pictures(messages: Sequence[Message], pictures: Sequence[np.ndarray]) -> list[Message]:
    """Fill the image parts of messages as the protocol wants them: PNG files in data URLs. A content that is a text stays one."""
    waiting = iter(pictures)

    def filled(part: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": data_url(next(waiting))}} if part["type"] == "image" else part

    return [
        message if isinstance(message["content"], str) else message | {"content": [filled(part) for part in message["content"]]}
        for message in messages
    ]


def data_url(picture: np.ndarray) -> str:
    """Write a picture, [H, W, 3] uint8, as a PNG file in a data URL; nothing is lost."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
