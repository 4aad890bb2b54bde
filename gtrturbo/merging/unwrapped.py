"""Names that something around or within a model put before its tensors': torch.compile, DDP, FSDP, a value head of TRL."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gtrturbo.store.safetensors_files import Layout, TensorEntry

AROUND = re.compile(r"^(?:(?:module|pretrained_model|_orig_mod)\.)+")
WRAPPERS = re.compile(AROUND.pattern + r"|(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIX = "base_model.model."


def unwrapped(base: Layout, other: Layout) -> tuple[Layout, tuple[str, ...]]:
    """Name a checkpoint's tensors as the base does, where wrappers alone make the difference.

    What lies beside a model that is wrapped as a whole, as a value head does, is no part of it and left out.

    Returns: the checkpoint, and what a user has to be told.
    """
    plain = {name: WRAPPERS.sub("", name) for name in other.entries if name not in base.entries}
    wrapped = {name: new for name, new in plain.items() if new != name and new not in other.entries}
    if not any(new in base.entries for new in wrapped.values()):
        return other, ()
    beside = [name for name in plain if name not in wrapped] if any(map(AROUND.match, wrapped)) else []
    entries = {wrapped.get(name, name): entry for name, entry in other.entries.items() if name not in beside}
    entries = {name: replace(entry, name=name) for name, entry in entries.items()}
    name, new = next(iter(wrapped.items()))
    more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
    left = f"; {beside[0]}{more} beside the model is left out" if beside else ""
    return replace(other, entries=entries), (f"{other.folder} holds {new} as {name}, and others so: taken as {new}{left}.",)


def told_of_names(folder: Path, entries: Sequence[TensorEntry]) -> list[str]:
    """Say of an adapter that PEFT would not find its tensors by their names, if it is so."""
    odd = [entry.name for entry in entries if not entry.name.startswith(PREFIX) or WRAPPERS.search(entry.name)]
    first = next(iter(odd), "")
    said = f"{folder} names {len(odd)} tensors otherwise than PEFT does (first: {first}): PEFT leaves them out, here they count."
    return [said] if odd else []
