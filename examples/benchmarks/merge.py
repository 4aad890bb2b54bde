"""How fast and how lean is `gtrturbo merge`, beside mergekit and PEFT, on the same synthetic checkpoints in one run?

    python examples/benchmarks/merge.py                          # 4 × 0.5 B in bfloat16, all peers: about 20 minutes on two cores
    python examples/benchmarks/merge.py --size small             # 4 × 20 M: a quick look
    python examples/benchmarks/merge.py --size 7b --checkpoints 10 --no-peers --linked --only full     # memory; 45 GB of disk
    python examples/benchmarks/merge.py --only incremental
    python examples/benchmarks/merge.py --only full --only lora --device cuda      # ours and mergekit's on a GPU, too

Each tool runs in a process of its own, timed from outside, imports included; those of --only full take turns, so that a machine
that slows down slows all of them, and the least of each counts. Memory is the largest sum of anonymous memory of the process and
its children; the rate is that of the inputs, each counted once. The peers need: pip install mergekit==0.1.5
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtrturbo.merging.parts import narrow
from gtrturbo.models.sizes import PUBLISHED, QWEN_7B
from gtrturbo.store.open_files import Files, read_tensor, widen
from gtrturbo.store.safetensors_files import header_of, read_layout

QWEN = PUBLISHED[QWEN_7B]["text"]
# hidden, layers, intermediate, vocabulary, key-value width: Qwen2.5's shapes, small for a quick look.
SHAPES = {
    "tiny": (64, 2, 128, 512, 32),
    "small": (256, 8, 1024, 32768, 64),
    "0.5b": (896, 24, 4864, 151936, 128),
    "7b": (
        QWEN["hidden_size"],
        QWEN["num_hidden_layers"],
        QWEN["intermediate_size"],
        QWEN["vocab_size"],
        QWEN["hidden_size"] // QWEN["num_attention_heads"] * QWEN["num_key_value_heads"],
    ),
}
SPREAD = 0.02
MOVED = {"dense": 2e-3, "rl": 3e-5}
RANK, ALPHA = 64, 128


def tensors_of(size: str) -> dict[str, tuple[int, ...]]:
    hidden, layers, wide, vocabulary, narrow_width = SHAPES[size]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", narrow_width), ("v", narrow_width)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{at}self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{at}mlp.gate_proj.weight"] = shapes[f"{at}mlp.up_proj.weight"] = (wide, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, wide)
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    if size == "7b":
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def config_of(size: str) -> dict[str, object]:
    hidden, layers, wide, vocabulary, narrow_width = SHAPES[size]
    heads = hidden // 32 if size in ("tiny", "small") else hidden // (64 if size == "0.5b" else 128)
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": hidden, "num_hidden_layers": layers,
        "intermediate_size": wide, "vocab_size": vocabulary, "num_attention_heads": heads,
        "num_key_value_heads": narrow_width // (hidden // heads), "dtype": "bfloat16", "tie_word_embeddings": size != "7b",
    }  # fmt: skip


def build(folder: Path, size: str, *, seed: int, base: Path | None, moved: float) -> Path:
    """Write a checkpoint: random weights, or a base plus noise of a size that training leaves."""
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shapes = tensors_of(size)
    header = header_of({name: ("BF16", shape) for name, shape in shapes.items()})
    files = Files()
    path, offset = folder / "model.safetensors", len(header)
    files.create(path, header, len(header) + sum(2 * int(np.prod(shape)) for shape in shapes.values()))
    origin = read_layout(base) if base else None
    if origin:
        files.open(origin.folder / "model.safetensors")
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        start = widen(read_tensor(files, origin.entries[name]).reshape(-1)) if origin else np.zeros(1, np.float32)
        for first in range(0, count, 1 << 22):
            last = min(first + (1 << 22), count)
            noise = rng.standard_normal(last - first, np.float32) * np.float32(moved if origin else SPREAD)
            values = noise + (start[first:last] if origin else 0)
            files.write(path, offset, narrow(values.astype(np.float64), np.dtype(np.uint16)))
            offset += 2 * (last - first)
    files.close()
    (folder / "config.json").write_text(json.dumps(config_of(size)))
    return folder


def linked(folder: Path, source: Path) -> Path:
    """Make a checkpoint of the same content that takes no room."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not (folder / file.name).exists():
            os.link(file, folder / file.name)
    return folder


