"""What the tests share: tiny artifacts, each made once per session by the stages themselves."""

import os
import sys
from pathlib import Path

import pytest

from gtrturbo.config import DistillConfig, InitConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.stages import execute

# Workers of xdist are given a width, which what a pipe is told must not depend on here.
os.environ.pop("COLUMNS", None)
# Modules that load torch are imported inside the fixtures, so that tests of games, records and configs start at once.
TASK = {"task": "numberline", "env": ("image=tiny",)}
PLAY = TASK | {"max_new_tokens": 48, "temperature": 0.9, "num_envs": 8}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def init(root) -> Path:
    """The tiny model as it is born: random weights."""
    return execute(InitConfig(out=root / "init")).out


@pytest.fixture(scope="session")
def expert(root) -> Path:
    """Turns of the scripted expert."""
    return execute(RolloutConfig(out=root / "expert", **TASK, expert=True, episodes=60, seed=7)).out


@pytest.fixture(scope="session")
def warm(root, init, expert) -> Path:
    """The tiny model after so many supervised steps that most replies parse and some do not."""
    return execute(SftConfig(out=root / "warm", data=(expert,), checkpoint=init, steps=80, learning_rate=3e-3, batch_size=16)).out


@pytest.fixture(scope="session")
def turns_config(root, warm) -> RolloutConfig:
    return RolloutConfig(out=root / "turns", checkpoint=warm, **PLAY, episodes=8)


@pytest.fixture(scope="session")
def turns(turns_config) -> Path:
    """Eight episodes of the warm checkpoint; not at temperature 1, which would hide who forgets it."""
    return execute(turns_config).out


@pytest.fixture(scope="session")
def ppo_config(root, warm, turns) -> PpoStepConfig:
    """One pass over the turns; a test changes what it is about with dataclasses.replace."""
    return PpoStepConfig(
        out=root / "ppo", checkpoint=warm, rollouts=turns, epochs=1, minibatch_size=32, learning_rate=1e-4, seed=5
    )


@pytest.fixture(scope="session")
def ppo(ppo_config) -> Path:
    """The checkpoint after one update of the warm one."""
    return execute(ppo_config).out


@pytest.fixture(scope="session")
def scores(root, init, turns) -> Path:
    """The turns' tokens under the untrained model."""
    return execute(DistillConfig(out=root / "scores", rollouts=turns, teacher=init)).out


@pytest.fixture(scope="session")
def lora(root) -> Path:
    """A fresh LoRA adapter of rank 4 on the tiny model; its B is zero."""
    return execute(InitConfig(out=root / "lora", lora_rank=4)).out


@pytest.fixture(scope="session")
def lora_warm(root, lora, expert) -> Path:
    """The adapter after a few supervised steps."""
    return execute(
        SftConfig(out=root / "lora_warm", data=(expert,), checkpoint=lora, steps=3, learning_rate=1e-2, batch_size=8)
    ).out


@pytest.fixture
def policy(warm):
    """The warm checkpoint in memory, fresh for each test."""
    from gtrturbo.models.checkpoint import load_policy

    return load_policy(warm, device="cpu")


@pytest.fixture
def transcript(policy, turns):
    """The turns in memory, with tokens and rendered prompts."""
    from gtrturbo.play.recording import read_transcript

    return read_transcript(turns, policy.renderer)


@pytest.fixture
def vllm_python(tmp_path, monkeypatch) -> str:
    """A Python that serves by the wire of vLLM, whatever module it is asked for."""
    file, folder = tmp_path / "python", Path(__file__).parent
    asked = '[ "$1" = -c ] && exit 0'  # What it has, before it is started.
    serve = f'PYTHONPATH="{folder}:{folder.parent}" exec "{sys.executable}" "{folder}/fake_vllm.py" "$@"'
    file.write_text(f"#!/bin/sh\n{asked}\n{serve}\n")
    file.chmod(0o755)
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path / "told.json"))
    return str(file)
