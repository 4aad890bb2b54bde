"""Names of models on the hub, looked up before anything heavy is imported."""

import socket
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.store.names import MODEL_CONFIG, SNAPSHOTS

PATIENCE = 10  # seconds until the hub has to answer
GREETING = 3.0  # seconds until it has to be connected to
LONGEST_ID = 96  # characters of a model's id on the hub
MEND = f"give {', '.join(BUILT_IN)}, a local folder, or the Hugging Face id of a model that can be reached or was fetched before."


def require_found(model: str, revision: str | None) -> None:
    """Refuse a name that is no built-in model and no folder, and that the hub does not know or cannot be asked about.

    Raises:
        GtrTurboError: says which it is, and which built-in name is nearest.
    """
    if model in BUILT_IN or Path(model).is_dir():
        return
    from huggingface_hub import hf_hub_download  # Takes half a second to import.
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    meant = get_close_matches(model, BUILT_IN, n=1)
    mend = f"did you mean {meant[0]}?" if meant else MEND
    try:
        hf_hub_download(model, MODEL_CONFIG, revision=revision, etag_timeout=PATIENCE, local_files_only=not is_hub_reached())
    except GatedRepoError:
        raise GtrTurboError(
            f"{model} is shown only to those whom its owner has let in.", "ask on its page, then: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise GtrTurboError(f"the hub knows no model {model}, or does not show it to you.", mend) from None
    except RevisionNotFoundError:
        raise GtrTurboError(f"{model} has no revision {revision}.", "see its page for those that it has.") from None
    except HFValidationError:
        raise GtrTurboError(f"{model} is no folder, and no name of a model either.", mend) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise GtrTurboError(f"{model} is no folder, was not fetched before, and the hub is not reached.", mend) from None
    except EntryNotFoundError:
        return  # What it holds instead is told by the library that reads it.


def could_be_id(model: Path) -> bool:
    """Tell whether a name has the form of an id: owner/name, or a name alone."""
    of_two = not model.is_absolute() and len(model.parts) in (1, 2) and model.parts[0] not in (".", "..", "~")
    return of_two and len(str(model)) <= LONGEST_ID


def folder_of(model: str, revision: str | None) -> Path | None:
    """Return the folder of a model, that of a hub id in the local cache; None where it is not on this machine."""
    return Path(model) if Path(model).is_dir() else cached_folder(model, revision)


def cached_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder of a hub id in the local cache, whatever lies in the working directory; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache  # As above.
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, MODEL_CONFIG, revision=revision or "main")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def snapshots_of(model: str) -> list[Path]:
    """List the folders of all revisions of a hub id in the local cache."""
    from huggingface_hub import constants  # As above.
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / SNAPSHOTS
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def commit_of(folder: Path) -> str | None:
    """Name the commit of a folder in the local cache of the hub; None of any other folder."""
    return folder.name if folder.parent.name == SNAPSHOTS else None


def is_hub_reached() -> bool:
    """Tell whether the hub can be connected to: its library tries for half a minute where there is no network at all."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    hub = urlsplit(ENDPOINT)
    if HF_HUB_OFFLINE or not hub.hostname:
        return False
    if getproxies().keys() & {"http", "https", "all"}:
        return True  # What lies behind a proxy is not known without asking it.
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname, port), timeout=GREETING).close()
    except OSError:
        return False
    return True
