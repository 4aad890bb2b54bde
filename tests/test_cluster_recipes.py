"""The recipes for clusters start commands that exist, with options that exist."""

import re
from pathlib import Path

import pytest
import yaml
from parsed import parsed

from gtrturbo.runs.plan import plan

FOLDER = Path(__file__).parent.parent / "examples" / "cluster"


@pytest.mark.parametrize("name", ["one-node.sh", "two-nodes.sbatch"])
def test_a_script_starts_a_run_that_can_be_planned(name):
    text = re.sub(r"\\\n\s*", "", (FOLDER / name).read_text())
    [line] = [line for line in text.splitlines() if "torchrun" in line and not line.startswith("#")]
    config = parsed(re.search(r"--no-python (gtrturbo .*)", line).group(1))
    steps = {step.stage: step.config for step in plan(config)}
    assert steps["ppo-step"].gradient_checkpointing and steps["sft"].gradient_checkpointing
    assert steps["init"].lora_rank == 128


def test_the_full_weights_that_a_script_tells_of_are_split():
    [told] = re.findall(r"add (--set .*?), which splits", (FOLDER / "one-node.sh").read_text().replace("\n# ", " "))
    steps = {step.stage: step.config for step in plan(parsed(f"gtrturbo run --model m --out r {told}"))}
    assert steps["sft"].fsdp and steps["ppo-step"].fsdp


def test_the_skypilot_task_runs_the_script_of_one_node():
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    script = task["run"].split()[-1]
    assert (FOLDER.parent.parent / script).is_file() and task["workdir"] == "."
