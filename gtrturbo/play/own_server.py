"""A vLLM of our own: started for one stage, with flags that follow from its checkpoint, and ended with it.

vLLM pins other versions than this package, so it is the Python of an environment of its own that runs it, and the artifacts on
disk are the only channel.
"""

import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gtrturbo.distributed.children import take_along
from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_architecture
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.under_adapter import base_of
from gtrturbo.play.connection import open_in_time
from gtrturbo.play.failures import AwayError, EndedError
from gtrturbo.play.lora_serving import legal_rank, rank_of
from gtrturbo.play.one_process import require_one_process

MODULE = "vllm.entrypoints.openai.api_server"
HOST = "127.0.0.1"
PATIENCE = 1800.0  # seconds until a large model is loaded
TOLD_AFTER = 60.0  # seconds of loading after which a user is told where to look
GLANCE = 0.5  # seconds
TIME_TO_END = 20.0  # seconds in which it may clear up
LAST_WORDS = 300  # characters of its last line
LOG, LOG_END = "gtrturbo-vllm-", ".log"  # Between them the process that it was started by, and something random.
OLD = 86400.0  # seconds after which nobody reads the log of a process that has ended
END_READ = 1 << 20  # bytes of the end of its log
# What steers a terminal: colours and the like, titles, and what else has one letter.
ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
CAUSE = re.compile(r"(\w*(?:Error|Exception): .+)")
ADAPTERS = ("--enable-lora", "--enable-tower-connector-lora")
MARK = "GTRTURBO_SERVER"  # in the environment of a server and all that it starts, by which they are found: its log
AROUND = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONSAFEPATH": "1",  # What lies in the current folder, such as one named vllm, is no module of its.
}
# What would make another server of it: one that asks for a key, that is one of several, that serves another folder, made-up
# weights or the model in place of an unknown adapter, or that lives on when its engine has died.
# VLLM_PORT is not where it listens.
LEFT_OUT = {
    "VLLM_API_KEY",
    "VLLM_PORT",
    *(f"VLLM_DP_{name}" for name in ("RANK", "RANK_LOCAL", "SIZE", "MASTER_IP", "MASTER_PORT")),
    "VLLM_MODEL_REDIRECT_PATH",
    "VLLM_USE_MODELSCOPE",
    "VLLM_TEST_FORCE_LOAD_FORMAT",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY",
    "VLLM_SKIP_MODEL_NAME_VALIDATION",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH",
}
# Without a GPU: no binding to cores that others may have, nothing that is compiled by a C++ compiler first, and a prefill that is
# not cut: with a seed that would end the engine.
ON_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENGINE_READY_TIMEOUT_S": str(int(PATIENCE)),
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
FLAGS_ON_CPU = ("--max-num-batched-tokens", "16384", "--enforce-eager")


def flags_of(path: Path, *, dtype: str, port: int, on_cpu: bool) -> list[str]:
    """Return the flags with which vLLM serves a checkpoint as training needs it.

    Args:
        path: the checkpoint, full weights or an adapter.
        dtype: of the weights; auto is the type on disk.
        port: to listen at.
        on_cpu: there is no GPU.
    """
    adapter = is_adapter(path)
    model = base_of(path) if adapter else str(path)
    stored = str(load_architecture(path).dtype or torch.float32).removeprefix("torch.")
    flags = ["--model", str(Path(model).resolve()), "--host", HOST, "--port", str(port)]
    flags += ["--logprobs-mode", "processed_logprobs", "--dtype", stored if dtype == "auto" else dtype]
    flags += ["--max-model-len", "auto"]  # As much of the model's context as its memory holds: else vLLM ends where that is less.
    if adapter:
        flags += [*ADAPTERS, "--max-lora-rank", str(legal_rank(rank_of(path)))]
    return [*flags, *FLAGS_ON_CPU] if on_cpu else flags


