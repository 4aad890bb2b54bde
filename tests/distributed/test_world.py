"""Which of several processes this is, and what its share is."""

import pytest

from gtrturbo.distributed.processes import Alone, World, group, working_in, world


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert world() == World(rank=0, size=1, local_rank=0) and world().first


def test_torchrun_says_which_process_this_is(monkeypatch):
    for name, value in (("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert world() == World(rank=9, size=16, local_rank=1) and not world().first


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
