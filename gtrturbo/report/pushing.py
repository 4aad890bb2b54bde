"""push: a checkpoint on the Hugging Face hub, with a card of what it is and how it was made."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from gtrturbo.config import PushConfig
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import one_line, say, shell_word, visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.base_record import require_same_base
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_here, full_weights_command, is_of_hub, require_named
from gtrturbo.report.card import card_of
from gtrturbo.report.hub import in_the_way, look, require_private, send
from gtrturbo.store.inside import open_inside
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import CARD, MANIFEST, OPTIMIZER
from gtrturbo.store.pruned import pruned_files, remake_command
from gtrturbo.store.verification import verify


def push(config: PushConfig) -> str:
    """Send a checkpoint to the hub; return its address there. With --dry-run print the card and the files instead.

    Files that lie there and would be loaded in the place of what is sent are removed in the same commit, and told.

    Raises:
        GtrTurboError: it is no whole checkpoint, an evaluation is of another one, the hub refuses, or --private is given and
            everybody can read the repository that is there.
    """
    manifest = read_manifest(config.checkpoint, "checkpoint")
    if gone := pruned_files(config.checkpoint):
        raise GtrTurboError(
            f"{', '.join(gone)} of {config.checkpoint} was pruned.", f"make it again with: {remake_command(config.checkpoint)}"
        )
    verify(config.checkpoint, "always", reads=lambda name: not name.startswith(OPTIMIZER))
    require_same_base(config.checkpoint, "always")
    _require_base_for_all(config.checkpoint)
    card = card_of(config.checkpoint, manifest, config.evaluations)
    names = [name for name in (*sorted(manifest.files), MANIFEST) if name != CARD and not name.startswith(OPTIMIZER)]
    if config.dry_run:
        say("\n".join([card, *_would_change(config, [CARD, *names])]))
        return ""
    with tempfile.TemporaryDirectory(prefix="gtrturbo-push-") as made:
        folder = Path(made)
        for name in names:
            _copy(config.checkpoint, name, folder)
        (folder / CARD).write_text(card, encoding="utf-8")
        address, removed = send(folder, config.repository, private=config.private)
    if removed:
        _warn(f"{_removed(config.repository)} {', '.join(map(one_line, removed))}")
    return address


def _would_change(config: PushConfig, names: Sequence[str]) -> list[str]:
    """Say which files would be sent, and which would go.

    Raises:
        GtrTurboError: --private is given, and everybody can read the repository that is there.
    """
    lines = [f"Files for {config.repository}:", *map(one_line, names)]
    try:
        held = look(config.repository)
    except GtrTurboError as error:
        _warn(error.what)
        return lines
    if held and config.private:
        require_private(config.repository, held)
    gone = in_the_way(held.files, names) if held else []
    return [*lines, *([_removed(config.repository), *map(one_line, gone)] if gone else [])]


def _removed(repository: str) -> str:
    return f"Removed from {repository}, where it would be loaded in the place of these; the history keeps it:"


def _warn(told: str) -> None:
    stderr.print(Text(visible(told), style="yellow"), soft_wrap=True)


def _require_base_for_all(checkpoint: Path) -> None:
    """Refuse an adapter on a model that lies on this machine alone: whoever fetches the adapter could not load it.

    Raises:
        GtrTurboError: names the command that merges it into full weights.
    """
    if not is_adapter(checkpoint):
        return
    named, here = require_named(checkpoint), base_here(checkpoint)
    if is_of_hub(checkpoint):
        if here is None:
            _warn(
                f"{checkpoint} is an adapter on {named}, which is not on this machine: what the hub has of it was not compared."
            )
        return
    if here is not None and checkpoint.resolve() in here.resolve().parents:
        return  # It is sent along.
    where, base = ("lies on this machine alone", shell_word(named)) if here else ("is not there", "BASE")
    raise GtrTurboError(
        f"{checkpoint} is an adapter on {named}, which {where}: nobody who fetches the adapter could load it.",
        f"send full weights: {full_weights_command(checkpoint, base)} && gtrturbo push FULL …; or push the model under it, and "
        "begin an adapter from its id: gtrturbo init --model OWNER/NAME …",
    )


def _copy(source: Path, name: str, folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_inside(source, name) as file, target.open("xb") as copied:
        shutil.copyfileobj(file, copied)
