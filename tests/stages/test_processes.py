"""Two processes on a CPU do what one does: the same artifacts up to rounding, each line printed once, one error for all."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gtrturbo.config import DistillConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.plan import Step
from gtrturbo.runs.script import command
from gtrturbo.stages import execute, stage_of
from gtrturbo.store.manifest import read_manifest

# Each process runs the commands; then an error in the second process alone must end both.
pytestmark = pytest.mark.long
SCRIPT = """
import shlex, sys
from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.distributed.processes import world
from gtrturbo.stages import sft

def fail(*_):
    raise GtrTurboError("the second process fails.")

for line in sys.argv[1:]:
    words = shlex.split(line)
    if words[0] == "broken":
        if world().rank == 1:
            sft.imitation_loss = fail
        words = words[1:]
    app(words[1:], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def few(root) -> Path:
    """Three episodes of the expert: an odd number of samples, which two processes share unevenly."""
    return execute(RolloutConfig(out=root / "three", task="numberline", env=("image=tiny",), expert=True, episodes=3, seed=5)).out


@pytest.fixture(scope="module")
def told(init, turns) -> DistillConfig:
    """A teacher's distributions, several passes of them."""
    return DistillConfig(out=Path(), rollouts=turns, teacher=init, top_logprobs=4, micro_batch_tokens="1500")


@pytest.fixture(scope="module")
def alone(told, root) -> Path:
    """What one process writes of them."""
    return execute(replace(told, out=root / "alone-told")).out


@pytest.fixture(scope="module")
def configs(lora, few, ppo_config, alone) -> dict[str, SftConfig | PpoStepConfig]:
    """An adapter's step, whose gradients are summed, and a guided update of full weights that are split, by name."""
    guided = {"scores": alone, "kl_placement": "loss", "kl_estimator": "full"}
    return {
        "sum": SftConfig(out=Path(), data=(few,), checkpoint=lora, steps=2, batch_size=7, learning_rate=1e-3),
        "split": replace(ppo_config, minibatch_size=33, micro_batch_tokens="1500", **guided),
    }


@pytest.fixture(scope="module")
def torchrun(configs, told, few, init, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder that two processes wrote into, and what they said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "run.py").write_text(SCRIPT)
    each = {name: replace(config, out=folder / name, fsdp=name == "split") for name, config in configs.items()}
    broken = SftConfig(out=folder / "broken", data=(few,), checkpoint=init, steps=2, batch_size=4)
    lines = [command(Step(stage_of(config), config)) for config in (*each.values(), replace(told, out=folder / "told"), broken)]
    lines[-1] = f"broken {lines[-1]}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "run.py"), *lines]
    return folder, subprocess.run(launch, capture_output=True, text=True)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.name}:{name}": value.astype(np.float64) for file in files for name, value in load_file(file).items()}


@pytest.fixture(scope="module", params=["sum", "split"])
def both(request, torchrun, configs, root) -> tuple[Path, Path]:
    """What two processes wrote, and what one did."""
    folder, run = torchrun
    assert (folder / request.param).exists(), run.stderr
    return folder / request.param, execute(replace(configs[request.param], out=root / f"alone-{request.param}")).out


def test_two_processes_train_the_weights_of_one(both):
    ours, alone = map(tensors, both)
    assert ours.keys() == alone.keys()
    far = np.concatenate([np.abs(ours[key] - alone[key]).ravel() > 1e-6 for key in alone])
    # Adam turns rounding into a step where the gradient itself is rounding; its moments are sums of gradients.
    assert far.mean() < 1e-4
    assert max([np.abs(ours[key] - alone[key]).max() for key in alone if "exp_avg" in key], default=0.0) < 1e-6


def test_two_processes_log_what_one_logs(both):
    ours, alone = ([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in both)
    for row, other in zip(ours, alone, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert read_manifest(both[0]).metrics.get("first_ratio_error", 0.0) == 0.0


def test_only_the_first_process_speaks(torchrun):
    folder, run = torchrun
    assert run.stdout.split() == [str(folder / name) for name in ("sum", "split", "told")]


def test_two_processes_write_the_distributions_of_one(torchrun, alone):
    folder, run = torchrun
    assert (folder / "told").exists(), run.stderr
    ours, expected = (load_file(path / "scores.safetensors") for path in (folder / "told", alone))
    assert ours.keys() == expected.keys() and len(ours["top_ids"]) == ours["offsets"][-1]
    assert np.array_equal(ours["offsets"], expected["offsets"]) and (ours["top_ids"] == expected["top_ids"]).mean() > 0.99
    for name in ("teacher_logprobs", "top_logprobs", "rest_logprobs"):
        np.testing.assert_allclose(ours[name], expected[name], atol=1e-4)


def test_an_error_in_one_process_ends_all_and_leaves_no_artifact(torchrun):
    folder, run = torchrun
    assert run.returncode != 0
    assert run.stderr.count("the second process fails.") == 1
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["run.py", "split", "sum", "told"]


def test_splitting_weights_needs_processes_to_split_them_over(ppo_config, tmp_path):
    with pytest.raises(GtrTurboError, match=r"--fsdp needs several processes\.\nrun: torchrun"):
        execute(replace(ppo_config, out=tmp_path / "x", fsdp=True))