def build_adapter(folder: Path, size: str, base: Path, *, seed: int) -> Path:
    """Write a rank-64 LoRA adapter of all linear layers."""
    if (folder / "adapter_config.json").is_file():
        return folder
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensors_of(size).items():
        if name.endswith("_proj.weight"):
            at = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{at}.lora_A.weight"] = rng.standard_normal((RANK, shape[1]), np.float32) * np.float32(0.02)
            tensors[f"{at}.lora_B.weight"] = rng.standard_normal((shape[0], RANK), np.float32) * np.float32(0.002)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": names, "bias": "none",
        "base_model_name_or_path": str(base.resolve()),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@dataclass
class Measured:
    """One process: seconds, processor seconds, peak anonymous memory in GiB, bytes that it asked to read and to write."""

    wall: float
    cpu: float
    memory: float
    read: int
    written: int


def measure(command: list[str], *, log: Path) -> Measured:
    """Run a command and watch it from outside."""
    started = time.perf_counter()
    with log.open("w") as out:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # Installed packages have their bytecode, too.
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    peak, moved, over = [0.0], [0, 0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            anonymous = 0
            for pid in (process.pid, *children(process.pid)):
                anonymous += field(f"/proc/{pid}/status", "RssAnon:") * 1024
            peak[0] = max(peak[0], anonymous / 2**30)
            counted = [field(f"/proc/{process.pid}/io", name) for name in ("rchar:", "wchar:")]
            moved[:] = [max(old, new) for old, new in zip(moved, counted, strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    over.set()
    watcher.join()
    if status:
        sys.exit(f"failed: {' '.join(command)}\n{log.read_text()[-3000:]}")
    return Measured(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, peak[0], *moved)


def warm(file: Path) -> None:
    with file.open("rb", buffering=0) as opened:
        buffer = bytearray(1 << 22)
        while opened.readinto(buffer):
            pass


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # It has just ended.
        return []


def field(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:  # It has just ended.
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


COPY = """
import os, sys
out, *files = sys.argv[1:]
buffer = bytearray(1 << 20)
target = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
for number, file in enumerate(files):
    source, offset = os.open(file, os.O_RDONLY), 0
    while got := os.preadv(source, [buffer], offset):
        if number == 0:
            os.pwrite(target, memoryview(buffer)[:got], offset)
        offset += got
"""


# As its own command does; which need not be on the path.
MERGEKIT = [sys.executable, "-c", "from mergekit.scripts.run_yaml import main; main()"]


class Bench:
    """The folders and the table of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.inputs: list[Path] = []

    def run(self, label: str, command: list[str], out: Path | None = None) -> Measured:
        return self.in_turns([(label, command, out)])[0]

    def in_turns(self, jobs: list[tuple[str, list[str], Path | None]]) -> list[Measured]:
        """Run commands one after another, and again; print and return the least of each."""
        runs: dict[str, list[Measured]] = {label: [] for label, _, _ in jobs}
        for turn in range(self.options.repeats):
            for label, command, out in jobs:
                if turn < self.repeats(label):
                    runs[label].append(self._once(command, out))
        return [self._said(label, runs[label]) for label, _, _ in jobs]

    def _once(self, command: list[str], out: Path | None) -> Measured:
        if out:  # To remove a gigabyte takes most of a second, and is no part of a merge.
            shutil.rmtree(out, ignore_errors=True)
        for file in self.inputs:  # Every tool finds its inputs in the page cache.
            warm(file)
        return measure(command, log=self.work / "log.txt")

    def _said(self, label: str, runs: list[Measured]) -> Measured:
        wall, cpu = (min(getattr(run, name) for run in runs) for name in ("wall", "cpu"))
        memory = max(run.memory for run in runs)
        result = Measured(wall, cpu, memory, runs[0].read, runs[0].written)
        rate = sum(file.stat().st_size for file in self.inputs) / wall / 1e9
        print(
            f"{label:44} {wall:8.2f} s  {cpu:8.2f} s  {memory:6.2f} GiB  {rate:6.2f} GB/s of inputs  "
            f"{result.written / 1e9:6.1f} GB written",
            flush=True,
        )
        return result

    def repeats(self, label: str) -> int:
        once = label.startswith(("mergekit", "PEFT")) or "filling" in label  # A cache is filled by the first of several.
        return 1 if once else self.options.repeats

    def gtrturbo(self, label: str, *words: str) -> tuple[Measured, Path]:
        job = self.ours(label, *words)
        return self.run(*job), job[2]

    def ours(self, label: str, *words: str) -> tuple[str, list[str], Path]:
        """Label, command and output of a merge."""
        out = self.work / "out" / label.replace(" ", "-").replace(",", "")
        return f"gtrturbo {label}", [sys.executable, "-m", "gtrturbo", "merge", *words, "--out", str(out)], out

    def mergekit(self, label: str, recipe: str) -> tuple[Measured, Path]:
        file, out = self.work / "recipe.yml", self.work / "out" / f"mergekit-{label}"
        file.write_text(recipe)
        command = [*MERGEKIT, str(file), str(out), "--no-copy-tokenizer"]
        if self.options.device != "cpu":
            label, command = f"{label}, {self.options.device}", [*command, "--device", self.options.device]
        command += ["--lora-merge-cache", str(self.work / "lora-merge-cache")]
        shutil.rmtree(self.work / "lora-merge-cache", ignore_errors=True)
        return self.run(f"mergekit {label}", command, out), out


def recipe(method: str, base: Path, models: list[Path], *, adapters: bool = False) -> str:
    density = "" if method == "linear" else ", density: 0.8"
    name = (lambda path: f"{base}+{path}") if adapters else str
    lines = [f"  - model: {name(path)}\n    parameters: {{weight: 1.0{density}}}" for path in models]
    head = f"merge_method: {method}\ndtype: bfloat16\nmodels:\n" + "\n".join(lines) + "\n"
    return head + ("" if method == "linear" else f"base_model: {base}\n")


def compare(a: Path, b: Path, base: Path) -> str:
    """The cosine of the angle between two outputs' changes, and how many entries differ; one tensor in memory at a time."""
    layouts = [read_layout(folder) for folder in (a, b, base)]
    differ = total = 0
    dot = ours_square = theirs_square = 0.0
    files = Files()
    for layout in layouts:
        for file in layout.headers:
            files.open(layout.folder / file)
    for name in layouts[0].entries:
        left, right, origin = (widen(read_tensor(files, layout.entries[name]).reshape(-1)) for layout in layouts)
        differ, total = differ + int((left != right).sum()), total + left.size
        ours, theirs = (left - origin).astype(np.float64), (right - origin).astype(np.float64)
        dot, ours_square, theirs_square = dot + ours @ theirs, ours_square + ours @ ours, theirs_square + theirs @ theirs
    files.close()
    return f"cosine of the changes {dot / np.sqrt(ours_square * theirs_square):.6f}, {differ / total:.2%} of entries differ"


def full(bench: Bench, base: Path, models: list[Path]) -> None:
    files = [str(path / "model.safetensors") for path in (base, *models)]
    names = [str(path) for path in models]
    bench.inputs = [Path(file) for file in dict.fromkeys(files)]
    cache = bench.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    bench.gtrturbo("ties, filling the cache", "--base", str(base), "--cache", str(cache), *names)
    copied = bench.work / "out" / "copied"
    copying = "import os, sys; os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)" + COPY
    around = ("--base", str(base))
    jobs: list[tuple[str, list[str], Path | None]] = [
        ("copy loop: read all inputs, write the output", [sys.executable, "-c", copying, str(copied / "file"), *files], copied),
        bench.ours("linear", *around, "--method", "linear", *names),
        bench.ours("ties", *around, *names),
        bench.ours("ties, cached thresholds", *around, "--cache", str(cache), *names),
        bench.ours("linear, inputs hashed before", *around, "--method", "linear", "--cache", str(cache), *names),
    ]
    limit, linear, ties, cached, hashed = bench.in_turns(jobs)
    ours, again = (bench.ours(label)[2] for label in ("ties", "ties, cached thresholds"))
    print(f"  re-merge equals the merge, byte for byte: {same(ours, again)}")
    ours_by_name = {"linear": linear, "linear hashed before": hashed, "ties": ties, "cached": cached}
    if bench.options.device != "cpu":
        _, other = bench.gtrturbo(f"ties, {bench.options.device}", "--base", str(base), "--device", bench.options.device, *names)
        print(f"  the same bytes: {same(ours, other)}")
    for what in ("wall", "cpu"):
        ratios = (f"{name} {getattr(run, what) / getattr(limit, what):.2f}×" for name, run in ours_by_name.items())
        print(f"  to the copy loop, {what}: {', '.join(ratios)}")
    if bench.options.peers:
        slow_linear, _ = bench.mergekit("linear", recipe("linear", base, models))
        slow, theirs = bench.mergekit("ties", recipe("ties", base, models))
        print(f"  faster than mergekit: linear {slow_linear.wall / linear.wall:.1f}×, "
              f"hashed before {slow_linear.wall / hashed.wall:.1f}×, ties {slow.wall / ties.wall:.1f}×, "
              f"cached {slow.wall / cached.wall:.1f}×")  # fmt: skip
        print(f"  memory of ties: {ties.memory / slow.memory:.3f} of mergekit's")
        print(f"  against mergekit's ties: {compare(ours, theirs, base)}")


def same(a: Path, b: Path) -> bool:
    layout = read_layout(a)
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in layout.headers)


def lora(bench: Bench, base: Path, adapters: list[Path]) -> None:
    names = [str(path) for path in adapters]
    bench.inputs = [base / "model.safetensors", *(path / "adapter_model.safetensors" for path in adapters)]
    ours, merged = bench.gtrturbo("ties of adapters, full teacher", "--base", str(base), *names)
    if bench.options.device != "cpu":
        words = ("--base", str(base), "--device", bench.options.device)
        _, other = bench.gtrturbo(f"ties of adapters, {bench.options.device}", *words, *names)
        print(f"  the same bytes: {same(merged, other)}")
    if bench.options.peers:
        theirs, other = bench.mergekit("ties-of-adapters", recipe("ties", base, adapters, adapters=True))
        print(f"  faster than mergekit: {theirs.wall / ours.wall:.1f}×")
        print(f"  against mergekit's: {compare(merged, other, base)}")
        bench.run("PEFT add_weighted_adapter ties (factors)", [sys.executable, __file__, "--peft", str(base), *names])


def peft_merge(base: str, adapters: list[str]) -> None:
    """What PEFT does: A merged with A, B with B."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
    for number, path in enumerate(adapters[1:], 1):
        merged.load_adapter(path, adapter_name=str(number))
    names = [str(number) for number in range(len(adapters))]
    merged.add_weighted_adapter(names, [1.0] * len(names), "merged", combination_type="ties", density=0.8)


def incremental(bench: Bench, base: Path, models: list[Path], size: str) -> None:
    """What each added checkpoint costs: with running sums, with cached thresholds, and from scratch."""
    state, cache = bench.work / "state", bench.work / "cache-incremental"
    for folder in (state, cache):
        shutil.rmtree(folder, ignore_errors=True)
    count = bench.options.added
    variants = [*models]
    while len(variants) < count:
        number = len(variants)
        variants.append(build(bench.work / size / f"variant{number}", size, seed=number + 1, base=base, moved=MOVED["dense"]))
    bench.options.repeats = 1
    added: dict[int, float] = {}
    for number in range(1, count + 1):
        result, out = bench.gtrturbo(
            f"adding checkpoint {number} to the state", "--base", str(base), "--state", str(state), str(variants[number - 1])
        )
        added[number] = result.wall
        if number != count:
            shutil.rmtree(out)
    scratch, whole = bench.gtrturbo(f"from scratch, k = {count}", "--base", str(base), *map(str, variants))
    print(f"  state equals from scratch, byte for byte: {same(out, whole)}")
    late = sorted(added[number] for number in range(max(2, count - 2), count + 1))[1 if count > 3 else 0]
    early = sorted(added[number] for number in range(2, min(5, count + 1)))[1 if count > 3 else 0]
    print(f"  adding the last three costs {late / early:.2f} times adding the 2nd to 4th (medians)")
    print(f"  from scratch, k = {count}: {scratch.wall:.1f} s")
    cached: dict[int, float] = {}
    for k in (4, 16):
        words = ["--base", str(base), "--cache", str(cache), *map(str, variants[:k])]
        bench.gtrturbo(f"filling the cache, k = {k}", *words)
        result, _ = bench.gtrturbo(f"cached thresholds, k = {k}", *words)
        cached[k] = result.wall
    print(f"  cached: k = 16 costs {cached[16] / cached[4]:.2f} times k = 4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="0.5b")
    parser.add_argument(
        "--kind", choices=MOVED, default="dense", help="dense: most entries change; rl: most do not, as in bf16 RL"
    )
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--added", type=int, default=50, help="checkpoints of the incremental part")
    parser.add_argument("--added-size", choices=SHAPES, default="small")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many, of all but the peers and filling a cache")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--linked", action="store_true", help="checkpoints share one file on disk, where there is no room for more"
    )
    parser.add_argument("--device", default="cpu", help="cuda: ties of ours there, too, and mergekit's merges there")
    parser.add_argument("--only", choices=("full", "lora", "incremental"), action="append")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-merge"))
    parser.add_argument("--peft", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peft:
        peft_merge(options.peft[0], options.peft[1:])
        return
    options.work = options.work.resolve()
    parts = options.only or ["full", "lora", "incremental"]
    bench, folder = Bench(options), options.work / options.size
    moved = MOVED[options.kind]
    print(f"{len(os.sched_getaffinity(0))} cores; {options.checkpoints} × {options.size}, {options.kind}", flush=True)
    print(f"{'':44} {'wall':>10}  {'cpu':>10}  {'anonymous':>10}")
    if "full" in parts or "lora" in parts:
        base = build(folder / "base", options.size, seed=0, base=None, moved=moved)
        if "full" in parts:
            names = [f"{options.kind}{n}" for n in range(options.checkpoints)]
            if options.linked:
                only = build(folder / names[0], options.size, seed=1, base=base, moved=moved)
                models = [only, *(linked(folder / f"linked{n}", only) for n in range(1, options.checkpoints))]
            else:
                models = [build(folder / name, options.size, seed=n + 1, base=base, moved=moved) for n, name in enumerate(names)]
            full(bench, base, models)
        if "lora" in parts:
            numbers = range(options.checkpoints)
            lora(bench, base, [build_adapter(folder / f"adapter{n}", options.size, base, seed=n) for n in numbers])
    if "incremental" in parts:
        base = build(options.work / options.added_size / "base", options.added_size, seed=0, base=None, moved=moved)
        incremental(bench, base, [], options.added_size)


if __name__ == "__main__":
    main()
