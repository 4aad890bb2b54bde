"""What a merge would read, write and hold in memory, said before it is done."""

import shutil
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.engine import room_for_products
from gtrturbo.merging.inputs import Inputs
from gtrturbo.merging.magnitudes import MANY
from gtrturbo.merging.operands import BINS, CHUNK, TABLES
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.recipes.inputs import RecipeInputs
from gtrturbo.merging.sources import Sources
from gtrturbo.store.safetensors_files import read_layout


def preview_of(plan: MergePlan, inputs: Inputs | RecipeInputs, sources: Sources, *, base: Path, out: Path, threads: int) -> str:
    """Say it in lines of a name and a value."""
    entries = sum(target.entry.entries for target in sources.targets)
    kind = ("adapter" if inputs.adapters else "checkpoint") + ("" if inputs.count == 1 else "s")
    around = f" around {base}" if inputs.around else ""
    memory = memory_of(sources, checkpoints=len(inputs.checkpoints), threads=threads)
    lines = [
        f"method       {plan.name} of {inputs.count} {kind}{around}",
        f"tensors      {len(sources.targets)} merged ({entries:,} parameters), {len(sources.copied)} copied",
        f"reads        {gigabytes(sources.bytes_read)}, {'twice' if plan.measures else 'once'}",
        f"writes       {gigabytes(sources.base.size)} to {out}",
        f"memory       about {gigabytes(memory)} beside the interpreter, {threads} threads",
    ]
    return "\n".join(lines)


def memory_of(sources: Sources, *, checkpoints: int, threads: int) -> int:
    """One tile of the output and pieces of the inputs per thread, the counters and gathered entries of a measurement, and factors
    and products of adapters. In bytes."""
    step = max((target.step for target in sources.targets), default=0)
    widest = max((target.entry.width for target in sources.targets), default=0)
    tiles = widest * (step + 2 * CHUNK * (checkpoints + 1))
    changes = [change for adapter in sources.adapters for choice in adapter.choices.values() for change in choice]
    factors = max((sum(entry.entries for entry in change.entries) for change in changes), default=0)
    measured = 4 * TABLES * BINS + 8 * MANY
    products = (factors * 8 + step * 16) * checkpoints if sources.adapters else 0
    kept = room_for_products(threads) if sources.adapters else 0
    return threads * (tiles + measured + products) + kept


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def require_room(inputs: Inputs | RecipeInputs, out: Path, *, copies: int) -> None:
    """Refuse at once where the disk is too full for so many copies of the output.

    Raises:
        GtrTurboError: says how much is free, and how much is needed.
    """
    if inputs.as_adapter:
        return  # Small; a full disk is found while writing.
    needed = read_layout(inputs.under).size * copies
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise GtrTurboError(
            f"{out.parent} has {gigabytes(free)} free, the merge needs {gigabytes(needed)}.", "free some disk space."
        )
