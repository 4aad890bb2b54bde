"""Processes that are taken along by one that is killed, and left alone where that was called off."""

import os
import signal
import subprocess
import sys
import time

import pytest

# Starts a process that would outlive it, says its number, and waits.
OWNER = """
import subprocess, sys
from gtrturbo.distributed.children import take_along
other = subprocess.Popen(["sleep", "60"], start_new_session=True)
call_off = take_along([-other.pid if sys.argv[1] == "group" else other.pid])
if sys.argv[1] == "off":
    call_off()
    call_off()
print(other.pid, flush=True)
sys.stdin.read()
"""


def is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("said", "left"), [("on", False), ("group", False), ("off", True)])
def test_what_a_killed_process_took_along_is_gone(said, left):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, said], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    number = int(owner.stdout.readline())
    try:
        assert is_there(number)
        owner.kill()
        owner.wait()
        until = time.monotonic() + (20 if not left else 1)
        while is_there(number) and time.monotonic() < until:
            time.sleep(0.05)
        assert is_there(number) is left
    finally:
        if is_there(number):
            os.kill(number, signal.SIGKILL)
