"""When is the merged teacher ahead of its student? Merge and evaluate the checkpoints of runs that are done, every few updates.

    python -m examples.reproduce.ahead runs/reproduce numberline-1e-3 ppo merged

The student of update K is checkpoint K, its teacher the merge of 1 … K, as `turbo-loss` would have it, whoever taught the run.
Both play the same deals. A line per run goes into results/TASK-RATE-ahead.jsonl; what is there already is not made again.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gtrturbo
from examples.reproduce.record import DIGITS, RESULTS
from gtrturbo.analysis.history import read_history

EVERY = 5
EPISODES = 200
MEASURED = ("success_rate", "thought_accuracy", "illegal_rate")


def measured(checkpoint: Path, out: Path, task: str, env: list[str]) -> dict[str, float]:
    """Evaluate a checkpoint greedily on the task's fixed deals."""
    found = gtrturbo.evaluate(
        checkpoint=checkpoint, out=out, task=task, env=[*env, "image=tiny"], episodes=EPISODES, num_envs=64, max_new_tokens=64
    )
    return {name: round(found.metrics[name], DIGITS) for name in MEASURED}


def followed(run: Path) -> dict[str, Any]:
    """Return teacher and student of every fifth update of a run."""
    history = read_history(run)
    task, env = history.settings["task"], history.settings["env"]
    made = [entry.path for entry in history.updates()]
    line: dict[str, Any] = {"seed": history.seed, "arm": history.label, "students": {}, "teachers": {}}
    with TemporaryDirectory() as folder:
        for k in range(EVERY, len(made) + 1, EVERY):
            apart = Path(folder) / str(k)
            teacher = gtrturbo.merge(made[:k], base=Path(history.settings["start"]), out=apart / "teacher")
            line["teachers"][k] = measured(teacher.path, apart / "of-teacher", task, env)
            line["students"][k] = measured(made[k - 1], apart / "of-student", task, env)
    return line


def main(runs: Path, cell: str, arms: list[str]) -> None:
    file = RESULTS / f"{cell}-ahead.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    there = {(line["arm"], line["seed"]) for line in lines}
    for arm in arms:
        for done in sorted((runs / cell / arm).glob("*/commit")):
            if (arm, int(done.parent.name)) not in there:
                lines.append(followed(done.parent))
                lines.sort(key=lambda line: (line["arm"], line["seed"]))
                file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
                print(file, arm, done.parent.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
