"""Which way round a model stores its layers, as far as transformers' source tells without an import, which takes seconds."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gtrturbo.store.names import MODEL_CONFIG

# What a module says that has layers stored as [in, out]: transformers' Conv1D, and experts that are marked so.
TURNED = ("Conv1D", "is_transposed")


def surely_straight(folder: Path) -> bool:
    """Tell whether all linear layers and experts of a model are stored as [out, in]; False also where that is not known."""
    try:
        config = json.loads((folder / MODEL_CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    kinds = set(_kinds(config))
    return bool(kinds) and "auto_map" not in config and all(map(_is_straight, kinds))


def _kinds(config: Any) -> Iterator[str]:
    """Name the types of a model and of its parts."""
    if isinstance(config, dict):
        if isinstance(config.get("model_type"), str):
            yield config["model_type"]
        for value in config.values():
            yield from _kinds(value)


@cache
def _is_straight(kind: str) -> bool:
    """Read the source of a type; the type of a part, such as qwen2_5_vl_text, stands in the folder of its whole."""
    spec = find_spec("transformers")
    words = kind.replace("-", "_").split("_")
    if spec is None or spec.origin is None or not all(word.isidentifier() or word.isdigit() for word in words):
        return False
    models = Path(spec.origin).parent / "models"
    for count in range(len(words), 0, -1):
        if files := sorted((models / "_".join(words[:count])).glob("modeling_*.py")):
            return not any(word in file.read_text(encoding="utf-8") for file in files for word in TURNED)
    return False
