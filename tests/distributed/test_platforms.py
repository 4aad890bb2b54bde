"""Systems other than Linux, as far as they can be played here: what they lack is taken away before gtrturbo is imported."""

import subprocess
import sys

import pytest

WINDOWS = """
import os, signal, sys
for name in ("fcntl", "resource", "termios", "pwd"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGALRM", "SIGKILL", "setitimer", "ITIMER_REAL"):
    delattr(signal, name)
for name in ("fork", "geteuid", "O_NOFOLLOW", "O_DIRECTORY"):
    delattr(os, name)
sys.platform = "win32"
"""
MACOS = """
import os
for name in ("sched_getaffinity", "posix_fallocate", "posix_fadvise", "copy_file_range"):
    delattr(os, name)
"""


def run(before: str, *words: str) -> subprocess.CompletedProcess[str]:
    text = f"{before}\nimport sys\nsys.argv = {['gtrturbo', *words]!r}\nfrom gtrturbo.__main__ import main\nmain()\n"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)


@pytest.mark.parametrize("words", [(), ("--help",), ("merge", "a", "--out", "b")])
def test_windows_is_told_where_it_works(words):
    done = run(WINDOWS, *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "runs on Linux and macOS, and on Windows in WSL" in done.stderr and "wsl --install" in done.stderr


def test_windows_is_told_so_in_python_too():
    done = subprocess.run([sys.executable, "-c", f"{WINDOWS}\nimport gtrturbo\ngtrturbo.merge"], capture_output=True, text=True)
    assert "GtrTurboError: gtrturbo runs on Linux and macOS" in done.stderr


def test_what_macos_lacks_is_done_otherwise(warm, ppo, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert run("", "merge", str(ppo), "--base", str(warm), "--out", str(here)).returncode == 0
    done = run(MACOS, "merge", str(ppo), "--base", str(warm), "--out", str(there))
    assert done.returncode == 0, done.stderr
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
    assert run(MACOS, "show", str(there), "--check").returncode == 0
