"""Random models, checkpoints, adapters and settings, and what a merge of them is, in float64 by numpy alone.

    python tests/merging/fuzz.py --cases 10000 --first 0

Nothing here comes from the package: definitions are written anew from the papers, so that both can be wrong only independently.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import Folders, Tensors, read, stored
from safetensors.numpy import save_file

BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
LEAST = {"F64": -1022, "F32": -126, "F16": -14, "BF16": -126}
FAMILIES = {
    "llama": ("model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.down_proj.weight", "model.layers.{}.norm.weight"),
    "neox": ("gpt_neox.layers.{}.attention.query_key_value.weight", "gpt_neox.layers.{}.attention.dense.bias"),
    "moe": ("model.layers.{}.experts.0.w1.weight", "model.layers.{}.experts.1.w1.weight", "model.layers.{}.gate.weight"),
    "vision": ("visual.blocks.{}.attn.qkv.weight", "visual.blocks.{}.norm1.bias", "model.layers.{}.self_attn.v_proj.weight"),
}
METHODS = ("ties", "ties", "linear", "task-arithmetic", "breadcrumbs", "slerp", "nuslerp", "dare-linear", "dare-ties")


@dataclass
class Case:
    """One merge: what is written, with which settings, and what must come out."""

    seed: int
    base: Tensors
    dtypes: dict[str, str]
    settings: dict[str, Any]
    weights: list[float]
    checkpoints: list[Tensors] = field(default_factory=list)  # Whole weights, float64, as they lie on disk, or W + ΔW.
    products: Tensors = field(default_factory=dict)  # Σ |B| |A|: what was summed for ΔW, which may be smaller.


def draw(seed: int, folders: Folders) -> tuple[Case, Path, list[Path]]:
    """Draw a case and write its inputs."""
    rng = np.random.default_rng([seed, 20260])
    shapes = _shapes(rng)
    floats = list(BITS)
    main = rng.choice(floats)
    dtypes = {name: str(rng.choice(floats) if rng.random() < 0.15 else main) for name in shapes}
    wide = {name: rng.normal(size=shape) * 10.0 ** rng.integers(-3, 2) for name, shape in shapes.items()}
    extra = {"ids": np.arange(7), "mask": np.array([1, 0, 1])} if rng.random() < 0.3 else {}
    dtypes |= dict.fromkeys(extra, "I64")
    base = folders.write("base", wide | extra, dtypes, shards=int(rng.integers(1, 4)))
    case = Case(seed, read(base), dtypes, *_settings(rng))
    k = len(case.weights)
    if rng.random() < 0.35 and case.settings["method"] not in ("slerp",):
        return case, base, _adapters(rng, case, folders, base, k)
    paths = []
    for number in range(k):
        kinds = {
            name: str(rng.choice(floats)) if rng.random() < 0.1 else kind for name, kind in dtypes.items() if name not in extra
        }
        tensors = {name: _moved(rng, case.base[name]) for name in shapes}
        kinds |= dict.fromkeys(extra, "I64")
        paths.append(folders.write(f"c{number}", tensors | extra, kinds, shards=int(rng.integers(1, 4))))
        case.checkpoints.append({name: value.astype(np.float64) for name, value in read(paths[-1]).items()})
    return case, base, _some_again(case, base, paths)


def _some_again(case: Case, base: Path, paths: list[Path]) -> list[Path]:
    """Name the base, or a checkpoint once more, in the place of a checkpoint."""
    rng = np.random.default_rng([case.seed, 7])
    number = int(rng.integers(len(paths)))
    kind = rng.random()
    if kind < 0.15:
        paths[number] = base
        case.checkpoints[number] = {name: value.astype(np.float64) for name, value in case.base.items()}
    elif kind < 0.25:
        paths[number], case.checkpoints[number] = paths[0], case.checkpoints[0]
    return paths


def _shapes(rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    names = FAMILIES[str(rng.choice(list(FAMILIES)))]
    hidden, wide = (int(size) for size in rng.integers(1, 24, 2))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (int(rng.integers(1, 40)), hidden)}
    for layer in range(int(rng.integers(1, 3))):
        for name in names:
            shapes[name.format(layer)] = (wide, hidden) if name.endswith("weight") and "norm" not in name else (hidden,)
    if rng.random() < 0.4:  # Not tied.
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    if rng.random() < 0.3:
        shapes |= {"logit_scale": (), "nothing.weight": (0, 3)}
    if rng.random() < 0.05:
        shapes["long.weight"] = (int(rng.integers(16_000, 40_000)),)
    return shapes


def _moved(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """What training leaves: nothing, sparse steps, small noise, noise of any size."""
    kind, spread = rng.random(), 10.0 ** rng.integers(-5, 1)
    noise = rng.normal(size=base.shape) * spread
    if kind < 0.1:
        noise = np.zeros(base.shape)
    elif kind < 0.4:
        noise = np.where(rng.random(base.shape) < 0.2, noise, 0.0)
    return base.astype(np.float64) + noise


def _settings(rng: np.random.Generator) -> tuple[dict[str, Any], list[float]]:
    """Draw a method with options. Weights have many digits: with few, sums of small numbers cancel by luck of rounding."""
    method = str(rng.choice(METHODS))
    k = 2 if method.endswith("slerp") else int(rng.integers(1, 6))
    settings: dict[str, Any] = {"method": method}
    if equal := bool(rng.random() < 0.5):
        weights = [1.0] * k
    else:
        weights = [float(weight) for weight in rng.uniform(0.1, 1.5, k)]
        settings["weights"] = ",".join(map(repr, weights))
    if method in ("ties", "dare-linear", "dare-ties", "breadcrumbs"):
        densities = [float(rng.choice([1.0, 0.8, 0.5, 0.2, 1e-6]))] * k
        if method == "ties" and rng.random() < 0.3:
            densities = [float(value) for value in rng.uniform(0.05, 1, k)]
        settings["density"] = ",".join(map(repr, densities if len(set(densities)) > 1 else densities[:1]))
    if method == "ties" and rng.random() < 0.3:
        settings["parameters"] = ("count=true",)
    if method == "breadcrumbs":
        settings["gamma"] = float(rng.choice([0.0, 0.01, 0.3]))
    if method in ("ties", "task-arithmetic", "linear") and rng.random() < 0.3:
        settings["normalize"] = bool(rng.random() < 0.5) if method == "task-arithmetic" or not equal else True
    if method not in ("slerp", "linear") and rng.random() < 0.3:
        settings["scale"] = float(rng.uniform(0.2, 2))
    if method.startswith("dare"):
        settings["seed"] = int(rng.integers(0, 9))
    return settings, weights


def _adapters(rng: np.random.Generator, case: Case, folders: Folders, base: Path, k: int) -> list[Path]:
    """Write adapters of some of the matrices; ΔW = scale B A is added in float64 to what the base holds."""
    matrices = [name for name, value in case.base.items() if value.ndim == 2 and value.size and "embed" not in name]
    chosen = [name for name in matrices if name.endswith("proj.weight")] or matrices[:1]
    modules = [name.removesuffix(".weight") for name in chosen]
    paths = []
    for number in range(k):
        rank, alpha = int(rng.integers(1, 5)), float(rng.choice([1, 2, 16]))
        rslora, pattern = bool(rng.random() < 0.3), {modules[0]: 3.0} if rng.random() < 0.3 else {}
        tensors, whole = {}, {name: value.astype(np.float64) for name, value in case.base.items()}
        kind = str(rng.choice(["F32", "F16", "BF16"]))
        for module in modules:
            rows, columns = case.base[f"{module}.weight"].shape
            a, b = rng.normal(size=(rank, columns)), rng.normal(size=(rows, rank)) * 10.0 ** rng.integers(-3, 0)
            a, b = (stored(each, kind) for each in (a, b))
            scale = pattern.get(module, alpha) / (math.sqrt(rank) if rslora else rank)
            tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
            weight = f"{module}.weight"
            whole[weight] = whole[weight] + scale * (_wide(b, kind) @ _wide(a, kind))
            case.products[weight] = case.products.get(weight, 0) + scale * (abs(_wide(b, kind)) @ abs(_wide(a, kind)))
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "alpha_pattern": pattern}
        config |= {"target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}), "bias": "none"}
        config |= {"base_model_name_or_path": str(base.resolve())}
        folder = folders.root / f"a{number}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        _save(folder / "adapter_model.safetensors", tensors, kind)
        paths.append(folder)
        case.checkpoints.append(whole)
    return paths


def _save(file: Path, tensors: dict[str, np.ndarray], kind: str) -> None:
    if kind != "BF16":
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file)
        return
    header, place = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [place, place + value.nbytes]}
        place += value.nbytes
    text, values = json.dumps(header).encode(), b"".join(value.tobytes() for value in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + values)


def _wide(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


# ---- the definitions


def expected(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One tensor of the merge, in float64, and the size of what was summed. Source of each: see gtrturbo/algorithms/."""
    base = case.base[name].astype(np.float64)
    whole = [tensors[name] for tensors in case.checkpoints]
    moved = [each - base for each in whole]
    size = np.abs(base) + np.sum([np.abs(each) for each in whole], axis=0) + case.products.get(name, np.zeros_like(base))
    settings, weights, k = case.settings, case.weights, len(case.weights)
    method, scale = settings["method"], settings.get("scale", 1.0)
    densities = [float(part) for part in settings.get("density", "0.8").split(",")]
    densities *= k // len(densities)
    if method == "slerp":
        return _arc(whole, weights, straight_above=0.9995), size
    if method == "nuslerp":
        return base + scale * _arc(moved, weights, straight_above=1 - 2.0**-53), size
    if method == "linear" and settings.get("normalize") is False:
        return np.sum([w * each for w, each in zip(weights, whole, strict=True)], axis=0), size
    if method.startswith("dare"):
        moved = [_dropped(each, settings["seed"], number, name, densities[number]) for number, each in enumerate(moved)]
        size = size / min(densities)
    if method == "breadcrumbs":
        moved = [_between(each, densities[0], settings["gamma"]) for each in moved]
    if method == "ties":
        moved = [_trimmed(each, density) for each, density in zip(moved, densities, strict=True)]
    if method in ("ties", "dare-ties"):
        averaged = method == "ties" and settings.get("normalize") is not False
        return base + scale * _elected(
            moved, weights, by_count="count=true" in settings.get("parameters", ()), averaged=averaged
        ), size
    total = np.sum([w * each for w, each in zip(weights, moved, strict=True)], axis=0)
    divides = settings.get("normalize", method == "linear")
    return base + scale * total / (math.fsum(weights) if divides else 1.0), size


