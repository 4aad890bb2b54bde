"""Random models, checkpoints, adapters and settings, and what a merge of them is, in float64 by numpy alone.

    python tests/merging/fuzz.py --cases 10000 --first 0

Nothing here comes from the package: definitions are written anew from the papers, so that both can be wrong only independently.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz_adapters
import fuzz_geometry
import fuzz_rules
import numpy as np
from checkpoints import Folders, Tensors, read

from gtrturbo.errors import GtrTurboError

BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
LEAST = {"F64": -1022, "F32": -126, "F16": -14, "BF16": -126}
FAMILIES = {
    "llama": ("model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.down_proj.weight", "model.layers.{}.norm.weight"),
    "neox": ("gpt_neox.layers.{}.attention.query_key_value.weight", "gpt_neox.layers.{}.attention.dense.bias"),
    "moe": ("model.layers.{}.experts.0.w1.weight", "model.layers.{}.experts.1.w1.weight", "model.layers.{}.gate.weight"),
    "vision": ("visual.blocks.{}.attn.qkv.weight", "visual.blocks.{}.norm1.bias", "model.layers.{}.self_attn.v_proj.weight"),
}
METHODS = (
    "ties", "ties", "linear", "task-arithmetic", "breadcrumbs", "breadcrumbs-ties", "slerp", "nuslerp", "dare-linear",
    "dare-ties", "della", "della-linear", "karcher", "nearswap", "arcee-fusion", "ram", "ram-plus", "passthrough",
    "sce", "multislerp", "model-stock", "model-stock-rows", "nuslerp-rows", "nuslerp-columns",
)  # fmt: skip
ONE = ("nearswap", "arcee-fusion", "passthrough")  # checkpoint
UNWEIGHTED = ("nearswap", "arcee-fusion", "ram", "ram-plus", "sce", "model-stock", "model-stock-rows")
TWO = ("slerp", "nuslerp", "nuslerp-rows", "nuslerp-columns")
OF_ANGLES = (*TWO, "multislerp", "model-stock", "model-stock-rows")


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
    adapters = rng.random() < 0.35
    shapes = _shapes(rng) | (fuzz_adapters.shapes(rng) if adapters else {})
    floats = list(BITS)
    main = rng.choice(floats)
    dtypes = {name: str(rng.choice(floats) if rng.random() < 0.15 else main) for name in shapes}
    wide = {name: rng.normal(size=shape) * 10.0 ** rng.integers(-3, 2) for name, shape in shapes.items()}
    extra = {"ids": np.arange(7), "mask": np.array([1, 0, 1])} if rng.random() < 0.3 else {}
    dtypes |= dict.fromkeys(extra, "I64")
    base = folders.write("base", wide | extra, dtypes, shards=int(rng.integers(1, 4)))
    case = Case(seed, read(base), dtypes, *_settings(rng))
    k = len(case.weights)
    if adapters and case.settings["method"] != "slerp":
        return case, base, _adapters(rng, case, folders, base, k)
    if case.settings["method"] == "ties" and rng.random() < 0.25:
        case.settings["trim"] = "global"
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
    k = 2 if method in TWO else 1 if method in ONE else int(rng.integers(1 + method.startswith("model"), 6))
    settings: dict[str, Any] = {"method": method}
    if equal := bool(method in UNWEIGHTED or rng.random() < 0.5):
        weights = [1.0] * k
    else:
        weights = [float(weight) for weight in rng.uniform(0.1, 1.5, k)]
        settings["weights"] = ",".join(map(repr, weights))
    if method in ("ties", "dare-linear", "dare-ties", "breadcrumbs", "breadcrumbs-ties", "della", "della-linear", "sce"):
        densities = [float(rng.choice([1.0, 0.8, 0.5, 0.2, *([] if method.startswith("della") else [1e-6])]))] * k
        if method == "ties" and rng.random() < 0.3:
            densities = [float(value) for value in rng.uniform(0.05, 1, k)]
        settings["density"] = ",".join(map(repr, densities if len(set(densities)) > 1 else densities[:1]))
    if method == "ties" and rng.random() < 0.3:
        settings["parameters"] = ("count=true",)
    if method.startswith("breadcrumbs"):
        settings["gamma"] = float(rng.choice([0.0, 0.01, 0.3]))
    if method in ("ties", "task-arithmetic", "linear") and rng.random() < 0.3:
        settings["normalize"] = bool(rng.random() < 0.5) if method == "task-arithmetic" or not equal else True
    if method not in ("slerp", "linear", "karcher", "passthrough") and rng.random() < 0.3:
        settings["scale"] = float(rng.uniform(0.2, 2))
    if method.startswith(("dare", "della")):
        settings["seed"] = int(rng.integers(0, 9))
    if own := _parameters(rng, method):
        settings["parameters"] = tuple(f"{name}={value!r}" for name, value in own.items())
    return settings, weights


def _parameters(rng: np.random.Generator, method: str) -> dict[str, float]:
    """Settings that a method has of its own; all but t have defaults."""
    if method == "nearswap":
        return {"t": float(10.0 ** rng.uniform(-5, 0))}
    if rng.random() < 0.5:
        return {}
    if method.startswith("della"):
        return {"epsilon": float(rng.uniform(0.01, 0.19))}
    if method == "multislerp":
        return {"normalize_weights": False} if rng.random() < 0.5 else {"eps": float(10.0 ** rng.uniform(-8, -2))}
    if method == "ram":
        return {"epsilon": float(10.0 ** rng.uniform(-6, -1))}
    return {"epsilon": 1e-4, "r": float(rng.uniform(0, 1)), "alpha": float(rng.uniform(0, 1))} if method == "ram-plus" else {}


def _adapters(rng: np.random.Generator, case: Case, folders: Folders, base: Path, k: int) -> list[Path]:
    """Write adapters; ΔW of each is added in float64 to what the base holds."""
    paths = []
    for number in range(k):
        written = fuzz_adapters.write(rng, folders.root / f"a{number}", case.base, base)
        for name, size in written.sizes.items():
            case.products[name] = case.products.get(name, 0) + size
        paths.append(written.folder)
        case.checkpoints.append(written.whole)
    return paths


# ---- the definitions


def expected(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One tensor of the merge, in float64, and the size of what was summed. Source of each: see gtrturbo/algorithms/."""
    base = case.base[name].astype(np.float64)
    whole = [tensors[name] for tensors in case.checkpoints]
    moved = [each - base for each in whole]
    size = np.abs(base) + np.sum([np.abs(each) for each in whole], axis=0) + case.products.get(name, np.zeros_like(base))
    settings, weights, k = case.settings, case.weights, len(case.weights)
    method, scale = settings["method"], settings.get("scale", 1.0)
    pairs = (text.partition("=") for text in settings.get("parameters", ()) if text != "count=true")
    own = {name: float(value) if value not in ("True", "False") else value == "True" for name, _, value in pairs}
    if method == "passthrough":
        return weights[0] * whole[0], size
    if method == "karcher":
        mean = fuzz_rules.mean_on_sphere(whole, weights)
        return (np.full(base.shape, np.nan) if mean is None else mean), size
    if method in UNWEIGHTED:
        return base + scale * _unweighted(method, moved, base, own, settings), size
    densities = [float(part) for part in settings.get("density", "0.8").split(",")]
    densities *= k // len(densities)
    if method == "slerp":
        return _arc(whole, weights, straight_above=0.9995), size
    if method == "multislerp":
        how = {"normalize": own.get("normalize_weights", True), "eps": own.get("eps", 1e-8)}
        return base + scale * fuzz_geometry.barycentre(moved, weights, **how), size
    if method in ("nuslerp-rows", "nuslerp-columns"):
        return base + scale * fuzz_geometry.arcs(moved, weights, by_column=method == "nuslerp-columns"), size
    if method == "nuslerp":
        return base + scale * _arc(moved, weights, straight_above=1 - 2.0**-53), size
    if method == "linear" and settings.get("normalize") is False:
        return np.sum([w * each for w, each in zip(weights, whole, strict=True)], axis=0), size
    if method.startswith("dare"):
        moved = [_dropped(each, settings["seed"], number, name, densities[number]) for number, each in enumerate(moved)]
        size = size / min(densities)
    if method.startswith("della"):
        half = own.get("epsilon", 0.15)
        dice = [fuzz_rules.uniform(settings["seed"], number, name, base.size) for number in range(k)]
        moved = [fuzz_rules.magnitude_pruned(each, densities[0], half, dice[number]) for number, each in enumerate(moved)]
        size = size / (densities[0] - half if densities[0] < 1 else 1.0)
    if method.startswith("breadcrumbs"):
        moved = [_between(each, densities[0], settings["gamma"]) for each in moved]
    if settings.get("trim") == "global":
        moved = [
            np.where(np.abs(each) >= _least_of_all(case, number, densities[number]), each, 0.0)
            for number, each in enumerate(moved)
        ]
    elif method == "ties":
        moved = [_trimmed(each, density) for each, density in zip(moved, densities, strict=True)]
    if method in ("ties", "dare-ties", "breadcrumbs-ties", "della"):
        averaged = method in ("ties", "della") and settings.get("normalize") is not False
        by_count = "count=true" in settings.get("parameters", ())
        return base + scale * _elected(moved, weights, by_count=by_count, averaged=averaged), size
    total = np.sum([w * each for w, each in zip(weights, moved, strict=True)], axis=0)
    divides = settings.get("normalize", method == "linear")
    return base + scale * total / (math.fsum(weights) if divides else 1.0), size


