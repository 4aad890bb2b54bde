"""What describes a model in words: JSON and a template. Libraries pass over some of these files where they are damaged."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.store.inside import is_plain, leads_out
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FAMILY,
    GENERATION_CONFIG,
    MANIFEST,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    RENDERER_FILES,
    TOKENIZER,
)

OF_WEIGHTS = (MODEL_CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG, MODEL_INDEX, MODEL_WEIGHTS, ADAPTER_WEIGHTS)
OF_PROMPTS = tuple(name for name in RENDERER_FILES if name != FAMILY)  # Which has a reader of its own.
JSON, TEMPLATE = ".json", ".jinja"
# Files of which each is a tokenizer's vocabulary, by the names that transformers knows; some say a version in it.
VOCABULARY = re.compile(
    r"tokenizer\.(?:[\d.]+\.)?json|tekken\.json|vocab-src\.json|vocab\.txt|dict\.txt|.+\.(?:model(?:\.\w+)?|tiktoken|spm|tokenizer)"
)
PAIR = ("vocab.json", "merges.txt")  # Of which neither is one alone.
LARGE = 1 << 20  # bytes: a vocabulary, which takes long to read and which tokenizers reads whole


def require_readable(folder: Path, names: Iterable[str] = (*OF_WEIGHTS, *OF_PROMPTS)) -> None:
    """Refuse a model of which a file is not what its name says: a file at all, a JSON object, or a template in UTF-8.

    What links out of the folder lead to is not looked at: who copies refuses them.

    Raises:
        GtrTurboError: names the file.
    """
    files = [folder / name for name in names]
    for file in files:
        if file.name != TOKENIZER and (odd := in_its_place(file)):
            raise GtrTurboError(f"{file} {odd}, and no file.", f"put the file back; {mend_of(folder)}")
    read = (file for file in files if file.name.endswith((JSON, TEMPLATE)))
    for file in (file for file in read if file.is_file() and not leads_out(file, folder)):
        if fault := _fault(file.suffix, read_regular(file)):
            raise GtrTurboError(f"{file} is damaged: {fault}.", f"put the file back; {mend_of(folder)}")


def in_its_place(file: Path) -> str:
    """Say what there is in the place of a file, which libraries take for its absence; "" where it is one, or nothing is there."""
    return "is a folder" if file.is_dir() else "is a link that leads nowhere" if file.is_symlink() and not file.exists() else ""


def has_vocabulary(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer: more than the settings of one."""
    there = {entry.name for entry in folder.iterdir() if entry.is_file()}
    return any(map(VOCABULARY.fullmatch, there)) or there.issuperset(PAIR)


def renderer_files(folder: Path) -> list[str]:
    """Name the files of a folder that decide how a prompt becomes token ids and pixels, its vocabulary whatever it is called."""
    known = [name for name in RENDERER_FILES if (folder / name).is_file()]
    there = sorted(entry.name for entry in folder.iterdir() if VOCABULARY.fullmatch(entry.name) and entry.is_file())
    return known + [name for name in there if name not in RENDERER_FILES and not name.startswith(".") and is_plain(name)]


def require_vocabulary(folder: Path, name: str) -> None:
    """Refuse a model without a tokenizer: transformers then makes one of the special tokens alone, and raises nothing.

    Args:
        folder: its files.
        name: as the user wrote it, a hub id or a folder.

    Raises:
        GtrTurboError: says that tokenizer.json is not there, or what it is in the place of a file.
    """
    if has_vocabulary(folder) or not any(os.path.lexists(folder / part) for part in OF_PROMPTS):
        return  # Of a bare config, as for a dry run, transformers itself says that it has no processor.
    file = folder / TOKENIZER
    found = in_its_place(file) or "is not there"
    made = (folder / MANIFEST).is_file()
    raise GtrTurboError(
        f"{name} has no tokenizer: {TOKENIZER} {found}.",
        f"put it back; {mend_of(folder)}" if made else "copy it from where the model was made, or download the model again.",
    )


def _fault(suffix: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
        if suffix == TEMPLATE:
            return template_fault(text)
        found = json.loads(text, parse_constant=_number) if len(content) < LARGE else _begun(text)
    except RecursionError:
        return "it nests too deeply"
    except UnicodeDecodeError:
        return "it is no text in UTF-8"
    except json.JSONDecodeError as error:
        return f"it is no JSON from line {error.lineno}, column {error.colno} on"
    except ValueError as error:
        return said_by(error)
    return "" if isinstance(found, dict) else "it is no JSON object"


def template_fault(text: str) -> str:
    """Say why a text is no template in Jinja; "" where it is one. Nothing of it is run."""
    from jinja2 import Environment, TemplateSyntaxError  # Takes a tenth of a second to import.
    from jinja2.ext import Extension, LoopControlExtension

    class Generation(Extension):
        """A block of transformers' own, which marks what a model says."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    if not text.strip() or "\0" in text:
        return "it is no template"
    try:
        Environment(extensions=[Generation, LoopControlExtension]).parse(text)
    except TemplateSyntaxError as error:
        return f"it is no template in Jinja: line {error.lineno}: {' '.join(str(error.message).split())[:200].rstrip('.')}"
    except RecursionError:
        return "it nests too deeply"
    return ""


def _begun(text: str) -> object:
    return {} if text.lstrip()[:1] == "{" and text.rstrip()[-1:] == "}" else None


def _number(text: str) -> float:
    # Of real models some say Infinity, as of a limit that there is not.
    if text == "NaN":
        raise ValueError("it holds NaN, which is no number")
    return float(text)
