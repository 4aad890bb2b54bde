"""Manifests of earlier versions, read as if this one had written them: names that changed since, and settings that are gone.

The file itself, and so its id, stays as it is.
"""

from typing import Any

from gtrturbo.config.choices import OPENAI
from gtrturbo.config.games import game_name
from gtrturbo.config.renamed import RENAMED, VALUES
from gtrturbo.plugins import is_outside

# Knobs that are gone, with the value at which they changed nothing.
GONE = {"compat": "none", "micro_batch_size": 32, "update": [], "sign": "total", "adapter_space": "delta", "recursive": False}
SERVED = ("engine", "server")  # one name now: vllm, sglang, or openai for what was called generic
METRIC_NAMES = {
    "mismatch_mean": "sampler_trainer_gap_mean",
    "mismatch_max": "sampler_trainer_gap_max",
    "mismatch_kl": "sampler_trainer_gap_kl",
    "importance_effective": "effective_sample_size",
}


def upgraded(manifest: Any) -> Any:
    """Return what stage.json holds, with the names of this version."""
    if not isinstance(manifest, dict):
        return manifest
    config, metrics = manifest.get("config"), manifest.get("metrics")
    changed: dict[str, Any] = {"config": _knobs(config)} if isinstance(config, dict) else {}
    if isinstance(metrics, dict):
        changed["metrics"] = {METRIC_NAMES.get(name, name): value for name, value in metrics.items()}
    return manifest | changed


def _knobs(config: dict[str, Any]) -> dict[str, Any]:
    named = {RENAMED.get(name, name): value for name, value in _one_engine(config).items() if GONE.get(name, ...) != value}
    return {name: _value(name, value) if isinstance(value, str | bool) else value for name, value in named.items()}


def _one_engine(config: dict[str, Any]) -> dict[str, Any]:
    """Name who answered by one word, where the kind of server stood apart."""
    engine, server = (config.get(name) for name in SERVED)
    if server is None:
        return config
    if engine == OPENAI:
        engine = OPENAI if server == "generic" else server
    return {name: value for name, value in config.items() if name not in SERVED} | {"engine": engine}


def _value(name: str, value: str | bool) -> Any:
    if name == "task" and isinstance(value, str) and not is_outside(value):
        return game_name(value)  # The ids of environments were written as they were given.
    return VALUES.get((name, value), value)
