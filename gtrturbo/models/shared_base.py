"""Which weights stay on a device between the stages of a run: the frozen base under LoRA adapters, and nothing else.

The base is never handed out itself. Each policy gets modules of its own around the same tensors, so that the adapter, its
hooks and every setting go away with the policy, and the base stays as it was loaded. An adapter that PEFT writes into the
tensors themselves has a base for itself.
"""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.models.hub_names import folder_of
from gtrturbo.store.names import ADAPTER_WEIGHTS
from gtrturbo.store.run_cache import cached, drop
from gtrturbo.store.safetensors_files import read_header

CACHED_AS = "base"
# A second model may stand beside the base where as large a share of the device's memory stays free for the work.
FREE_SHARE = 0.5
MEMINFO = Path("/proc/meminfo")
# Values of init_lora_weights by which PEFT fills the factors alone; by others (pissa, olora, …) it takes their product from W.
OF_FACTORS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
# Parts of an adapter's config that change no weights, whatever they say; kasa_config, for one, cuts them to a rank.
HARMLESS = ("eva_config", "loftq_config", "runtime_config")
STACK = 3  # dimensions
FACTORS = re.compile(r"\.(lora_|trainable_tokens_)")


def shared_base(base: str, *, revision: str, dtype: str, device: str, load: Callable[[], Any]) -> Any:
    """Return a frozen model that shares its tensors with the base that a run keeps; alone it has it for itself.

    Args:
        base: folder or hub id.
        revision: of a hub id.
        dtype, device: of the weights, as the user named them.
        load: reads the base; called where none of this identity, dtype and device is kept.
    """

    def kept() -> tuple[Any, list[tuple[int, int]]]:
        loaded = load()
        return loaded, _marks(loaded)

    key = fingerprint(base, revision), dtype, device
    pristine, marks = cached(CACHED_AS, key, kept)
    if _marks(pristine) != marks:  # Something has written into it all the same.
        drop(CACHED_AS)
        pristine, _ = cached(CACHED_AS, key, kept)
    return copy.deepcopy(pristine, {id(tensor): tensor for tensor in _tensors(pristine)})


def writes_into_base(adapter: Path) -> bool:
    """Tell whether PEFT may write into the tensors under an adapter: when it loads it, or while it is trained.

    So it does with biases, with starts that take the product of the factors from W, and with what the adapter's file holds
    of the base itself, such as an embedding.
    """
    config = adapter_config(adapter)
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        return True
    if str(config.get("init_lora_weights") or None).lower() not in OF_FACTORS:
        return True
    if any(value and name.endswith("_config") and name not in HARMLESS for name, value in config.items()):
        return True
    saved = config.get("modules_to_save")  # Of these PEFT makes copies first.
    saved = [f".{name}." for name in saved] if isinstance(saved, list) else []
    try:
        names = [entry.name for entry in read_header(adapter / ADAPTER_WEIGHTS)[1]]
    except GtrTurboError:
        return True  # What is wrong with the file, who loads it says.
    return not all(FACTORS.search(name) or any(each in f".{name}" for each in saved) for name in names)


def _tensors(model: Any) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _marks(model: Any) -> list[tuple[int, int]]:
    """Mark tensors so that other marks say that one was written into, or given other memory; none of them is read."""
    # A stack of experts with factors is bound anew in each pass, which torch counts as a write.
    return [(tensor.data_ptr(), 0 if tensor.ndim == STACK else tensor._version) for tensor in _tensors(model)]


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
