"""The group of processes over torch.distributed: gloo between processors, NCCL between GPUs.

Control (barriers, small JSON values) always goes over gloo on the CPU; only gradients and weights go between GPUs.
"""

import atexit
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gtrturbo.distributed.processes import UNSET, World, group, working_in, world
from gtrturbo.errors import GtrTurboError, said_by

# One process may play on while the others wait; a process that dies closes its connections, which ends the waiting at once.
PATIENCE = timedelta(days=1)
LAST_WORDS = 5.0
FAILED = "failed"


class Processes:
    """All processes that torchrun started, see `gtrturbo.distributed.processes.Group`."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self._store = store

    def barrier(self) -> None:
        self.gather(None)

    def broadcast(self, value: Any) -> Any:
        content = _encoded(value if self.world.first else None)
        size = torch.tensor(len(content))
        dist.broadcast(size, src=0)
        if not self.world.first:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        return _decoded(content)

    def gather(self, value: Any) -> list[Any]:
        content = _encoded(value)
        sizes = [torch.tensor(0) for _ in range(self.world.size)]
        dist.all_gather(sizes, torch.tensor(len(content)))
        longest = int(max(sizes))
        rows = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(rows, torch.nn.functional.pad(content, (0, longest - len(content))))
        return [_decoded(row[: int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def fails_first(self) -> bool:
        """Tell once, to the process that asks first, that it is the one whose error counts."""
        return self._store.add(FAILED, 1) == 1


def _encoded(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decoded(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())


@cache
def join() -> Processes:
    """Connect with the other processes of this torchrun, once; they part when the process ends.

    Raises:
        GtrTurboError: the environment does not say where they are, or they cannot be reached.
    """
    try:
        store, rank, size = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(world().local_rank)
        dist.init_process_group(backend, store=PrefixStore("gtrturbo", store), rank=rank, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise GtrTurboError(f"the other of {world().size} processes cannot be reached: {said_by(error)}.", UNSET) from error
    atexit.register(dist.destroy_process_group)
    return Processes(world(), store)


@contextmanager
def together() -> Iterator[Processes]:
    """Work in the group of all processes; an error in one ends all, and one of them says why.

    The first process to fail raises its error. What fails in the others is the same error or a consequence of it, so they
    wait in silence to be ended by torchrun, and leave by themselves where nobody ends them.
    """
    processes = join()
    try:
        with working_in(processes):
            yield processes
    except Exception:
        if processes.fails_first():
            raise
        time.sleep(LAST_WORDS)
        raise SystemExit(1) from None


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over the current group, in place."""
    if group().world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum gradients over the current group in float32, all in one message; a parameter that no process reached keeps none."""
    if group().world.size == 1:
        return
    # One more number per parameter: how many processes have a gradient for it.
    reached = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    rows = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = total(torch.cat([reached, *(row.flatten().float() for row in rows)]))
    sizes = [len(parameters), *(p.numel() for p in parameters)]
    reached, *summed = flat.split(sizes)
    for parameter, count, row in zip(parameters, reached.tolist(), summed, strict=True):
        parameter.grad = row.view_as(parameter).to(parameter.dtype) if count else None
