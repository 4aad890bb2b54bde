"""A run folder as `show` prints it: every artifact in it, and whether all of them are whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gtrturbo.console import number, progress_bar
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError, few
from gtrturbo.models.base_record import differences
from gtrturbo.models.under_adapter import base_here, named_base
from gtrturbo.store.files import list_files
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.provenance import UNDER
from gtrturbo.store.pruned import damaged_files, missing_files, pruned_files

# The numbers that a reader compares first; an artifact shows those that it has.
FIRST_METRICS = (
    "success_rate",
    "final_loss",
    "demos",
    "thought_kl_k1",
    "kl_mean",
    "clip_fraction",
    "norm_ratio",
    "cosine",
    "parameters",
)
MEND = "make it again with --overwrite, or restore its files from a copy."


@dataclass(frozen=True)
class Found:
    """An artifact in a run."""

    path: Path
    name: str
    id: str
    manifest: Manifest


def find_artifacts(run: Path) -> list[Found]:
    """List the artifacts under a folder by path; those that are still being written are hidden."""
    paths = sorted(file.parent for file in run.rglob(MANIFEST))
    names = [path.relative_to(run) for path in paths]
    return [
        Found(path, name.as_posix(), artifact_id(path), read_manifest(path))
        for path, name in zip(paths, names, strict=True)
        if not any(part.startswith(".") for part in name.parts)
    ]


def print_run(console: Console, run: Path, artifacts: list[Found]) -> None:
    """Print a table of a run's artifacts."""
    table = Table("artifact", "kind", "stage", "id", "metrics", box=box.SIMPLE_HEAD)
    for found in artifacts:
        manifest = found.manifest
        shown = [f"{name} {number(manifest.metrics[name])}" for name in FIRST_METRICS if name in manifest.metrics]
        if pruned := pruned_files(found.path):
            shown.append(f"pruned {few(pruned)}")
        if missing := missing_files(found.path, manifest):
            shown.append(f"missing {few(missing)}")
        cells = (found.name, manifest.kind, manifest.stage, found.id[:12], ", ".join(shown))
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console.print(Text(f"{visible(str(run))}: {len(artifacts)} artifacts", "bold"))
    console.print(table)


def check_run(console: Console, run: Path, artifacts: list[Found]) -> None:
    """Hash every file of a run again, and say which inputs lie elsewhere.

    Raises: GtrTurboError: files are missing, changed or not in the manifest; names them.
    """
    for name, role, identity in _absent_inputs(artifacts):
        console.print(Text(visible(f"{name}: its {role} {short(identity)} is not in {run}.")))
    for found in artifacts:
        if base := absent_base(found.path, found.manifest):
            console.print(Text(visible(f"{found.name}: its base {base} is not here to be checked.")))
    damaged = {}
    with progress_bar("check", len(artifacts)) as bar:
        for found in artifacts:
            if damage := describe_damage(found.path, found.manifest):
                damaged[found.name] = damage
            bar.advance()
    if damaged:
        listing = "; ".join(f"{name}: {damage}" for name, damage in damaged.items())
        raise GtrTurboError(f"{len(damaged)} of {len(artifacts)} artifacts in {run} are damaged. {listing}.", MEND)
    pruned = sum(len(pruned_files(found.path)) for found in artifacts)
    files = sum(len(found.manifest.files) for found in artifacts) - pruned
    console.print(f"ok: {files} files of {len(artifacts)} artifacts match" + (f", {pruned} are pruned" if pruned else ""))


def _absent_inputs(artifacts: list[Found]) -> Iterator[tuple[str, str, str]]:
    known = {found.id for found in artifacts}
    for found in artifacts:
        for role, value in found.manifest.inputs.items():
            for identity in value if isinstance(value, list) else [value]:
                if identity is not None and identity not in known and not role.startswith(UNDER):
                    yield found.name, role, identity


def describe_damage(path: Path, manifest: Manifest) -> str:
    """Hash the files of an artifact and of its base again and name those that do not match its manifest; empty if all do."""
    wrong, present = damaged_files(path), set(list_files(path))
    groups = {
        "changed": [name for name in wrong if name in manifest.files and name in present],
        "missing": [name for name in wrong if name not in present],
        "not in the manifest": [name for name in wrong if name not in manifest.files],
    }
    if (base := base_here(path) if manifest.base else None) is not None:
        groups[f"another base, in {base}:"] = [name for name, _, _ in differences(path, base, "always")]
    return ", ".join(f"{what} {few(names)}" for what, names in groups.items() if names)


def absent_base(path: Path, manifest: Manifest) -> str | None:
    """Name the base of an adapter that cannot be held against the manifest, as it is not on this machine."""
    return named_base(path) if manifest.base and base_here(path) is None else None
