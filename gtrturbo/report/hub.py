"""A repository of the Hugging Face hub: what lies there, and a folder that is sent in one commit.

What lies there already and would be loaded in the place of what is sent goes in the same commit; the history of the repository
keeps it. Files of other kinds stay.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from gtrturbo import __version__
from gtrturbo.distributed.escapes import one_line
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.hub_names import is_hub_reached
from gtrturbo.store.names import (
    ADAPTER_CONFIG,
    BASE_FOLDER,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    MORE_TEMPLATES,
    QUANTISATION_CONFIGS,
    RENDERER_FILES,
)

MOST_TOLD = 300  # characters of what the hub says
# What transformers, PEFT and servers look for in a model's folder: weights, configs, and what makes prompts. Of weights in
# several files, or in other ones than are sent, each may be taken before those that are sent.
LOADED = (
    *("*.safetensors", "*.safetensors.index*.json", "pytorch_model*.bin*", "adapter_model.*", "consolidated*.pt*"),
    *(MODEL_CONFIG, ADAPTER_CONFIG, GENERATION_CONFIG, *QUANTISATION_CONFIGS, "params.json"),
    *(*RENDERER_FILES, "*.jinja", "tekken.json"),
)
FOLDERS = (".", BASE_FOLDER, MORE_TEMPLATES)  # where they look


@dataclass(frozen=True)
class Remote:
    """What a repository holds, and whether it is private."""

    files: tuple[str, ...]
    private: bool


def in_the_way(there: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Name the files of a repository that could be loaded in the place of what is sent; those that are sent replace theirs."""
    places = [PurePosixPath(name) for name in sorted({*there} - {*sent})]
    return [str(each) for each in places if str(each.parent) in FOLDERS and _is_loaded(each.name)]


def _is_loaded(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in LOADED)


def look(repository: str) -> Remote | None:
    """Read what a repository holds; None where there is none, or it is not shown to who asks.

    Raises:
        GtrTurboError: the hub is not reached, or answers otherwise.
    """
    if not is_hub_reached():
        raise GtrTurboError(f"what {repository} holds was not looked up: the hub is not reached.", "check the connection.")
    with _asking(repository, "tell of") as (api, refusals):
        try:
            return _held(api, repository)
        except refusals.RepositoryNotFoundError:
            return None


def send(folder: Path, repository: str, *, private: bool) -> tuple[str, list[str]]:
    """Send a folder, into a new repository if there is none; return its address, and which files went because of it.

    Raises:
        GtrTurboError: the hub refuses, or the repository is there and is not private, and should be.
    """
    sent = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with _asking(repository, "take") as (api, _):
        # Where nothing is said, the owner's settings decide: an organisation may make all that is new private.
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        held = _held(api, repository)
        if private:
            require_private(repository, held)
        gone = in_the_way(held.files, sent)
        api.create_commit(repository, _operations(folder, sent, gone), commit_message=f"gtrturbo {__version__}")
    return str(address), gone


def require_private(repository: str, held: Remote) -> None:
    """Refuse a repository that everybody can read.

    Raises:
        GtrTurboError: it is one.
    """
    if not held.private:
        raise GtrTurboError(
            f"{repository} is there already, and everybody can read it.",
            "make it private in its settings on the hub, choose another name, or leave out --private.",
        )


def _held(api: Any, repository: str) -> Remote:
    return Remote(tuple(api.list_repo_files(repository)), bool(api.repo_info(repository).private))


def _operations(folder: Path, sent: Sequence[str], gone: Sequence[str]) -> list[Any]:
    hub = importlib.import_module("huggingface_hub")
    removed = [hub.CommitOperationDelete(path_in_repo=name, is_folder=False) for name in gone]
    return [*removed, *(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in sent)]


@contextmanager
def _asking(repository: str, what: str) -> Iterator[tuple[Any, Any]]:
    """Yield the hub's client, and its errors, which are told in a sentence; `what` the hub is asked to do with the repository."""
    hub, refusals = importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.errors")
    try:
        yield hub.HfApi(library_name="gtrturbo", library_version=__version__), refusals
    except (*_lost_connections(refusals), OSError) as error:  # What the hub itself answers is an OSError too.
        said = one_line(str(error))[:MOST_TOLD]
        answered = isinstance(error, refusals.HfHubHTTPError | refusals.LocalTokenNotFoundError)
        mend = "log in with: hf auth login" if answered else "check the connection"
        raise GtrTurboError(
            f"the hub did not {what} {repository}: {said}", f"{mend}, then give the same command again."
        ) from None


def _lost_connections(refusals: Any) -> tuple[type[Exception], ...]:
    """Return what the hub's HTTP client raises, whichever it is in the version that is installed."""
    return tuple(each for each in refusals.HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")
