"""show --clean: what killed stages left under a run, listed and removed."""

from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from gtrturbo.analysis.record import RECORD
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.leftovers import find_leftovers, remove_leftover
from gtrturbo.store.names import MANIFEST


def clean_run(console: Console, run: Path) -> None:
    """Remove what was left below a run and print a line for each.

    Raises:
        GtrTurboError: the folder is no run: nothing is looked for where gtrturbo wrote nothing.
    """
    if (run / MANIFEST).is_file() or not ((run / RECORD).is_file() or any(run.rglob(MANIFEST))):
        raise GtrTurboError(f"{run} is no folder of a run.", "name the folder that gtrturbo run wrote.")
    found = find_leftovers(run)
    for left in found:
        kept = remove_leftover(left)
        told = f"kept     {left.path.relative_to(run)}: {kept}" if kept else f"removed  {left.path.relative_to(run)}"
        console.print(Text(visible(f"{told} ({decimal(left.size)})")))
    if not found:
        console.print(Text("nothing was left."))
