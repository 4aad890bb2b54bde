"""On a GPU the stages do what they do on a CPU. Skipped where there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.test_decoding import numbers, prompts_of
from safetensors.numpy import load_file

from gtrturbo.config import EvalConfig, MergeConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play.recording import read_transcript
from gtrturbo.runs.execute import run
from gtrturbo.stages import execute
from gtrturbo.store.tensors import load_turn_tokens

GPU = "cuda"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """Let convolutions on a GPU keep all bits of their operands, as a CPU does."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "npu"])
def test_a_device_that_is_not_there_is_refused(warm, ppo, tmp_path, device):
    merge = MergeConfig(out=tmp_path / "merged", base=warm, checkpoints=(ppo,), device=device)
    evaluate = EvalConfig(out=tmp_path / "eval", checkpoint=warm, task="numberline", device=device)
    for config in (merge, evaluate):
        with pytest.raises(GtrTurboError, match=f"--device {device} cannot be used here") as error:
            execute(config)
        assert "give --device cpu" in str(error.value)
        assert not config.out.exists()


@needs_gpu
@pytest.mark.parametrize("method", ["ties", "linear", "dare-ties", "breadcrumbs", "sce"])
def test_a_merge_is_the_same_bytes(init, warm, ppo, tmp_path, method):
    config = MergeConfig(out=tmp_path / "cpu", base=warm, checkpoints=(ppo, init), method=method, density="0.5")
    paths = [execute(config).out, execute(replace(config, out=tmp_path / "gpu", device=GPU)).out]
    here, there = ((path / "model.safetensors").read_bytes() for path in paths)
    assert here == there != (warm / "model.safetensors").read_bytes()


@needs_gpu
def test_an_adapters_teacher_is_the_same_bytes(lora, lora_warm, tmp_path):
    config = MergeConfig(out=tmp_path / "cpu", base=lora, checkpoints=(lora_warm,))
    paths = [execute(config).out, execute(replace(config, out=tmp_path / "gpu", device=GPU)).out]
    here, there = ((path / "model.safetensors").read_bytes() for path in paths)
    assert here == there


@needs_gpu
def test_log_probs_of_what_a_gpu_sampled_are_those_of_a_cpu(turns_config, tmp_path):
    out = execute(replace(turns_config, out=tmp_path / "turns", device=GPU)).out
    played = load_turn_tokens(out / "tokens.safetensors")
    policy = load_policy(turns_config.checkpoint, device="cpu")
    transcript = read_transcript(out, policy.renderer)
    with torch.no_grad():
        scored = policy.score(
            transcript.prompts, played.response_ids, temperature=turns_config.temperature, values=False
        ).logprobs
    assert len(played.sample_logprobs) > 8
    for row, sampled in zip(scored, played.sample_logprobs, strict=True):
        np.testing.assert_allclose(row[: len(sampled)], sampled, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize("task", ["numberline", "points24"])
def test_recorded_token_steps_sample_what_single_ones_do(warm, task):
    policy = load_policy(warm, device=GPU)
    prompts, uniforms = prompts_of(policy, 12, task), numbers(12, 40)

    def sampled():
        return policy.generate(prompts, uniforms, temperature=0.7, max_new_tokens=40)

    recorded = [sampled() for _ in range(2)]  # The second uses the graph of the first.
    policy.sampler.record = None
    for single, *others in zip(sampled(), *recorded, strict=True):
        for other in others:
            assert single.response_ids.tolist() == other.response_ids.tolist()
            np.testing.assert_allclose(single.logprobs, other.logprobs, atol=1e-4)


@needs_gpu
def test_an_update_moves_the_weights_as_on_a_cpu(ppo_config, tmp_path):
    outs = [execute(replace(ppo_config, out=tmp_path / device, device=device)).out for device in ("cpu", GPU)]
    before, here, there = (load_file(path / "model.safetensors") for path in (ppo_config.checkpoint, *outs))
    logs = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in outs]
    assert logs[1][0]["policy_loss"] == pytest.approx(logs[0][0]["policy_loss"], abs=1e-4)
    moved, apart = (sum(float(((a[name] - b[name]) ** 2).sum()) for name in a) for a, b in ((before, here), (here, there)))
    # Adam divides small gradients by their own size, so single weights may go either way; all together hardly do.
    assert moved > 0 and apart < 0.01 * moved


@needs_gpu
@pytest.mark.parametrize("method", ["turbo-kl", "turbo-sft", "gtr"])
def test_the_loop_runs(warm, tmp_path, method):
    config = RunConfig(out=tmp_path / "run", start=warm, method=method, iterations=2, episodes=8, eval_episodes=8)
    results = run(config)
    assert [result.out.name for result in results if result.out.parent.name == "checkpoints"] == ["0001", "0002"]
    assert all(np.isfinite(value) for result in results for value in result.metrics.values())
