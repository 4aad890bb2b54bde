"""The recipes for clusters start commands that exist, with options that exist."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from parsed import parsed

from gtrturbo.config.addresses import servers_of
from gtrturbo.play.lora_serving import legal_rank
from gtrturbo.play.own_server import ADAPTERS
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


def test_servers_that_stand_apart_are_all_asked_and_started_as_the_probe_wants_them():
    text = re.sub(r"\\\n\s*", "", (FOLDER / "servers-apart.sbatch").read_text())
    [address] = re.findall(r"^engine=(.*)$", text, re.MULTILINE)
    engine = subprocess.run(
        ["bash", "-c", f"server=gpu-2; echo {address}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert servers_of(engine) == tuple(f"http://gpu-2:{8000 + gpu}" for gpu in range(8))
    [line] = [line for line in text.splitlines() if "torchrun" in line and not line.startswith("#")]
    command = re.search(r"--no-python (gtrturbo .*)", line).group(1).replace('"$engine"', engine)
    steps = {step.stage: step.config for step in plan(parsed(command))}
    assert steps["rollout"].engine == steps["eval"].engine == engine
    [served] = [line for line in text.splitlines() if "api_server" in line]
    assert f"--max-lora-rank {legal_rank(steps['init'].lora_rank)}" in served
    assert all(flag in served for flag in (*ADAPTERS, "--logprobs-mode processed_logprobs"))


def test_the_full_weights_that_a_script_tells_of_are_split():
    [told] = re.findall(r"add (--set .*?), which splits", (FOLDER / "one-node.sh").read_text().replace("\n# ", " "))
    steps = {step.stage: step.config for step in plan(parsed(f"gtrturbo run --model m --out r {told}"))}
    assert steps["sft"].fsdp and steps["ppo-step"].fsdp


def test_the_skypilot_task_runs_the_script_of_one_node():
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    script = task["run"].split()[-1]
    assert (FOLDER.parent.parent / script).is_file() and task["workdir"] == "."
