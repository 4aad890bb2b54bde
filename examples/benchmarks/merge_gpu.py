"""How long does `gtrturbo merge` take on the CPU and with `--device cuda`, and are the bytes the same? Nothing is downloaded.

    python -m examples.benchmarks.merge_gpu                          # 0.5 B, and 4 of the 28 layers of 7 B; about 17 GB of disk
    python -m examples.benchmarks.merge_gpu --shapes tiny --device cpu --work /tmp/merge-gpu       # does the script work?

Random bfloat16 checkpoints of the shapes are drawn on the device, each merge is made in this process, after one of a small model
that starts the device, and the best of `--repeats` counts. Inputs are hashed in the first alone: what is timed is the merge.
"""

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.benchmarks.merge import MOVED, SHAPES, SPREAD, config_of, same, tensors_of
from gtrturbo.config import MergeConfig
from gtrturbo.stages import execute
from gtrturbo.store.open_files import Files
from gtrturbo.store.safetensors_files import header_of

STEP = 1 << 24  # entries that are drawn at once


@dataclass(frozen=True)
class Model:
    """A base, its checkpoints, and the bytes of all."""

    base: Path
    checkpoints: tuple[Path, ...]
    size: int


def shapes_of(size: str, layers: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a model, of its first layers alone where there are more."""
    kept = tuple(f"model.layers.{number}." for number in range(layers))
    every = tensors_of(size).items()
    return {name: shape for name, shape in every if not name.startswith("model.layers.") or name.startswith(kept)}


def build(folder: Path, size: str, *, layers: int, count: int, device: str) -> Model:
    """Draw a base and checkpoints around it: every random number is drawn in one order, so tensors are made side by side."""
    shapes = shapes_of(size, layers)
    header = header_of({name: ("BF16", shape) for name, shape in shapes.items()})
    total = len(header) + sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    folders = [folder / name for name in ("base", *(f"checkpoint{number}" for number in range(count)))]
    generator = torch.Generator(device).manual_seed(0)
    files, offset = Files(), len(header)
    for each in folders:
        each.mkdir(parents=True)
        (each / "config.json").write_text(json.dumps(config_of(size)))
        files.create(each / "model.safetensors", header, total)
    for shape in shapes.values():
        entries = torch.Size(shape).numel()
        for first in range(0, entries, STEP):
            part = min(STEP, entries - first)
            drawn = torch.randn(1 + count, part, generator=generator, device=device)
            base = (drawn[0] * SPREAD).bfloat16()
            rows = [base, *((base + MOVED["dense"] * noise).bfloat16() for noise in drawn[1:])]
            for each, row in zip(folders, rows, strict=True):
                files.write(each / "model.safetensors", offset, row.view(torch.int16).cpu().numpy())
            offset += 2 * part
    files.close()
    return Model(folders[0], tuple(folders[1:]), total * (1 + count))


def timed(model: Model, out: Path, *, method: str, device: str, repeats: int) -> float:
    """The least seconds of some merges."""
    seconds = []
    for _ in range(repeats):
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        execute(MergeConfig(out=out, base=model.base, checkpoints=model.checkpoints, method=method, device=device))
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def compare(model: Model, work: Path, size: str, options: argparse.Namespace) -> None:
    for method in options.methods:
        outs = [work / f"{size}-{method}-{name}" for name in ("first", "second")]
        times = [
            timed(model, out, method=method, device=device, repeats=options.repeats)
            for out, device in zip(outs, ("cpu", options.device), strict=True)
        ]
        rates = " ".join(f"{seconds:7.2f} s {model.size / seconds / 1e9:6.2f} GB/s" for seconds in times)
        print(f"{size:6} {method:8} {rates}   {times[0] / times[1]:6.2f}×   same bytes: {same(*outs)}", flush=True)
        for out in outs:
            shutil.rmtree(out)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5b", "7b"])
    parser.add_argument("--layers", type=int, default=4, help="of 7b; all of the others")
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["linear", "ties"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-merge-gpu"))
    options = parser.parse_args(words)
    shutil.rmtree(options.work, ignore_errors=True)
    start = build(options.work / "start", "tiny", layers=1, count=2, device=options.device)
    timed(start, options.work / "out", method="ties", device=options.device, repeats=1)
    print(f"{'':15} {'cpu':>9} {'of inputs':>11} {options.device:>9} {'of inputs':>11}   cpu / {options.device}")
    for size in options.shapes:
        layers = options.layers if size == "7b" else SHAPES[size][1]
        model = build(options.work / size, size, layers=layers, count=options.checkpoints, device=options.device)
        compare(model, options.work, size, options)
        shutil.rmtree(options.work / size)


if __name__ == "__main__":
    main()