def _trimmed(vector: np.ndarray, density: float) -> np.ndarray:
    if density == 1 or not vector.size:
        return vector
    least = np.sort(np.abs(vector), axis=None)[-max(1, int(density * vector.size))]
    return np.where(np.abs(vector) >= least, vector, 0.0)


def _between(vector: np.ndarray, density: float, gamma: float) -> np.ndarray:
    if not vector.size:
        return vector
    kept = max(1, int(density * vector.size))
    top = min(int(gamma * vector.size), vector.size - kept)
    falling = np.sort(np.abs(vector), axis=None)[::-1]
    return np.where((np.abs(vector) >= falling[kept + top - 1]) & (np.abs(vector) <= falling[top]), vector, 0.0)


def _elected(vectors: list[np.ndarray], weights: list[float], *, by_count: bool, averaged: bool) -> np.ndarray:
    out = np.zeros(vectors[0].size)
    for place, entries in enumerate(zip(*(vector.ravel() for vector in vectors), strict=True)):
        votes = sum(np.sign(entries)) if by_count else math.fsum(w * d for w, d in zip(weights, entries, strict=True))
        agreeing = [(w, d) for w, d in zip(weights, entries, strict=True) if (d > 0 if votes >= 0 else d < 0)]
        total, weight = math.fsum(w * d for w, d in agreeing), math.fsum(w for w, _ in agreeing)
        out[place] = total / weight if averaged and agreeing else total
    return out.reshape(vectors[0].shape)