def environment_of(given: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """Return the environment that vLLM is started in: the given one, but for what would make another server of it."""
    kept = {name: value for name, value in given.items() if name not in LEFT_OUT}
    return {**(ON_CPU if on_cpu else {}), **kept, **AROUND}


@dataclass(frozen=True)
class OwnServer:
    """A server that was started here: its address, its process, the file that it writes to, and when it was begun.

    `began` is in seconds since 1970, by the clock that files are stamped by: what a process tells of itself is cut to a second.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def require_running(self) -> None:
        """Refuse to go on with a server that has ended.

        Raises:
            EndedError: says with which words, and where there are more.
        """
        if (code := self.process.poll()) is not None:
            raise EndedError(
                f"vLLM ended in the middle of its work (exit code {code}); the last that it says is: {last_words(self.log)}",
                f"see {self.log}; mend the cause, such as too little memory, and give the same command again.",
            )


@contextmanager
def own_server(path: Path, python: str, *, dtype: str) -> Iterator[OwnServer]:
    """Run vLLM for as long as the block runs; it ends with this process, however that ends.

    What it writes is kept where an error names the file.

    Args:
        path: the checkpoint that is served.
        python: of the environment that has vLLM.
        dtype: see `flags_of`.

    Raises:
        GtrTurboError: it does not start, or fails in the middle; names what it wrote.
    """
    require_one_process(group().world.size)
    on_cpu, port = not torch.cuda.is_available(), _free_port()
    command = [python, "-m", MODULE, *flags_of(path, dtype=dtype, port=port, on_cpu=on_cpu)]
    _remove_old_logs()
    descriptor, name = tempfile.mkstemp(prefix=f"{LOG}{os.getpid()}-", suffix=LOG_END)
    named = False
    try:
        with os.fdopen(descriptor, "wb") as log:
            began = time.time()
            process = _start(command, environment_of(os.environ, on_cpu=on_cpu) | {MARK: name}, log)
        with _ending(process, f"{MARK}={name}"):
            yield from _served(OwnServer(f"http://{HOST}:{port}", process, Path(name), began))
    except GtrTurboError as error:
        named = name in error.fix
        raise
    finally:
        if not named:
            Path(name).unlink(missing_ok=True)


def _remove_old_logs() -> None:
    """Remove the user's logs of processes that have ended, such as killed ones, to which nothing was written for a day."""
    for log in Path(tempfile.gettempdir()).glob(f"{LOG}*{LOG_END}"):
        with suppress(FileNotFoundError):  # Another removed it.
            found = log.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > OLD and _has_ended(log):
                log.unlink()


def _has_ended(log: Path) -> bool:
    """Tell whether the process has ended that started the server of a log."""
    number = log.name.removeprefix(LOG).partition("-")[0]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError, OverflowError):  # No number of a process, or another user's.
        return False
    return False


def _served(server: OwnServer) -> Iterator[OwnServer]:
    _wait(server)
    try:
        yield server
    except AwayError as error:
        server.require_running()
        raise GtrTurboError(error.what, f"see {server.log} for what it writes; start it anew by the same command.") from None


@contextmanager
def _ending(process: subprocess.Popen[bytes], mark: str) -> Iterator[None]:
    """End the server and what it started with the block, or its group with this process where that is killed."""
    call_off = take_along([-process.pid])
    try:
        yield
    finally:
        for way in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, way)
            for number in _marked(mark):
                with suppress(ProcessLookupError):
                    os.kill(number, way)
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIME_TO_END)
        call_off()


def _marked(mark: str) -> list[int]:
    """Find the processes that have a mark in their environment, whatever their group and session; where the system has /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended, or is another user's.
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


def _start(command: list[str], environment: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    except OSError as error:
        raise GtrTurboError(
            f"{command[0]} cannot be run: {error.strerror}.", "name a Python that has vLLM: --vllm-python PATH"
        ) from None


def _wait(server: OwnServer) -> None:
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < PATIENCE and server.process.poll() is None:
        # Another may have taken the port, and ours ends then.
        if _is_healthy(server.url) and server.process.poll() is None:
            return
        if waited > TOLD_AFTER and not told:
            told = True
            complain(f"vLLM is still loading after {waited:.0f} s; what it writes is in {server.log}.")
        time.sleep(GLANCE)
    raise GtrTurboError(
        f"vLLM did not start; the last that it says is: {last_words(server.log)}",
        f"see {server.log}; --vllm-python names the Python of an environment that has vLLM.",
    )


def _is_healthy(url: str) -> bool:
    with (
        suppress(OSError, http.client.HTTPException, ValueError),
        open_in_time(urllib.request.Request(f"{url}/health"), seconds=10.0),
    ):
        return True
    return False


def last_words(log: Path) -> str:
    """Return what a server gave as the cause of its end, or else its last line; of 300 characters at most."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - END_READ))
        lines = ESCAPES.sub("", file.read().decode(errors="replace")).strip().splitlines() or ["nothing"]
    # Its processes end one after another, and all but the first say that another failed.
    causes = [found[1] for line in lines if (found := CAUSE.search(line)) and "root cause" not in line]
    last = (causes or lines)[-1]
    return (last.removesuffix(")") if last.count("(") < last.count(")") else last)[:LAST_WORDS]  # Said in brackets.
