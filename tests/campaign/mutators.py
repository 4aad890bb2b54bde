"""What may be done to a file, by its name; and to pictures."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from campaign.damage import ANY, Mutation, by_bytes
from campaign.damage_json import DEMOS, JSON, ROWS, TURNS
from campaign.damage_tensors import SCORES, TENSORS, TOKENS


def _picture(size: tuple[int, int], form: str, mode: str = "RGB") -> Callable[[Path, Random], None]:
    def changed(path: Path, _: Random) -> None:
        from PIL import Image

        Image.new(mode, size, 1).save(path, format=form)

    return changed


PICTURES = [
    Mutation("another picture", _picture((28, 28), "PNG"), breaks=False),
    Mutation("another format", _picture((28, 28), "BMP")),
    Mutation("vast picture", _picture((12_000, 12_000), "PNG", "1")),
    Mutation(
        "PostScript", by_bytes(lambda *_: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/x) (w) file\n")
    ),
    Mutation("one pixel", _picture((1, 1), "PNG"), breaks=False),
]


def mutations_for(name: str, kind: str) -> list[Mutation]:
    """List what may be done to a file, by its name and what it is in."""
    if name.endswith(".jsonl"):
        own = TURNS if name == "turns.jsonl" else DEMOS if name == "demos.jsonl" else []
        return ANY + ROWS + own
    if name.endswith(".json"):
        return ANY + JSON
    if name.endswith(".safetensors"):
        own = TOKENS if name == "tokens.safetensors" else SCORES if name == "scores.safetensors" else []
        return ANY + TENSORS + own
    return ANY + (PICTURES if name.endswith(".png") else [])
