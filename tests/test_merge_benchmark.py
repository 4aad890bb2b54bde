"""The benchmarks of merge: what is drawn is a base and checkpoints around it, and both paths give the same bytes."""

from pathlib import Path

import numpy as np
import pytest

from gtrturbo.merging import stream
from gtrturbo.store.open_files import Files, read_tensor, widen
from gtrturbo.store.safetensors_files import read_layout

ROOT = Path(__file__).parent.parent


@pytest.fixture
def merge_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.benchmarks import merge_gpu

    return merge_gpu


def test_the_compiled_path_and_torch_give_the_same_bytes(merge_gpu, tmp_path, monkeypatch, capsys):
    kernels = iter([None, *[stream.compiled_kernel(), None] * 2])  # Torch in the place of a GPU.
    monkeypatch.setattr(stream, "compiled_kernel", lambda: next(kernels))
    words = ["--shapes", "tiny", "--device", "cpu", "--repeats", "1", "--work", str(tmp_path / "work")]
    merge_gpu.main(words)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert [row.split()[1] for row in rows] == ["linear", "ties"]
    assert all(row.endswith("same bytes: True") for row in rows)


def test_what_is_drawn_is_a_base_and_noise_around_it(merge_gpu, tmp_path):
    model = merge_gpu.build(tmp_path, "tiny", layers=1, count=2, device="cpu")
    vectors, files = [], Files()
    for folder in (model.base, *model.checkpoints):
        files.open(folder / "model.safetensors")
        layout = read_layout(folder)
        assert not any(".1." in name for name in layout.entries)
        vectors.append(np.concatenate([widen(read_tensor(files, entry)).ravel() for entry in layout.entries.values()]))
    files.close()
    assert model.size == sum((folder / "model.safetensors").stat().st_size for folder in (model.base, *model.checkpoints))
    # Standard deviations of 1e5 draws are known to half a per cent; bfloat16 rounds to 0.4 % of 0.02 at most.
    assert vectors[0].std() == pytest.approx(0.02, rel=0.02)
    for vector in vectors[1:]:
        assert (vector - vectors[0]).std() == pytest.approx(2e-3, rel=0.02)
