"""The benchmark of rollout: its reference, written from the papers' description, plays what the toolkit plays."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
FEW = ["--episodes", "4", "--num-envs", "4", "--reference-episodes", "1", "--repeats", "1"]
FEW += ["--rows", "4", "--max-new-tokens", "40"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.benchmarks import rollout

    return rollout


def test_the_reference_plays_the_same_tokens_with_the_same_log_probs(benchmark, warm, capsys):
    found = benchmark.main([*FEW, "--checkpoint", str(warm), "--scaling", "2"])
    assert found["same"] == found["replies"] > 0
    assert found["worst"] < 5e-5  # Divided by a temperature of 0.6, in float32.
    printed = capsys.readouterr().out
    assert "ratio of env steps/s" in printed and "outside the forward pass" in printed
    assert "\n           2 " in printed  # One row per number of environments.
    assert found["ratio to generate"] > 0 and "\ngenerate " in printed and "\nvLLM " not in printed


def test_vllm_plays_the_same_environments_where_there_is_one(benchmark, warm, capsys, vllm_python):
    found = benchmark.main([*FEW, "--checkpoint", str(warm), "--scaling", "--vllm-python", vllm_python])
    assert found["ratio to vLLM"] > 0 and "\nvLLM " in capsys.readouterr().out


def test_log_probs_at_another_temperature_would_be_told_apart(benchmark, warm):
    from gtrturbo.models.checkpoint import load_policy
    from gtrturbo.tasks.loading import load_task

    policy = load_policy(warm, device="cpu")
    task = load_task("numberline", ["image=tiny"])
    settings, hotter = (benchmark.Settings(task, 0, temperature, 40) for temperature in (0.6, 0.7))
    reference = benchmark.play_reference(policy, settings, episodes=1)
    both, same, worst = benchmark.compare(reference, benchmark.play_toolkit(policy, hotter, episodes=1, num_envs=1))
    assert both > 0 and (same == 0 or worst > 1e-3)


def test_the_7b_shape_is_the_published_one(benchmark, monkeypatch):
    from examples.benchmarks import common

    class Built(Exception):
        pass

    def count(model, *_):
        raise Built(sum(parameter.numel() for parameter in model.parameters()), {p.dtype for p in model.parameters()})

    monkeypatch.setattr(common, "Policy", count)
    with pytest.raises(Built) as built:
        common.policy_of_shape("qwen2.5-vl-7b", device="meta")
    # Qwen/Qwen2.5-VL-7B-Instruct has 8 292 166 656 parameters.
    assert built.value.args == (8_292_166_656, {torch.bfloat16})
