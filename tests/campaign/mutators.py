"""What may be done to a file, by its name; and to pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from campaign.damage import ANY, Mutation, by_bytes
from campaign.damage_json import DEMOS, JSON, JSON_VALUES, ROWS, TURNS
from campaign.damage_tensors import SCORES, TENSORS, TOKENS
from gtrturbo.store.names import ADAPTER_CONFIG, CHAT_TEMPLATE, GENERATION_CONFIG, MODEL_CONFIG, RENDERER_FILES


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


# What of the files of transformers and tokenizers no one but they can judge: another value may be another model.
THEIRS = {*JSON_VALUES, "nothing inside", "other top", "key twice"}


def _theirs(mutations: list[Mutation], names: set[str]) -> list[Mutation]:
    return [replace(each, breaks=False, seals=True) if each.name in names else each for each in mutations]


def mutations_for(name: str, kind: str) -> list[Mutation]:
    """List what may be done to a file, by its name and what it is in."""
    if name.endswith(".jsonl"):
        own = TURNS if name == "turns.jsonl" else DEMOS if name == "demos.jsonl" else []
        return ANY + ROWS + own
    if name in (MODEL_CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG, *RENDERER_FILES) and name.endswith(".json"):
        return ANY + _theirs(JSON, THEIRS)
    if name == CHAT_TEMPLATE:
        return _theirs(ANY, {"cut in half"})
    if name.endswith(".json"):
        return ANY + JSON
    if name.endswith(".safetensors"):
        own = TOKENS if name == "tokens.safetensors" else SCORES if name == "scores.safetensors" else []
        return ANY + TENSORS + own
    return ANY + (PICTURES if name.endswith(".png") else [])
