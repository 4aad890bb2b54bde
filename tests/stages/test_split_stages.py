"""Updates whose weights two processes split and write in several files: every stage goes on from what they wrote."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from gtrturbo.config import DistillConfig, EvalConfig, MergeConfig, PpoStepConfig, RolloutConfig
from gtrturbo.runs.plan import Step
from gtrturbo.runs.script import command
from gtrturbo.stages import execute, stage_of
from gtrturbo.store.verification import verify

pytestmark = pytest.mark.long
TASK = {"task": "numberline", "env": ("image=tiny",)}
PLAY = TASK | {"max_new_tokens": 48, "temperature": 0.9, "num_envs": 8}

# Files of a tiny model are cut where those of a large one are cut at 50 GB.
SCRIPT = """
import shlex, sys
from gtrturbo.cli import app
from gtrturbo.models import split_files

split_files.MOST_IN_FILE = "300KB"
for line in sys.argv[1:]:
    app(shlex.split(line)[1:], standalone_mode=False)
"""


@pytest.fixture(scope="module")
def configs(ppo_config, tmp_path_factory) -> dict[str, PpoStepConfig | RolloutConfig]:
    """An update, turns that it plays, and a second update that goes on from the optimiser of the first; in bfloat16, too."""
    folder = tmp_path_factory.mktemp("split")
    made: dict[str, PpoStepConfig | RolloutConfig] = {}
    for dtype, kind in (("auto", ""), ("bfloat16", "narrow ")):
        first = replace(ppo_config, out=folder / f"{kind}first", fsdp=True, dtype=dtype)
        turns = RolloutConfig(out=folder / f"{kind}turns", checkpoint=first.out, **PLAY, episodes=8)
        second = replace(first, out=folder / f"{kind}second", checkpoint=first.out, rollouts=turns.out)
        made |= {config.out.name: config for config in (first, turns, second)}
    return made


@pytest.fixture(scope="module")
def two(configs, tmp_path_factory) -> dict[str, Path]:
    """What two processes wrote."""
    file = tmp_path_factory.mktemp("two") / "run.py"
    file.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(file)]
    lines = [command(Step(stage_of(config), config)) for config in configs.values()]
    run = subprocess.run([*launch, *lines], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {name: config.out for name, config in configs.items()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def far(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, than: float) -> float:
    """The share of numbers that differ by more."""
    assert ours.keys() == expected.keys()
    return np.concatenate([(ours[name].double() - expected[name].double()).abs().gt(than).flatten() for name in expected]).mean()


def test_a_split_update_writes_an_artifact_of_several_files(two):
    files = sorted(file.name for file in two["first"].glob("model*"))
    count = len(files) - 1
    assert count > 3 and files == [*(f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)),
                                   "model.safetensors.index.json"]  # fmt: skip
    verify(two["first"], "always")
    assert json.loads((two["first"] / "stage.json").read_text())["files"].keys() >= set(files)
    assert [path for path in two["first"].rglob("*") if ".shard" in path.name] == []


def test_transformers_reads_what_a_split_update_wrote(two, ppo, init):
    model = AutoModelForImageTextToText.from_pretrained(two["first"])
    state, before, after = model.state_dict(), *(AutoModelForImageTextToText.from_pretrained(path) for path in (init, ppo))
    stored = weights(two["first"])
    assert sum(value.numel() for value in stored.values()) == model.num_parameters()
    assert far(state, after.state_dict(), than=1e-6) < 1e-4 < 0.5 < far(state, before.state_dict(), than=1e-6)


def test_a_second_split_update_goes_on_as_one_process_does(two, configs, tmp_path):
    alone = execute(replace(configs["second"], out=tmp_path / "alone", fsdp=False)).out
    assert far(weights(two["second"]), weights(alone), than=1e-6) < 1e-4
    # Adam turns rounding into a step where the gradient itself is rounding; its moments are sums of gradients.
    ours, expected = (load_file(path / "optimizer.safetensors") for path in (two["second"], alone))
    assert far(ours, expected, than=1e-6) < 1e-4
    steps = {int(value) for name, value in load_file(two["first"] / "optimizer.safetensors").items() if name.startswith("step.")}
    assert int(ours["updates"]) == 2
    assert min(int(value) for name, value in ours.items() if name.startswith("step.")) > min(steps)


def test_float32_copies_of_narrow_weights_are_gone_on_from(two, configs, tmp_path):
    alone = execute(replace(configs["narrow second"], out=tmp_path / "alone", fsdp=False)).out
    states = [load_file(path / "optimizer.safetensors") for path in (two["narrow first"], two["narrow second"], alone)]
    before, ours, expected = ({name: state[name] for name in state if name.startswith("master.")} for state in states)
    assert {value.dtype for value in weights(two["narrow second"]).values()} == {torch.bfloat16}
    # Rounded gradients turn steps, on some processors every second, by less; copies that began from rounded weights would be off.
    assert far(ours, expected, than=1e-4) < 0.05
    assert far({name: value.bfloat16() for name, value in before.items()}, before, than=1e-4) > 0.4


def test_all_stages_go_on_from_several_files(two, init, tmp_path):
    merged = execute(MergeConfig(out=tmp_path / "merged", base=init, checkpoints=(two["first"], two["second"]), method="linear"))
    mean = {name: (value + weights(two["second"])[name]) / 2 for name, value in weights(two["first"]).items()}
    assert far(weights(merged.out), mean, than=1e-6) == 0.0
    scores = execute(DistillConfig(out=tmp_path / "scores", rollouts=two["turns"], teacher=two["first"])).out
    student = np.concatenate([load_file(two["turns"] / "tokens.safetensors")["sample_logprobs"]])
    # The teacher is the student, and plays at the temperature at which it is scored.
    np.testing.assert_allclose(load_file(scores / "scores.safetensors")["teacher_logprobs"], student, atol=1e-4)
    played = execute(EvalConfig(out=tmp_path / "eval", checkpoint=two["first"], **TASK, episodes=2, max_new_tokens=8))
    assert played.metrics["episodes"] == 2
