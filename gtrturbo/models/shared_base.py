"""Which weights stay on a device between the stages of a run: the frozen base under LoRA adapters, and nothing else.

The base is never handed out itself. Each policy gets modules of its own around the same tensors, so that the adapter, its
hooks and every setting go away with the policy, and the base stays as it was loaded.
"""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gtrturbo.models.hub_names import folder_of
from gtrturbo.store.run_cache import cached, drop

CACHED_AS = "base"
# A second model may stand beside the base where as large a share of the device's memory stays free for the work.
FREE_SHARE = 0.5
MEMINFO = Path("/proc/meminfo")


def shared_base(base: str, *, revision: str, dtype: str, device: str, load: Callable[[], Any]) -> Any:
    """Return a frozen model that shares its tensors with the base that a run keeps; alone it has it for itself.

    Args:
        base: folder or hub id.
        revision: of a hub id.
        dtype, device: of the weights, as the user named them.
        load: reads the base; called where none of this identity, dtype and device is kept.
    """
    pristine = cached(CACHED_AS, (fingerprint(base, revision), dtype, device), load)
    tensors = [*pristine.parameters(), *pristine.buffers()]
    return copy.deepcopy(pristine, {id(tensor): tensor for tensor in tensors})


def fingerprint(base: str, revision: str) -> tuple[Any, ...]:
    """Tell the content of a model's files apart without reading them: path, size, inode and times of change of each."""
    folder = folder_of(base, revision)
    if folder is None:
        return (base, revision)
    files = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    marks = [(name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in files]
    return (str(folder.resolve()), *marks)


def make_room(path: Path, device: str) -> None:
    """Let the kept base go unless the full weights in `path` leave enough of the device's memory free beside it."""
    size = sum(file.stat().st_size for file in path.glob("*.safetensors") if file.is_file())
    free, total = memory(device)
    if free - size < FREE_SHARE * total:
        drop(CACHED_AS)


def memory(device: str) -> tuple[int, int]:
    """Return how much memory a device has free, and in all, in bytes; the host's for all but CUDA."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # What the last stage has left belongs to torch until then.
        return torch.cuda.mem_get_info(device)
    if not MEMINFO.is_file():  # Only Linux has it; elsewhere no second model stands beside the base.
        return 0, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":") for line in MEMINFO.read_text(encoding="ascii").splitlines())
    free, total = (1024 * int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    return free, total
