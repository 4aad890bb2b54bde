"""Run folders as `gtrturbo run` leaves them, with evaluations whose outcomes a test chooses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gtrturbo.analysis.record import record_run
from gtrturbo.analysis.summary import summarize
from gtrturbo.config import RunConfig
from gtrturbo.store.files import save_json
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import Turn, chat, write_rows
from gtrturbo.store.writing import writing

CHANCE = {"chance_random": 0.1, "chance_constant": 0.25, "chance_random_return": -1.0, "chance_constant_return": -0.5}
DEALS = {"task": "numberline", "env": [], "seed": 7, "temperature": 0.0, "max_new_tokens": 9, "illegal": "random"}
STAGES_OF = {
    "rollouts": "rollout",
    "checkpoints": "ppo-step",
    "teachers": "merge",
    "guidance": "distill",
    "demos": "distill",
}


def make_run(
    folder: Path,
    method: str,
    seed: int,
    won: dict[int, Sequence[int]],
    *,
    teachers: dict[int, Sequence[int]] | None = None,
    seconds: dict[str, float] | None = None,
    start: str = "start",
    deals: dict[str, Any] | None = None,
    chance: dict[str, float] = CHANCE,
    **settings: Any,
) -> Path:
    """Write a run: `won` says by iteration which deals were won (1) or not (0), `teachers` the same of its teachers.

    It was asked for as many iterations as its last evaluation says.
    `seconds` are by folder, for each artifact in it; `start` names the first checkpoint;
    `chance` is what the evaluations measured of it.
    """
    record_run(RunConfig(out=folder, method=method, seed=seed, **{"iterations": max(won, default=0), **settings}), replace=False)
    played = DEALS | {"task": settings.get("task", "numberline")} | (deals or {})
    for name, evaluations in (("evals", won), ("teacher-evals", teachers or {})):
        for iteration, outcomes in evaluations.items():
            checkpoint = start if iteration == 0 else f"{folder}{iteration}"
            evaluation(folder / name / f"{iteration:04d}", outcomes, checkpoint, played, chance)
    for name, taken in (seconds or {}).items():
        empty(folder / name / "0001", STAGES_OF.get(name, name), taken)
    return folder


def evaluation(
    out: Path, outcomes: Sequence[int], checkpoint: str, deals: dict[str, Any], chance: dict[str, float] = CHANCE
) -> None:
    config = deals | {"episodes": len(outcomes)}
    with writing(out, Provenance("eval", "evaluation", config, {"checkpoint": checkpoint})) as draft:
        turns = [_turn(episode, bool(won), deals["seed"]) for episode, won in enumerate(outcomes)]
        write_rows(draft.folder / "turns.jsonl", turns)
        draft.metrics = summarize(turns, knows_truth=True, own_parser=False) | chance
    timed(out, 2.0)


def _turn(episode: int, won: bool, seed: int) -> Turn:
    reply = json.dumps({"thoughts": f"deal {episode} is {'easy' if won else 'hard'}", "action": "+"})
    return Turn(
        episode=episode, turn=0, seed=1000 * seed + episode, messages=chat("?", reply), images=[f"images/{episode}.png"],
        action="+", executed="+", legal=True, perception_correct=won, reward=1.0 if won else -1.0, reward_terms={},
        terminated=True, truncated=False, won=won, info={},
    )  # fmt: skip


def empty(out: Path, stage: str, seconds: float) -> None:
    with writing(out, Provenance(stage, "checkpoint", {}, {})):
        pass
    timed(out, seconds)


def timed(out: Path, seconds: float) -> None:
    save_json(out / "timing.json", {"seconds": seconds})
