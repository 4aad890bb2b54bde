"""Fixtures that write checkpoints and merge them."""

import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from checkpoints import DEVICES, SHAPES, Folders, noisy

from gtrturbo.merging import building
from gtrturbo.merging.kernel import CompiledKernel, compiled_kernel
from gtrturbo.merging.tiles import TorchKernel


@pytest.fixture(scope="session", params=DEVICES)
def kernels(request):
    """The compiled loops, and the same in torch."""
    compiled = compiled_kernel()
    if compiled is None:
        pytest.skip("no C compiler")
    return compiled, TorchKernel(request.param)


@pytest.fixture(scope="session", params=["-mno-avx512f", "-mno-avx2 -mno-avx512f"])
def older_kernels(request, tmp_path_factory):
    """The loops for processors that have less than this one, and the same in torch."""
    if platform.machine() != "x86_64" or compiled_kernel() is None:
        pytest.skip("no C compiler for such processors")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    words = [
        *building._compiler(),
        *building.FLAGS,
        *request.param.split(),
        "-o",
        str(library),
        *map(str, building.SOURCES),
        "-lm",
    ]
    subprocess.run(words, check=True)
    return CompiledKernel(library), TorchKernel("cpu")


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def family(folders) -> Callable[..., tuple[Path, list[Path]]]:
    """Write a base and checkpoints around it: family(k, dtypes="BF16", shards=2, …) -> (base, checkpoints)."""

    def make(k: int, *, shapes=None, dtypes: str = "F32", shards: int | Sequence[int] = 1, scale: float = 0.1, seed: int = 0):
        base, others = noisy(shapes or SHAPES, k, scale=scale, seed=seed)
        counts = [shards] * (k + 1) if isinstance(shards, int) else list(shards)
        written = folders.write(f"base{seed}", base, dtypes, shards=counts[0])
        pairs = zip(others, counts[1:], strict=True)
        return written, [folders.write(f"checkpoint{seed}-{i}", o, dtypes, shards=n) for i, (o, n) in enumerate(pairs)]

    return make
