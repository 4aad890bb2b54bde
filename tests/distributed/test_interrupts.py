"""What ends a process: signals, and the death of the one that started it."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gtrturbo
from gtrturbo.distributed.children import PARENT

ENDLESS = ["rollout", "--expert", "--task", "numberline", "--env", "image=tiny", "--episodes", "20000", "--out"]
PATIENCE = 60.0


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start():
    """Start Python, and kill at the end of the test what it left running."""
    started: list[subprocess.Popen] = []

    def start_python(*words: str, **more: str) -> subprocess.Popen:
        started.append(_python(words, more))
        return started[-1]

    yield start_python
    for process in started:
        process.kill()
        process.communicate()


def _python(words: tuple[str, ...], more: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | more,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # A shell's background ignores it.
    )  # fmt: skip


AS_ANOTHER_ERROR = """
import os, signal, sys, typer
from gtrturbo.cli.mistakes import ending
from gtrturbo.distributed.interrupts import answer_signals
answer_signals()
try:
    with ending(None, code=1, kept=True):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except BaseException:
            raise ImportError("initialization failed") from None
except typer.Exit as error:
    sys.exit(error.exit_code)
"""


def test_a_signal_that_a_module_fails_at_while_it_is_loaded_is_told_as_the_signal(start):
    process = start("-c", AS_ANOTHER_ERROR)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert stderr == "interrupted by SIGTERM; the same command goes on from what was finished.\n"


def test_a_signal_leaves_no_draft_says_how_to_go_on_and_has_its_exit_code(start, tmp_path):
    process = start("-m", "gtrturbo", *ENDLESS, str(tmp_path / "turns"))
    log = tmp_path / ".turns.journal" / "0.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0)  # An episode is finished; a log without any would go.
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (143, "")
    assert stderr == "interrupted by SIGTERM; the same command goes on from what was finished.\n"
    assert [path.name for path in tmp_path.iterdir()] == [".turns.journal"]


def test_a_terminal_that_closes_ends_a_process_as_the_other_signals_do(start):
    code = (
        "import os, signal, time\n"
        "from gtrturbo.distributed.interrupts import answer_signals, exit_code\n"
        "answer_signals()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt as error:\n"
        "    print(exit_code(error))"
    )
    assert start("-c", code).communicate(timeout=PATIENCE)[0] == "129\n"


def test_a_signal_that_is_ignored_stays_so(start):
    code = (
        "import os, signal\n"
        "from gtrturbo.distributed.interrupts import answer_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "answer_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('on')"
    )
    assert start("-c", code).communicate(timeout=PATIENCE)[0] == "on\n"


def test_a_signal_that_arrives_while_an_object_is_disposed_of_is_not_lost(start):
    code = (
        "import os, signal, time\n"
        "from gtrturbo.distributed.interrupts import answer_signals, exit_code\n"
        "class Disposed:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "answer_signals()\n"
        "try:\n"
        "    Disposed()\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt as error:\n"
        "    print(exit_code(error))"
    )
    assert start("-c", code).communicate(timeout=PATIENCE)[0] == "143\n"


def test_an_interrupted_command_does_not_wait_for_its_threads(start):
    code = (
        "import os, signal, sys, threading, time, types\n"
        "from gtrturbo import __main__\n"
        "from gtrturbo.distributed.threads import map_at_once\n"
        "def work(seconds):\n"
        "    time.sleep(seconds)\n"
        "def main():\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    map_at_once(work, [50, 50])\n"
        "sys.modules['gtrturbo.cli'] = types.SimpleNamespace(main=main)\n"
        "__main__.main()"
    )
    process = start("-c", code)
    process.communicate(timeout=20)
    assert process.returncode == 143


LARGE = 40_000_000  # entries, in the compiled loops on one core for a good part of a second


def large_model(folder: Path) -> Path:
    """A model of one large tensor of zeros, which takes no room on the disk."""
    header = json.dumps({"w.weight": {"dtype": "BF16", "shape": [LARGE], "data_offsets": [0, 2 * LARGE]}}).encode()
    header += b" " * (-len(header) % 8)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2 * LARGE)
    return folder


def test_ctrl_c_ends_a_merge_in_its_compiled_loops(start, tmp_path):
    a, b, base = (large_model(tmp_path / name) for name in ("a", "b", "base"))
    out = tmp_path / "out"
    process = start("-m", "gtrturbo", "merge", *map(str, (a, b)), "--base", str(base), "--out", str(out), "--threads", "1")
    wait_for((tmp_path / ".out.partial" / "model.safetensors").exists)
    told = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (130, "") and time.monotonic() - told < 10
    assert (
        stderr.splitlines()[-1] == "interrupted by SIGINT; nothing of this stage is kept yet, which the same command begins anew."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]


RUN_CHILD = "import sys; from gtrturbo.distributed.children import run_child; run_child(['endless'])"
CHILD = """
import time
from pathlib import Path

from gtrturbo.distributed.children import follow_parent

follow_parent()
Path("begun").touch()
time.sleep(60)
"""


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_there(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_of_its_own_dies_with_the_run_that_started_it(number, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("endless.py").write_text(CHILD)
    parent = start("-c", RUN_CHILD, PYTHONPATH=f"{tmp_path}:{Path(gtrturbo.__file__).parents[1]}")
    wait_for(Path("begun").exists)
    (child,) = children(parent.pid)
    parent.send_signal(number)
    parent.wait(PATIENCE)
    wait_for(lambda: not is_there(child))


def test_a_stage_whose_parent_died_before_it_could_ask_to_die_with_it_does_not_begin(start, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = start("-m", "gtrturbo", *ENDLESS, str(tmp_path / "turns"), **{PARENT: str(gone.pid)})
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
