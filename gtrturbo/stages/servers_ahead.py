"""What can be known of servers before any work: hours into a run is late to learn that none is there, or can be started."""

import shutil
import socket
import subprocess
from collections.abc import Iterable
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from gtrturbo.config.addresses import kind_of, servers_of
from gtrturbo.config.choices import BUILT_IN_ENGINES, VLLM
from gtrturbo.distributed.processes import world
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.one_process import require_one_process

GREETING = 2.0  # seconds in which a server has to be connected to
PATIENCE = 60.0  # seconds in which a Python has to say what it has
HAS_NONE = 3
# What lies in the current folder does not count, nor a folder without code, which is a package without an origin.
LOOKS = f"""
import importlib.util, sys
sys.path[:] = filter(None, sys.path)
found = importlib.util.find_spec("vllm")
sys.exit(0 if found and found.origin else {HAS_NONE})
"""
PORTS = {"http": 80, "https": 443}
NAME_ONE = "name the Python of an environment that has vLLM: --vllm-python PATH"


def require_startable(config: Any) -> None:
    """Refuse a stage that is to start a vLLM in several processes, with what is no Python, or with one that has none; nothing of
    vLLM is imported.

    Raises:
        GtrTurboError: names it.
    """
    if _starts(config):
        require_one_process(world().size)
    if fault := _fault(config):
        raise GtrTurboError(f"{fault}.", NAME_ONE)


def _starts(config: Any) -> bool:
    return getattr(config, "engine", None) == VLLM


def _fault(config: Any) -> str:
    return _fault_of(config.vllm_python) if _starts(config) else ""


@cache
def _fault_of(python: str) -> str:
    if shutil.which(python) is None:
        return f"{python} is no program that can be run"
    try:
        said = subprocess.run([python, "-c", LOOKS], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # What starts it says what is wrong.
    return f"{python} has no vLLM" if said.returncode == HAS_NONE else ""


def missing_here(configs: Iterable[Any]) -> list[str]:
    """Say why no vLLM can be started on this machine, or by these processes, a sentence each; see `require_startable`."""
    starting = list(filter(_starts, configs))
    return _several(starting) + [f"On this machine {fault}." for fault in dict.fromkeys(filter(None, map(_fault, starting)))]


def _several(starting: list[Any]) -> list[str]:
    try:
        require_one_process(world().size if starting else 1)
    except GtrTurboError as error:
        return [f"{error.what.removesuffix('.')}: {error.fix}"]
    return []


def unreached(configs: Iterable[Any]) -> list[str]:
    """Say which servers that stages name cannot be connected to as yet; those behind a proxy are not known."""
    engines = dict.fromkeys(getattr(config, "engine", "") for config in configs)
    addresses = dict.fromkeys(url for engine in engines if kind_of(engine) in BUILT_IN_ENGINES for url in servers_of(engine))
    return [f"{url} cannot be connected to; it has to answer when it is asked." for url in addresses if not _is_reached(url)]


def _is_reached(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme in getproxies() or parts.hostname is None:
        return True
    try:
        socket.create_connection((parts.hostname, parts.port or PORTS[parts.scheme]), timeout=GREETING).close()
    except OSError:
        return False
    return True
