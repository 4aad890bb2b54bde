"""What lies beside the weights of a merge's checkpoints and differs from the base's, which is what goes along."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.descriptions import renderer_files
from gtrturbo.models.under_adapter import base_here
from gtrturbo.store.names import GENERATION_CONFIG, MODEL_CONFIG

# Keys that say who saved a file, how and where, and nothing of the model.
OF_SAVING = {
    "transformers_version", "_name_or_path", "name_or_path", "torch_dtype", "dtype", "use_cache", "_commit_hash",
    "_from_model_config", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only", "processor_class",
    "tokenizer_class", "backend",
}  # fmt: skip
TEMPLATE, ADDED = "chat_template", "added_tokens_decoder"
LISTED = 3  # names that are listed


def differences(base: Path, checkpoints: Sequence[Path], made: Path) -> list[str]:
    """Say of each checkpoint which of its files beside the weights are others than those of the base; absent ones are not.

    Args:
        base, checkpoints: what is merged.
        made: the merge. What it has otherwise than the base, as a recipe may want it, is not the base's.
    """
    under = (base_here(base) if is_adapter(base) else None) or base
    ours, out = {**_facts(under), **_facts(base)}, _facts(made)
    said = []
    for path in checkpoints:
        odd = [name for name, value in _facts(path).items() if ours.get(name) != value and ours.get(name) == out.get(name)]
        if odd:
            more = f" and {len(odd) - LISTED} more" if len(odd) > LISTED else ""
            said.append(f"{path} has other {', '.join(odd[:LISTED])}{more} than the base: the base's go along.")
    return said


def _facts(folder: Path) -> dict[str, Any]:
    """What a folder's files say, by a name that a person knows."""
    facts: dict[str, Any] = {}
    configs = [name for name in (MODEL_CONFIG, GENERATION_CONFIG) if (folder / name).is_file()]
    for name in (*configs, *renderer_files(folder)):
        content = _parsed((folder / name).read_bytes())
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in OF_SAVING}
            if content.get(TEMPLATE) is not None:
                facts["chat template"] = content.pop(TEMPLATE)
            if content.get(ADDED):
                facts["added tokens"] = content.pop(ADDED)
        if name.startswith("chat_template.") and content:
            facts["chat template"] = content
        elif name in (MODEL_CONFIG, GENERATION_CONFIG) and isinstance(content, dict):
            facts |= {f"{key} of {name}": value for key, value in content.items() if key != "quantization_config"}
        elif content:
            facts[name] = content
    return facts


def _parsed(content: bytes) -> Any:
    """JSON as what it says, so that its layout does not count; other files as text."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
