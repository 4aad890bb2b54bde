"""The benchmark of ppo-step: its reference, written from the papers' description, computes what the toolkit computes."""

from pathlib import Path

import pytest

from gtrturbo.config import InitConfig, RolloutConfig
from gtrturbo.stages import execute

ROOT = Path(__file__).parent.parent
FEW = ["--turns", "6", "--epochs", "2", "--minibatch-size", "4", "--repeats", "1"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.benchmarks import common, ppo_step

    small = {
        "text": {"vocab_size": 9000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}},
        "vision": {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
        | {"window_size": 112, "fullatt_block_indexes": [1]},
    }
    monkeypatch.setitem(common.SHAPES, "small", small)
    return ppo_step


def test_the_reference_learns_the_weights_that_the_toolkit_learns(benchmark, capsys):
    found = benchmark.main(FEW)
    # Log-probs are sums over a turn's tokens of some nats each, at temperature 0.2.
    assert found["logprobs"] < 1e-3 and found["values"] < 1e-5
    assert found["weights"] < 1e-5  # Two epochs of two minibatches at a learning rate of 1e-5 move them by up to 4e-5.
    assert "ratio of samples/s" in capsys.readouterr().out


def test_an_adapter_on_a_random_shape_is_measured_in_bfloat16_with_logits_in_chunks(benchmark, capsys):
    options = ["--shape", "small", "--lora-rank", "4", "--gradient-checkpointing", "--peak-tflops", "100"]
    found = benchmark.main([*FEW, *options])
    # In bfloat16 a logit is off by up to 2⁻⁹ of its size, a turn's log-prob by the sum of some thirty of them over 0.2.
    assert found["logprobs"] < 1.0
    assert "% of the device's 100" in capsys.readouterr().out


def test_a_random_model_of_a_shape_is_a_folder_that_can_be_started_from_and_played(benchmark, tmp_path):
    from examples.benchmarks import random_model

    folder = tmp_path / "random"
    random_model.main(["--shape", "small", "--out", str(folder)])
    start = execute(InitConfig(out=tmp_path / "start", model=str(folder), lora_rank=2)).out
    played = RolloutConfig(out=tmp_path / "turns", checkpoint=start, task="numberline", episodes=2, max_new_tokens=8)
    metrics = execute(played).metrics
    assert (metrics["episodes"], metrics["illegal_rate"]) == (2, 1.0)  # Of 9000 tokens, most are no text at all.


def test_one_gpus_numbers_come_from_whole_replies_and_whole_minibatches(benchmark, vllm_python):
    from examples.benchmarks import one_gpu

    few = ["--num-envs", "2", "--horizon", "2", "--new-tokens", "3", "--turns", "4", "--minibatch-size", "4", "--repeats", "1"]
    found = one_gpu.main(
        ["--device", "cpu", "--shape", "small", "--lora-rank", "4", "--peak-tflops", "1", "--vllm-python", vllm_python, *few]
    )
    assert found["vLLM env steps/s"] > 0
    # No reply ends, so each has its three tokens.
    assert found["rollout output tokens/s"] == pytest.approx(3 * found["rollout env steps/s"])
    assert found["ppo-step MFU"] == pytest.approx(found["ppo-step TFLOP/s"])
    assert 0 < found["rollout share of prefill"] + found["rollout share of token steps"] < 1
