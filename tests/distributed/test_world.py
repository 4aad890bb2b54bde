"""Which of several processes this is, and what its share is."""

import os
import subprocess
import sys

import pytest

from gtrturbo.distributed.processes import Alone, World, group, working_in, world
from gtrturbo.errors import GtrTurboError


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert world() == World(rank=0, size=1, local_rank=0) and world().first


def test_torchrun_says_which_process_this_is(monkeypatch):
    for name, value in (("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert world() == World(rank=9, size=16, local_rank=1) and not world().first


ODD = [
    {"RANK": "x"}, {"RANK": "-1"}, {"RANK": ""}, {"RANK": "1.0"}, {"RANK": "9" * 5000}, {"RANK": "٣", "WORLD_SIZE": "9"},
    {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "0"}, {"RANK": "1"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"LOCAL_RANK": "\x1b[31m"},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_an_environment_that_names_no_process_is_refused(monkeypatch, odd):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GtrTurboError, match=r"RANK|WORLD_SIZE") as error:
        world()
    assert "torchrun" in error.value.fix and len(str(error.value)) < 300


SAID = {
    "no number": ({"RANK": "y", "WORLD_SIZE": "2"}, 2, "the environment variable RANK is 'y', which is no number."),
    "no address": ({"RANK": "0", "WORLD_SIZE": "2"}, 1, "the other of 2 processes cannot be reached: "),
    "no port": (
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, 1, "the other of 2 processes cannot be",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "code", "said"), SAID.values(), ids=SAID)
def test_a_command_says_what_is_wrong_with_the_environment_of_several_processes(tmp_path, environment, code, said):
    words = [sys.executable, "-m", "gtrturbo", "init", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "") and done.stderr.startswith(said), done.stderr
    assert len(done.stderr.splitlines()) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_all_processes_are_all_indices_once(size):
    shares = [World(rank, size).share(7) for rank in range(size)]
    assert sorted(index for share in shares for index in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_current_group_is_this_process_alone_unless_a_block_says_otherwise():
    class Two(Alone):
        world = World(1, 2)

    assert group().world == World()
    with pytest.raises(RuntimeError), working_in(Two()):
        assert group().world == World(1, 2)
        raise RuntimeError
    assert group().world == World()
