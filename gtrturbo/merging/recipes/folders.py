"""The folders that a recipe names: on this machine, each once, and by number in what a manifest holds."""

from pathlib import Path

from gtrturbo.merging.lineage import find_base, on_disk
from gtrturbo.merging.methods import METHODS
from gtrturbo.merging.recipes.options import OURS
from gtrturbo.merging.recipes.parsing import rewritten
from gtrturbo.merging.recipes.recipe import Recipe


def our_name(recipe: Recipe) -> str:
    """The name that gtrturbo gives a recipe's method."""
    return OURS[recipe.method]


def numbered(recipe: Recipe) -> tuple[Path, tuple[Path, ...], str]:
    """Find a recipe's folders.

    Returns: the base, or the first model where there is none; the others; and the recipe with models as numbers, 0 the base.

    Raises:
        GtrTurboError: a model can neither be found nor fetched, or no base is known where one is needed.
    """
    refs = recipe.models()
    folders = {text: on_disk(Path(text)) for ref in refs for text in (ref.model, ref.lora) if text}
    base, known = folders[refs[0].model], recipe.base is not None
    if not known and METHODS[OURS[recipe.method]].needs_base:
        base, known = find_base([folders[ref.model] for ref in refs]), True
    listed = [base, *(folder for folder in dict.fromkeys(folders.values()) if folder != base)]
    numbers = {text: str(listed.index(folder)) for text, folder in folders.items()}
    places = {ref: f"{numbers[ref.model]}+{numbers[ref.lora]}" if ref.lora else numbers[ref.model] for ref in refs}
    return base, tuple(listed[1:]), rewritten(recipe, places, base="0" if known and recipe.base is None else None)
