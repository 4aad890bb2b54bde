"""GTR-Turbo: train vision-language-model agents with a free teacher merged from their own checkpoints.

As a library: every stage is a function by its command's name, options and defaults (docs/python.md), such as
`gtrturbo.merge(...)` on folders; `gtrturbo.merge_tensors(...)` merges tensors in memory.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
# What the package offers to scripts, and where it is: imported when it is asked for.
_STAGES = ("init", "sft", "rollout", "distill", "ppo_step", "merge", "evaluate", "load_turns")
OFFERED = {
    **dict.fromkeys(_STAGES, "gtrturbo.stages.functions"),
    "run": "gtrturbo.runs.functions",
    "merge_tensors": "gtrturbo.stages.tensors",
    "GtrTurboError": "gtrturbo.errors",
}


def __getattr__(name: str) -> Any:
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("gtrturbo.errors").require_unix()
    return getattr(importlib.import_module(OFFERED[name]), name)


def __dir__() -> list[str]:
    return [*OFFERED, "__version__"]
