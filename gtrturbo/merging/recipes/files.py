"""What lies beside weights that a recipe made: config, index of shards, tokenizer and chat template."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.recipes.depth import set_depth
from gtrturbo.merging.recipes.models import Model
from gtrturbo.merging.recipes.templates import TEMPLATES
from gtrturbo.merging.recipes.tensors import Restacked
from gtrturbo.merging.recipes.tokens import Vocabulary
from gtrturbo.models.checkpoint_files import remove_superseded
from gtrturbo.models.descriptions import template_fault
from gtrturbo.store.files import save_json
from gtrturbo.store.names import (
    CHAT_TEMPLATE,
    GENERATION_CONFIG,
    LEGACY_TEMPLATE,
    MODEL_CONFIG,
    MODEL_INDEX,
    PROCESSOR_CONFIG,
    TOKENIZER_CONFIG,
)
from gtrturbo.store.safetensors_files import Layout

if TYPE_CHECKING:
    from gtrturbo.models.vocabularies import Tokenizer

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Keys of configs whose values are ids of tokens.
OF_TOKENS = re.compile(r"_token_(ids?|index)$|^(bad_words_ids|force_words_ids|(begin_)?suppress_tokens)$")


def write_files(
    folder: Path,
    lead: Model,
    layout: Layout,
    *,
    restacked: Sequence[Restacked],
    dtype: str | None,
    vocabulary: Vocabulary | None,
    chat_template: str | None,
    tokenizers: Sequence[Path],
) -> None:
    """Write what differs from the lead's own files, which were copied.

    Args:
        folder: of the output.
        lead: whose files were copied.
        layout: of the weights.
        restacked: stacks with other layers.
        dtype: type of the weights, where the recipe says it.
        vocabulary: the tokens, where the recipe says them.
        chat_template: a template, the name of one, or auto.
        tokenizers: folders of all models, for auto.
    """
    if layout is not lead.layout:
        _write_index(folder, layout)
    config = config_of(lead, restacked=restacked, dtype=dtype, vocabulary=vocabulary)
    if config != lead.config:
        save_json(folder / MODEL_CONFIG, config)
    if vocabulary:
        _write_tokenizer(folder, vocabulary.tokenizer)
        _set_generation(folder, vocabulary)
    if chat_template:
        write_template(folder, chat_template, tokenizers)


def config_of(lead: Model, *, restacked: Sequence[Restacked], dtype: str | None, vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Return the lead's config, which says what comes out; see `write_files`. Where the lead has none, nothing is said."""
    config: dict[str, Any] = json.loads(json.dumps(lead.config))
    if not config:
        return config
    for stack in restacked:
        set_depth(lead, config, stack)
    if dtype:
        _set_dtype(config, NAMES[dtype])
    if vocabulary:
        _set_vocabulary(config, vocabulary)
    return config


def _write_tokenizer(folder: Path, tokenizer: "Tokenizer") -> None:
    """Save a tokenizer in the place of the one that lies there, of which no file stays."""
    with tempfile.TemporaryDirectory() as made:
        tokenizer.save_pretrained(made)
        remove_superseded(Path(made), folder)
    tokenizer.save_pretrained(folder)


def _write_index(folder: Path, layout: Layout) -> None:
    (folder / MODEL_INDEX).unlink(missing_ok=True)
    if len(layout.headers) > 1:
        total = sum(entry.size for entry in layout.entries.values())
        weight_map = {name: entry.file.name for name, entry in sorted(layout.entries.items())}
        save_json(folder / MODEL_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A config and those within it."""
    return [config, *(value for value in config.values() if isinstance(value, dict))]


def _set_dtype(config: dict[str, Any], name: str) -> None:
    for part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            if key in part and part[key] is not None:
                part[key] = name
    if not any(config.get(key) for key in ("dtype", "torch_dtype")):
        config["torch_dtype"] = name


def _set_vocabulary(config: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Say how many tokens there are, and where those are now that the config names by id."""
    before = {place: token for token, place in vocabulary.theirs[vocabulary.base].items()}
    for part in _parts(config):
        if "vocab_size" in part:
            part["vocab_size"] = vocabulary.size
        _move_ids(part, before, vocabulary)


def _set_generation(folder: Path, vocabulary: Vocabulary) -> None:
    """Let what `generate` goes by name its tokens by their new ids."""
    file = folder / GENERATION_CONFIG
    config = _json_in(file)
    _move_ids(config, {place: token for token, place in vocabulary.theirs[vocabulary.base].items()}, vocabulary)
    if config:
        save_json(file, config)


def _move_ids(part: dict[str, Any], before: dict[int, str], vocabulary: Vocabulary) -> None:
    for key in filter(OF_TOKENS.search, part):
        moved = _moved(part[key], before, vocabulary)
        # A token that is gone is the one that the tokenizer has in its place, such as its own eos.
        part[key] = getattr(vocabulary.tokenizer, key, None) if moved is None else moved


def _moved(ids: Any, before: dict[int, str], vocabulary: Vocabulary) -> Any:
    """The ids of the same tokens, in lists as in lists; None where one is gone, and in a list no more."""
    if isinstance(ids, list):
        moved = [_moved(each, before, vocabulary) for each in ids]
        return [each for each in moved if each is not None] or (None if ids else [])
    return vocabulary.ids.get(before[ids]) if type(ids) is int and ids in before else ids


def require_template(wanted: str | None) -> None:
    """Refuse what a recipe asks for as a chat template, before any work.

    Raises:
        GtrTurboError: it is neither a template nor the name of one.
    """
    if wanted is None or wanted == "auto" or wanted in TEMPLATES:
        return
    fault = template_fault(wanted) if "{" in wanted else "it is no template"
    if fault:
        raise GtrTurboError(
            f"chat_template {wanted[:40]!r} cannot be used: {fault}.",
            f"write one in Jinja, auto, or one of {', '.join(TEMPLATES)}.",
        )


def write_template(folder: Path, wanted: str, tokenizers: Sequence[Path]) -> None:
    """Write a chat template; `auto` is the one that most models have, the first of several."""
    if wanted == "auto":
        found = Counter(text for text in map(template_in, tokenizers) if text)
        if not found:
            return
        wanted = found.most_common(1)[0][0]
    wanted = TEMPLATES.get(wanted, wanted)
    (folder / CHAT_TEMPLATE).write_text(wanted, encoding="utf-8")
    (folder / LEGACY_TEMPLATE).unlink(missing_ok=True)  # Which is read before.
    for file in (folder / TOKENIZER_CONFIG, folder / PROCESSOR_CONFIG):
        config = _json_in(file)
        if "chat_template" in config:
            save_json(file, {name: value for name, value in config.items() if name != "chat_template"})


def template_in(folder: Path) -> str | None:
    """Read the chat template of a folder, without white space around it; None where it has none.

    Where it has several, it is the one that a processor of transformers takes.
    """
    for name in (PROCESSOR_CONFIG, LEGACY_TEMPLATE):
        if isinstance(found := _json_in(folder / name).get("chat_template"), str):
            return found.strip()
    if (folder / CHAT_TEMPLATE).is_file():
        return (folder / CHAT_TEMPLATE).read_text(encoding="utf-8").strip()
    found = _json_in(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):
        found = next((each.get("template") for each in found if isinstance(each, dict) and each.get("name") == "default"), None)
    return found.strip() if isinstance(found, str) else None


def _json_in(file: Path) -> dict[str, Any]:
    """Read an object; an empty one where there is no such file, or it holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        raise GtrTurboError(f"{file} is damaged.", "fetch or write the checkpoint again.") from None
    return found if isinstance(found, dict) else {}
