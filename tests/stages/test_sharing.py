"""Several processes share a rollout, an evaluation and a teacher's thoughts: the artifacts are those of one process."""

import os
import subprocess
import sys

from gtrturbo.config import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.ids import artifact_id

TASK = {"task": "numberline", "env": ("image=tiny",), "max_new_tokens": 48}
RUN = """
import sys
from pathlib import Path, PosixPath
from gtrturbo.config import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.stages import eval as eval_stage, execute
eval_stage.CHANCE_EPISODES = 50
for config in ({configs}):
    execute(config)
"""


def test_two_processes_write_the_bytes_of_one(warm, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)

    def configs(folder):
        turns = folder / "turns"
        return (
            RolloutConfig(out=turns, checkpoint=warm, temperature=0.9, episodes=5, num_envs=4, **TASK),
            DistillConfig(
                out=folder / "demos", rollouts=turns, teacher=warm, mode="thoughts", max_new_tokens=48, temperature=0.9
            ),
            EvalConfig(out=folder / "eval", checkpoint=warm, episodes=3, **TASK),
        )

    script = tmp_path / "run.py"
    script.write_text(RUN.format(configs=", ".join(map(repr, configs(tmp_path / "two")))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for alone in configs(tmp_path / "one"):
        assert execute(alone).id == artifact_id(tmp_path / "two" / alone.out.name), alone.out.name
    left = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert left == ["demos", "eval", "turns"]