def _dropped(vector: np.ndarray, seed: int, number: int, name: str, keep: float) -> np.ndarray:
    if keep == 1:
        return vector
    key = int.from_bytes(hashlib.sha256(f"{seed}/dare/{number}/{name}".encode()).digest()[:8], "big") >> 1
    word = np.uint64(key) + np.arange(1, vector.size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    uniform = ((word ^ word >> np.uint64(31)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where((uniform < keep).reshape(vector.shape), vector / keep, 0.0)


def _arc(vectors: list[np.ndarray], weights: list[float], *, straight_above: float) -> np.ndarray:
    first, second = vectors
    t = weights[1] / (weights[0] + weights[1])
    norms = math.sqrt(math.fsum((first**2).ravel())), math.sqrt(math.fsum((second**2).ravel()))
    cosine = math.fsum((first * second).ravel()) / (norms[0] * norms[1]) if all(norms) else 0.0
    if not all(norms) or abs(cosine) > straight_above:
        return (1 - t) * first + t * second
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle)


# ---- the comparison


def wrong(case: Case, found: Tensors) -> list[str]:
    """Name what is further from its definition than its rounding explains, by units in the last place."""
    said = []
    for name, value in case.base.items():
        kind = case.dtypes[name]
        if kind == "I64":
            said += [] if np.array_equal(found[name], value) else [f"{name}: no copy"]
            continue
        if not value.size:
            continue
        wanted, size = expected(case, name)
        exponent = np.frexp(np.maximum(np.abs(wanted), 2.0 ** LEAST[kind]))[1] - 1
        # What cancels keeps the error of what was summed; an arc magnifies it.
        lost = 2.0**-40 if case.settings["method"].endswith("slerp") else 2.0**-48
        unit = np.maximum(np.ldexp(1.0, exponent - BITS[kind]), size * lost)
        off = float((np.abs(found[name].astype(np.float64) - wanted) / unit).max())
        # In float64 both sides are rounded a few times, elsewhere once.
        if not off <= (4 if kind == "F64" else 1):
            said.append(f"{name} ({kind}): {off:.3g} units")
    return said


def run(seed: int, root: Path) -> list[str]:
    """Merge one random case, and say what is wrong with what came out."""
    folders = Folders(root)
    case, base, paths = draw(seed, folders)
    out = folders.merge(*paths, base=base, **case.settings)
    return [f"case {seed}, {case.settings}: {each}" for each in wrong(case, read(out))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    for seed in range(options.first, options.first + options.cases):
        with tempfile.TemporaryDirectory() as folder:
            try:
                said = run(seed, Path(folder))
            except Exception as error:
                said = [f"case {seed}: {type(error).__name__}: {error}"]
        bad += bool(said)
        print("\n".join(said), end="\n" if said else "", flush=True)
    print(f"{options.cases} cases, {bad} off", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
