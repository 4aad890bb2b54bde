"""Which files of a model folder hold its weights: those that transformers loads, and no others beside them.

Source: transformers 5, `modeling_utils._get_resolved_checkpoint_files`: a file that the config names, else the single file, else
the index of shards; pickles are never opened here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.names import ADAPTER_WEIGHTS, MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS, OPTIMIZER, VALUE_HEAD

FETCH = "fetch or write the checkpoint again."
INDEXES = ".safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
# Safetensors that are no part of a model as transformers loads it, and pickles that are none of its weights.
OTHERS = (ADAPTER_WEIGHTS, VALUE_HEAD, OPTIMIZER)
WEIGHTS_IN_PICKLES = re.compile(r"(pytorch_model|consolidated).*\.(bin|pth?)$")
NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)\.safetensors$")
VARIANT = re.compile(r"model\.(?P<file>[\w-]+)(-\d+-of-\d+)?\.safetensors$|model\.safetensors\.index\.(?P<index>[\w-]+)\.json$")


@dataclass(frozen=True)
class WeightFiles:
    """What holds a folder's weights: files, the index that names them, where that says each tensor lies, and files unread."""

    files: tuple[str, ...]
    index: str | None = None
    placed: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def weights_of(folder: Path) -> WeightFiles:
    """Choose the files as transformers does.

    Raises:
        GtrTurboError: there are none, or the index is damaged or names what lies elsewhere.
    """
    named = _named_by_config(folder)
    name = next((file for file in (named, MODEL_WEIGHTS, MODEL_INDEX) if file and (folder / file).is_file()), None)
    if name is None or (named and name != named):
        raise _absent(folder, named)
    if not name.endswith(INDEXES):
        return WeightFiles((name,), unread=_unread(folder, {name}))
    placed = _read_index(folder / name)
    files = tuple(sorted(set(placed.values())))
    return WeightFiles(files, name, placed, _unread(folder, {name, *files}))


def _named_by_config(folder: Path) -> str | None:
    """The file that the config says to load, if it does."""
    try:
        config = json.loads((folder / MODEL_CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # Whoever reads the config says what is wrong with it.
    name = config.get("transformers_weights") if isinstance(config, dict) else None
    if name is None:
        return None
    if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", INDEXES)):
        raise GtrTurboError(f"{folder / MODEL_CONFIG} names {name!r} as its weights, which is no safetensors file beside it.")
    return name


def _read_index(path: Path) -> dict[str, str]:
    try:
        placed = json.loads(path.read_bytes())["weight_map"]
        if not placed or not all(isinstance(file, str) for file in placed.values()):
            raise ValueError("no files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise GtrTurboError(f"{path} is damaged.", FETCH) from None
    for file in sorted(set(placed.values())):  # The output's files get the same names.
        if Path(file).name != file or file in ("", "..") or not file.endswith(".safetensors"):
            raise GtrTurboError(f"{path} names {file!r}, which is no file beside it.", FETCH)
    _require_all_numbers(path, set(placed.values()))
    return placed


def _require_all_numbers(index: Path, files: set[str]) -> None:
    """Refuse an index that leaves out one of several numbered files: what that holds would be missing."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for found in filter(None, map(NUMBERED.match, files)):
        numbers.setdefault((found["stem"], found["total"]), set()).add(int(found["number"]))
    for (stem, total), named in sorted(numbers.items()):
        if left_out := next((number for number in range(1, int(total) + 1) if number not in named), 0):
            raise GtrTurboError(
                f"{index} names {len(named)} of {int(total)} files {stem}-…: number {left_out} is left out.", FETCH
            )


def require_as_indexed(folder: Path, chosen: WeightFiles, held: Mapping[str, Iterable[str]]) -> None:
    """Refuse a tensor that two files hold, or that does not lie where the index says: readers differ in which they take.

    Args:
        folder: of the model.
        chosen: its files.
        held: names of tensors, by file.

    Raises:
        GtrTurboError: names the tensor.
    """
    found: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            if name in found:
                raise GtrTurboError(f"{folder} holds {name} twice, in {found[name]} and {file}.", FETCH)
            found[name] = file
    for name, file in chosen.placed.items():
        if found.get(name) != file:
            raise GtrTurboError(f"{folder / str(chosen.index)} says that {name} lies in {file}, and it does not.", FETCH)


def _unread(folder: Path, read: set[str]) -> tuple[str, ...]:
    """Name the weights beside those that are read, as other tools or an interrupted download leave them."""
    found = [file.name for file in folder.glob("*.safetensors*") if file.name.endswith((".safetensors", INDEXES))]
    found += [file.name for pattern in PICKLES for file in folder.glob(pattern) if WEIGHTS_IN_PICKLES.match(file.name)]
    beside = (name for name in found if name not in read and not name.startswith((".", *OTHERS)))
    return tuple(sorted(name for name in beside if not (name == MODEL_INDEX and _names_only(folder / name, read))))


def _names_only(index: Path, files: set[str]) -> bool:
    """Tell whether an index names nothing but what is read without it, as `name_weights` writes it."""
    try:
        return set(_read_index(index).values()) <= files
    except GtrTurboError:
        return False


def _absent(folder: Path, named: str | None) -> GtrTurboError:
    if not folder.exists():
        return GtrTurboError(f"{folder} does not exist.", "name a folder, as seen from here, or the id of a model: OWNER/NAME.")
    if named:
        return GtrTurboError(f"{folder / MODEL_CONFIG} names {named} as its weights, and it is not there.", FETCH)
    beside = sorted(file.name for file in folder.glob("*.safetensors*"))
    if variant := next(filter(None, map(VARIANT.match, beside)), None):
        return GtrTurboError(
            f"{folder} holds weights only as a variant ({variant.group()}), and transformers loads those by name alone.",
            f"load it with variant={variant['index'] or variant['file']!r}, and save_pretrained it.",
        )
    if pickles := sorted(file.name for pattern in PICKLES for file in folder.glob(pattern)):
        return GtrTurboError(
            f"{folder} holds pickled weights ({pickles[0]}), which can run code when they are read.",
            "save it with safetensors: model.save_pretrained(…, safe_serialization=True)",
        )
    if below := sorted({file.parent for file in folder.glob(f"*/{MODEL_WEIGHTS}*")}):
        return GtrTurboError(f"{folder} holds no weights itself.", f"name the folder below that does: {below[0]}")
    other = f"; {beside[0]} is none that transformers loads" if beside else ""
    return GtrTurboError(f"{folder} holds no {MODEL_WEIGHTS} and no {MODEL_INDEX}{other}.", "name a checkpoint folder.")
