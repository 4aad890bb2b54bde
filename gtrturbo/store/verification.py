"""Artifacts are what their ids say: files that are read are compared with the hashes in the manifest before any work."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from gtrturbo.config.choices import VerifyInputs
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.files import list_files
from gtrturbo.store.ids import sha256_file, sha256_of, short
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.pruned import pruned_files
from gtrturbo.store.seen import Look, is_large, looks, mark_of, remember


def verify(folder: Path, how: VerifyInputs, *, reads: Callable[[str], bool] = lambda name: True) -> None:
    """Refuse an artifact of which a file is missing, changed, or not its own.

    Small files, pictures and tokens among them, are hashed every time. Large ones are hashed every time (always), once for as
    long as they look as they did then (once), or not at all (never); one that looks otherwise than when it was last hashed is
    refused then.

    Args:
        folder: the artifact.
        how: what is done about large files.
        reads: whether a file, by its name in the artifact, is read.

    Raises:
        GtrTurboError: names the first such file.
    """
    manifest = read_manifest(folder)
    read = {name: sha256 for name, sha256 in manifest.files.items() if reads(name)}
    gone = set(pruned_files(folder))
    _require_own(folder, manifest, reads)
    for name, sha256 in changed_files(folder, read, how):
        if sha256 is not None:
            require_hash(folder, manifest, name, sha256)
        elif name not in gone:
            raise _changed(folder, manifest, f"{folder / name} is missing")


def changed_files(folder: Path, named: Mapping[str, str], how: VerifyInputs) -> Iterator[tuple[str, str | None]]:
    """Yield the files of a folder that are not as they are named, each with the hash that it has now, None where it is missing.

    Args:
        folder: where they lie.
        named: what sha256 they had, by name.
        how: what is done about large files; see `verify`.

    Raises:
        GtrTurboError: a large file is not to be read, and looks otherwise than when it was last hashed.
    """
    known, hashed = looks(), {}
    for name, sha256 in named.items():
        file = folder / name
        if not file.is_file():
            yield name, None
            continue
        look = Look(sha256, mark_of(file))
        if is_large(look) and _is_believed(file, look, how, known.get(str(file.resolve()))):
            continue
        if (found := sha256_file(file)) != sha256:
            yield name, found
        else:
            hashed[name] = look
    remember(folder, hashed)


def hashes_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash files of others, by name; a large one that looks as when it was last hashed is not read again."""
    known, found = looks(), dict[str, Look]()
    for name in names:
        mark = mark_of(folder / name)
        then = known.get(str((folder / name).resolve()))
        found[name] = then if then and then.mark == mark else Look(sha256_file(folder / name), mark)
    remember(folder, found)
    return {name: look.sha256 for name, look in found.items()}


def require_hash(folder: Path, manifest: Manifest, name: str, sha256: str) -> None:
    """Refuse a file of an artifact whose hash is another than its manifest says.

    Raises:
        GtrTurboError: it is, or the manifest does not name it.
    """
    named = manifest.files.get(name)
    if named is None:
        raise _changed(folder, manifest, f"{folder / name} is there, and {manifest.stage} did not write it")
    if sha256 != named:
        raise _changed(
            folder, manifest, f"{folder / name} is not what {manifest.stage} wrote ({short(sha256)}, not {short(named)})"
        )


def read_verified(folder: Path, name: str, manifest: Manifest | None = None) -> bytes:
    """Read a small file of an artifact, as its manifest says it is.

    Raises:
        GtrTurboError: it is missing or changed, or there is no artifact.
    """
    manifest = manifest or read_manifest(folder)
    if not (folder / name).is_file():
        raise _changed(folder, manifest, f"{folder / name} is missing")
    content = (folder / name).read_bytes()
    require_hash(folder, manifest, name, sha256_of(content))
    return content


def _require_own(folder: Path, manifest: Manifest, reads: Callable[[str], bool]) -> None:
    """Refuse files that lie among an artifact's and are none of its own: some would be read in the place of others."""
    for name in list_files(folder):
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if name not in manifest.files and reads(name) and not hidden:
            raise _changed(folder, manifest, f"{folder / name} is there, and {manifest.stage} did not write it")


def _is_believed(file: Path, now: Look, how: VerifyInputs, then: Look | None) -> bool:
    if how == "always":
        return False
    if then is None or then.sha256 != now.sha256:  # Nothing is known of this content.
        return how == "never"
    if then.mark == now.mark:
        return True
    if how == "never":
        raise GtrTurboError(
            f"{file} has another size or time than when it was last found whole.", "have it read: --verify-inputs once"
        )
    return False


def _changed(folder: Path, manifest: Manifest, what: str) -> GtrTurboError:
    place = shell_word(str(folder))
    return GtrTurboError(
        f"{what}.", f"bring it back as it was, or make {folder} again with {manifest.stage}; see: gtrturbo show {place} --check"
    )
