"""A vLLM that is started for a stage: with which flags, that it answers, and that nothing of it stays."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.own_server import flags_of
from gtrturbo.play.server import legal_rank
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.safetensors_files import read_layout

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture
def config(vllm_python, warm, tmp_path) -> RolloutConfig:
    return RolloutConfig(
        out=tmp_path / "turns", checkpoint=warm, episodes=2, max_new_tokens=16, engine="vllm", vllm_python=vllm_python, **TASK
    )


def test_a_stage_starts_its_server_and_ends_it(config, tmp_path, warm):
    manifest = read_manifest(execute(config).out)
    assert manifest.metrics["probe_gap_mean"] < 1e-5 and manifest.config["engine"] == "vllm"
    assert "vllm_python" not in manifest.config
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["words"] == ["-m", "vllm.entrypoints.openai.api_server"] and told["lora"] == "1"
    assert told["flags"][:2] == ["--model", str(warm.resolve())]
    with pytest.raises(ProcessLookupError):
        os.kill(told["pid"], 0)


def test_a_trained_checkpoint_is_served_without_its_value_head_and_optimiser(config, ppo):
    assert {"value_head.safetensors", "optimizer.safetensors"} < {file.name for file in ppo.glob("*.safetensors")}
    assert read_manifest(execute(replace(config, checkpoint=ppo)).out).metrics["probe_gap_mean"] < 1e-5
    assert read_layout(ppo).unread == ()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("No module named vllm", "No module named vllm"),
        (
            "(Worker 3) ERROR at.py:9 ValueError: no x\nRuntimeError: Engine core failed. See root cause above.",
            "ValueError: no x",
        ),
    ],
)
def test_a_server_that_does_not_start_is_told_by_its_last_words(config, monkeypatch, said, cause):
    monkeypatch.setenv("FAKE_VLLM_FAILS", said)
    with pytest.raises(GtrTurboError, match=rf"the last that it says is: {cause}\nsee .*\.log; --vllm-python") as told:
        execute(config)
    Path(str(told.value).partition("see ")[2].partition(";")[0]).unlink()
    assert not config.out.exists()


def test_a_python_that_is_none_is_refused(warm, tmp_path):
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, engine="vllm", vllm_python=str(tmp_path / "no"), **TASK)
    with pytest.raises(GtrTurboError, match=r"cannot be run: No such file or directory\.\nname a Python"):
        execute(play)


def test_flags_follow_from_the_checkpoint(warm, lora, tmp_path):
    whole = flags_of(warm, dtype="auto", port=7, on_cpu=False)
    assert whole == [
        "--model", str(warm.resolve()), "--host", "127.0.0.1", "--port", "7", "--logprobs-mode", "processed_logprobs",
        "--dtype", "float32", "--max-model-len", "auto",
    ]  # fmt: skip
    adapted = flags_of(lora, dtype="bfloat16", port=7, on_cpu=True)
    assert adapted[1] == str((lora / "base").resolve()) and adapted[9] == "bfloat16"
    assert adapted[10:] == [
        "--max-model-len", "auto",
        "--enable-lora", "--enable-tower-connector-lora", "--max-lora-rank", "8", "--max-num-batched-tokens", "16384",
        "--enforce-eager",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "legal"), [(1, 1), (2, 8), (8, 8), (9, 16), (128, 128), (129, 256), (500, 512)])
def test_a_rank_is_rounded_up_to_what_vllm_takes(rank, legal):
    assert legal_rank(rank) == legal
