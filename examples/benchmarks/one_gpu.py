"""What does one GPU do with a model of a published shape: environment steps, tokens and requests per second, MFU and memory?

    python -m examples.benchmarks.one_gpu --peak-tflops 989

Weights are random and replies never end, so every reply has all its tokens; pictures are 300 × 300. The rollout is that of
`gtrturbo rollout --engine hf`, the update that of `gtrturbo ppo-step` of adapter and value head. With `--vllm-python PATH`
the same environments are first played by `--engine vllm`, with full weights. A step of an environment is a request.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmarks import ppo_step, random_model
from examples.benchmarks.common import Clock, policy_of_shape
from examples.benchmarks.others import serving_vllm
from examples.benchmarks.rollout import Settings, measure, play_agent, play_toolkit
from gtrturbo.models.decoding import Sampler
from gtrturbo.models.policy import Policy
from gtrturbo.tasks.loading import load_task

FULL_PICTURES = ["image=full"]


def main(words: list[str] | None = None) -> dict[str, float]:
    """Measure and print; return the numbers."""
    options = _options(words)
    found = _shown(rollout_vllm(options)) if options.vllm_python else {}
    found |= _shown(rollout(options))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found | _shown(update(options))


def _shown(found: dict[str, float]) -> dict[str, float]:
    for name, value in found.items():
        print(f"{name:32s} {value:12.4g}", flush=True)
    return found


def _settings(options: Any) -> Settings:
    task = load_task("numberline", [*FULL_PICTURES, f"horizon={options.horizon}"])
    return Settings(task, options.seed, 0.6, options.new_tokens)


def rollout_vllm(options: Any) -> dict[str, float]:
    """Play by vLLM what `rollout` plays."""
    settings, count = _settings(options), options.num_envs
    sampling = {"seed": settings.seed, "temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "random"
        random_model.main(["--shape", options.shape, "--out", str(checkpoint)])
        with serving_vllm(checkpoint, options.vllm_python, num_envs=count, **sampling) as agent:

            def play() -> Any:
                return play_agent(agent(), settings, episodes=count, num_envs=count)

            play()
            runs = [measure(play, torch.device("cpu")) for _ in range(options.repeats)]
    best = max(runs, key=lambda run: run.steps_per_second)
    return {"vLLM env steps/s": best.steps_per_second, "vLLM output tokens/s": best.tokens_per_second}


def rollout(options: Any) -> dict[str, float]:
    """Play `--horizon` turns in each of `--num-envs` environments at once."""
    policy = policy_of_shape(options.shape, device=options.device, lora_rank=options.lora_rank)
    settings = _settings(options)
    policy.sampler.end_ids = []

    def play() -> Any:
        return play_toolkit(policy, settings, episodes=options.num_envs, num_envs=options.num_envs)

    play()  # The first pass of a model is slower.
    runs = [measure(play, policy.device) for _ in range(options.repeats)]
    best = max(runs, key=lambda run: run.steps_per_second)
    return {
        "rollout env steps/s": best.steps_per_second,
        "rollout output tokens/s": best.tokens_per_second,
        "rollout peak GiB": best.peak_gib,
    } | _shares(policy, play)


def _shares(policy: Policy, play: Any) -> dict[str, float]:
    """Where a rollout's time goes: prompts (prefill), token steps, and the rest: choosing tokens, rendering, environments."""
    clock = Clock(policy.device)
    with clock.watching([("prefill", Sampler, "_prefill"), ("token step", Sampler, "_step")]):
        total = measure(play, policy.device).seconds
    steps = max(1, clock.calls["token step"])
    return {
        "rollout share of prefill": clock.seconds["prefill"] / total,
        "rollout share of token steps": clock.seconds["token step"] / total,
        "rollout ms per token step": 1000 * clock.seconds["token step"] / steps,
    }


def update(options: Any) -> dict[str, float]:
    """Update on `--turns` turns of an expert."""
    words = ["--device", options.device, "--shape", options.shape, "--lora-rank", str(options.lora_rank), "--task", "points24"]
    counts = {"turns": options.turns, "epochs": 1, "minibatch-size": options.minibatch_size}
    words += ["--env", *FULL_PICTURES, *(f"--{name}={count}" for name, count in counts.items())]
    words += ["--gradient-checkpointing"] if options.gradient_checkpointing else []
    with tempfile.TemporaryDirectory() as folder:
        bench = ppo_step.bench_of(ppo_step.options_of(words), Path(folder))
        bench.measure(bench.toolkit)
        runs = [bench.measure(bench.toolkit) for _ in range(options.repeats)]
        best = max(runs, key=lambda run: run.samples_per_second)
        transcript = ppo_step.read(bench.policy, bench.config.rollouts, bench.count)
        flops = ppo_step.flops_per_sample(bench.policy, transcript, epochs=1)
    tokens = np.mean([len(p.ids) + len(r) for p, r in zip(transcript.prompts, transcript.tokens.response_ids, strict=True)])
    teraflops = best.samples_per_second * flops / 1e12
    found = {
        "ppo-step turns/s": best.samples_per_second,
        "ppo-step tokens/s": best.samples_per_second * float(tokens),
        "ppo-step TFLOP/s": teraflops,
        "ppo-step peak GiB": best.peak_gib,
    }
    return found | ({"ppo-step MFU": teraflops / options.peak_tflops} if options.peak_tflops else {})


def _options(words: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="qwen2.5-vl-7b")
    parser.add_argument("--lora-rank", type=int, default=128)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=256)
    parser.add_argument("--minibatch-size", type=int, default=128)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--vllm-python", help="of an environment that has vLLM, which then plays as well")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device in bfloat16, 989 for an H200")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
