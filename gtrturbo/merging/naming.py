"""Which tensor on disk belongs to which module of an adapter: transformers may store a model under other names than it runs.

Qwen2.5-VL runs `model.language_model.layers.0` and stores `model.layers.0`. Nothing is hard-coded per model: the longest common
ending decides where it is the only one; else transformers itself is asked, on a model without weights.
"""

from collections.abc import Sequence
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.safetensors_files import Layout

# Names in memory, each with the shapes that the tensor may have; −1 stands for any size.
Tensors = Sequence[tuple[str, Sequence[tuple[int, ...]]]]


def tensors_of(base: Layout, tensors: Tensors) -> dict[str, str]:
    """Return the base's name for each tensor that adapters change.

    Args:
        base: the model on disk.
        tensors: names as PEFT knows them, and the shapes that each may have.

    Raises:
        GtrTurboError: one is not there in its shape.
    """
    found = _by_ending(base, tensors) or _by_transformers(base.folder, tensors)
    for tensor, shapes in tensors:
        name = found.get(tensor)
        if name is None or name not in base.entries:
            raise GtrTurboError(
                f"the adapters change {tensor}, which {base.folder} does not hold as a tensor of its own.",
                "where it is tied to another, untie them in the base, as the documentation's page merge shows; "
                "else give the adapters' own base with --base.",
            )
        if not _fits(base.entries[name].shape, shapes):
            raise GtrTurboError(
                f"{tensor} of the adapters has shape {list(shapes[0])}, "
                f"{name} in {base.folder} {list(base.entries[name].shape)}.",
                "the adapters belong to another base, one whose vocabulary was resized (save that, and give it with --base), "
                "or to experts that are stored apart (write full weights with PEFT's merge_and_unload).",
            )
        if not base.entries[name].is_float:
            raise GtrTurboError(
                f"{name} in {base.folder} is of type {base.entries[name].dtype}, to which the adapters' change cannot be added.",
                "merge around the model as it was before it was quantised.",
            )
    return found


def _by_ending(base: Layout, tensors: Tensors) -> dict[str, str] | None:
    """Match by the longest common ending; None unless every tensor has exactly one such, and no two the same."""
    endings: dict[str, list[str]] = {}
    for name in base.entries:
        for ending in _endings(name):
            endings.setdefault(ending, []).append(name)
    found: dict[str, str] = {}
    for tensor, shapes in tensors:
        # At least the module's own name: "weight" alone would fit any.
        candidates = next((endings[tail] for tail in _endings(tensor)[:-1] if tail in endings), [])
        if len(candidates) != 1 or not _fits(base.entries[candidates[0]].shape, shapes):
            return None
        found[tensor] = candidates[0]
    return found if len(set(found.values())) == len(found) else None


def _fits(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether a shape is one of those that are asked for."""
    return any(
        len(shape) == len(wanted) and all(size in (-1, found) for size, found in zip(wanted, shape, strict=True))
        for wanted in shapes
    )


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[cut:]) for cut in range(len(parts))]


def _by_transformers(folder: Path, tensors: Tensors) -> dict[str, str]:
    """Ask transformers how it names each stored tensor in memory."""
    from gtrturbo.models.stored_names import stored_names  # Takes seconds to import, and is rarely needed.

    try:
        in_memory = stored_names(folder)
    except (OSError, ValueError) as error:
        raise GtrTurboError(f"transformers does not know the model in {folder}: {error}") from None
    return {tensor: in_memory[tensor] for tensor, _ in tensors if tensor in in_memory}


def require_ties(base: Layout, adapter: Path, untied: Sequence[str]) -> None:
    """Refuse an adapter that gave one of two tied tensors a change of its own, where the base stores both as one.

    Args:
        base: the model on disk; nothing is known of ties where transformers does not know it.
        adapter: its folder.
        untied: tensors, as PEFT knows them, that were trained apart from what is tied to them.

    Raises:
        GtrTurboError: the other tensor of a tie kept its weights, for which the base has no place.
    """
    if not untied:
        return
    from gtrturbo.models.stored_names import model_names  # Takes seconds to import, and is rarely needed.

    try:
        names = model_names(base.folder)
    except (OSError, ValueError):
        return
    held = set(names.in_memory.values())
    for tensor in untied:
        if twin := next((each for each in names.tied_with(tensor) if each not in held), None):
            raise GtrTurboError(
                f"{adapter} changes {tensor} apart from {twin}, and {base.folder} stores both as one.",
                "untie them in the base, as the documentation's page merge shows, or train anew with ensure_weight_tying=True; "
                f"as it is, PEFT leaves {twin} unchanged.",
            )
