"""Runs that are small, and what they leave as bytes."""

from pathlib import Path

from gtrturbo.config import RunConfig

# Settings of runs of every method.
ASKED = {
    "ppo": {"method": "ppo"},
    "turbo-kl": {"method": "turbo-kl"},
    "turbo-sft": {"method": "turbo-sft"},
    "gtr": {"method": "gtr"},
    "gtr with a teacher": {"method": "gtr", "teacher": Path("big teacher")},
    "opd": {"method": "opd", "teacher": Path("big teacher")},
    "static-kl": {"method": "static-kl"},
    "turbo-kl with an interval": {"method": "turbo-kl", "merge_every": 2, "iterations": 3},
}

SMALL = "--method turbo-kl --env horizon=3 --episodes 4 --eval-episodes 4 --eval-every 1 --device cpu"
WARM = "--set expert.episodes=30 --set sft.steps=40 --set sft.stop-loss=0 --set sft.batch-size=8"
SMALL += " --set rollout.max-new-tokens=40 --set eval.max-new-tokens=40"


def run_config(**settings) -> RunConfig:
    return RunConfig(**({"out": Path("r"), "method": "turbo-kl", "iterations": 2} | settings))


def small(iterations: int, *more: str) -> list[str]:
    warm = [] if "--start" in more else WARM.split()
    return ["run", "--out", "runs/small", "--iterations", str(iterations), *SMALL.split(), *warm, *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of the artifacts but the timing, hidden ones included."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("timing.json", "run.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