def _unweighted(
    method: str, moved: list[np.ndarray], base: np.ndarray, own: dict[str, float], settings: dict[str, Any]
) -> np.ndarray:
    if method == "sce":
        return fuzz_geometry.selected(moved, float(settings["density"]))
    if method.startswith("model-stock"):
        return fuzz_geometry.stock(moved) if method == "model-stock" else fuzz_geometry.stock_rows(moved)
    if method == "nearswap":
        return np.sign(moved[0]) * np.minimum(np.abs(moved[0]), own["t"])
    if method == "arcee-fusion":
        fused, unsure = fuzz_rules.fused(moved[0], base)
        return np.where(unsure, np.nan, fused)
    epsilon = own.get("epsilon", 1e-5)
    factors = [1.0] * len(moved)
    if method == "ram-plus":
        factors = fuzz_rules.ram_plus_factors(moved, epsilon=epsilon, r=own.get("r", 0.1), alpha=own.get("alpha", 0.2))
    return fuzz_rules.alone_or_averaged(moved, epsilon, factors)


def _least_of_all(case: Case, number: int, density: float) -> float:
    """The least magnitude that is kept of a whole task vector."""
    floats = [name for name, value in case.base.items() if case.dtypes[name] in BITS and value.size]
    changes = [np.abs(case.checkpoints[number][name] - case.base[name].astype(np.float64)).ravel() for name in floats]
    falling = np.sort(np.concatenate(changes))[::-1]
    return float(falling[max(1, int(density * falling.size)) - 1])


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
    kept = fuzz_rules.uniform(seed, number, name, vector.size) < keep
    return np.where(kept.reshape(vector.shape), vector / keep, 0.0)


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
        exponent = np.frexp(np.maximum(np.nan_to_num(np.abs(wanted)), 2.0 ** LEAST[kind]))[1] - 1
        # What cancels keeps the error of what was summed; an arc magnifies it, and so do singular vectors and norms.
        lost = 2.0**-40 if case.settings["method"] in OF_ANGLES or name in case.products else 2.0**-48
        lost = 2.0**-24 if case.settings["method"] == "karcher" else lost
        unit = np.maximum(np.ldexp(1.0, exponent - BITS[kind]), size * lost)
        sure = np.isfinite(wanted)  # Elsewhere rounding decides.
        if case.settings["method"].startswith("della"):
            for checkpoint in case.checkpoints:
                sure &= ~fuzz_rules.ranked_by_rounding(checkpoint[name] - value.astype(np.float64))
        if not np.isfinite(found[name]).all():
            said.append(f"{name} ({kind}): not finite")
        off = float(np.where(sure, np.abs(found[name].astype(np.float64) - np.where(sure, wanted, 0.0)) / unit, 0.0).max())
        # In float64 both sides are rounded a few times, elsewhere once.
        if not off <= (4 if kind == "F64" else 1):
            said.append(f"{name} ({kind}): {off:.3g} units")
    return said


def run(seed: int, root: Path) -> list[str]:
    """Merge one random case, and say what is wrong with what came out."""
    folders = Folders(root)
    case, base, paths = draw(seed, folders)
    try:
        out = folders.merge(*paths, base=base, **case.settings)
    except GtrTurboError as error:
        if case.settings["method"] == "multislerp" and "directions is 0" in error.what:
            return []  # Tensors of one entry have two directions only, which may cancel: there is no barycentre.
        raise
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
