"""Fixtures that write checkpoints and merge them."""

import itertools
import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import DEVICES, SHAPES, Folders, noisy, stored

from gtrturbo.merging import building
from gtrturbo.merging.kernel import CompiledKernel, compiled_kernel
from gtrturbo.merging.tiles import TorchKernel
from gtrturbo.store.safetensors_files import header_of

Factors = dict[str, tuple[np.ndarray, np.ndarray]]  # by module: B [rows, rank], A [rank, width]


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


@pytest.fixture
def adapted(folders):
    """Write a base in bfloat16 and adapters: adapted(weights, [factors, …], scale=2) -> (base, adapters)."""

    number = itertools.count().__next__

    def make(weights: dict[str, np.ndarray], given: list[Factors], scale: float = 2.0, dtype: str = "F32"):
        base = folders.write(f"base{number()}", {f"model.{name}.weight": values for name, values in weights.items()}, "BF16")
        paths = []
        for index, factors in enumerate(given):
            path = base.with_name(f"{base.name}-adapter{index}")
            path.mkdir()
            tensors = {}
            for name, (b, a) in factors.items():
                tensors[f"base_model.model.model.{name}.lora_A.weight"] = stored(a, dtype)
                tensors[f"base_model.model.model.{name}.lora_B.weight"] = stored(b, dtype)
            header = header_of({name: (dtype, values.shape) for name, values in tensors.items()})
            parts = b"".join(values.tobytes() for values in tensors.values())
            (path / "adapter_model.safetensors").write_bytes(header + parts)
            rank = len(next(iter(factors.values()))[1])
            config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "base_model_name_or_path": str(base)}
            (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": sorted(factors)}))
            paths.append(path)
        return base, paths

    return make
