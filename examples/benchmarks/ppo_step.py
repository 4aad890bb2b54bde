"""How fast does `ppo-step` learn, beside the update that the papers describe, in one run on one machine?

    python -m examples.benchmarks.ppo_step                                        # the tiny model on a CPU, half a minute
    python -m examples.benchmarks.ppo_step --device cuda --shape qwen2.5-vl-7b --lora-rank 128 --env image=full \\
        --task points24 --turns 256 --epochs 1 --minibatch-size 128 --gradient-checkpointing

The reference is written from the description of RL4VLM's and GTR's update: one turn at a time with gradients accumulated over a
minibatch, one forward pass for the value and another for the log-probs, all logits of all positions in float32, and the same two
passes before the first epoch for the old ones. Both start from the same weights and take the same minibatches of the same turns,
so log-probs, values and the trained weights are compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.benchmarks.common import Clock, bare, peak_memory, policy_of_shape, synchronize
from gtrturbo.algorithms.ppo import clipped_policy_loss, clipped_value_loss
from gtrturbo.algorithms.tokens import span_masks, weighted_turn_logprobs
from gtrturbo.config import InitConfig, PpoStepConfig, RolloutConfig
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import Transcript, read_turns, render
from gtrturbo.stages import execute
from gtrturbo.stages.ppo_step import epochs_of, learn, optimizer_of, prepared
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.tasks.loading import load_task
from gtrturbo.train.inputs import read_rollout
from gtrturbo.train.ppo_batch import PpoBatch
from gtrturbo.train.steps import Student


@dataclass(frozen=True)
class Update:
    """What one update gave: old log-probs and values per turn [N], and the trained weights by name."""

    logprobs: Tensor
    values: Tensor
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """One measurement; `samples` is turns times epochs."""

    seconds: float
    samples: int
    peak_gib: float
    update: Update

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds


def read(policy: Policy, rollouts: Path, count: int) -> Transcript:
    """Render the first turns of an expert and tokenise what it said, as if a policy had sampled it."""
    policy.renderer = Renderer(policy.processor, policy.renderer.family)  # Each measurement renders its own prompts.
    turns = read_turns(rollouts)[:count]
    task = load_task(*_task_of(rollouts))
    prompts = [render(policy.renderer, rollouts, turn.messages[:-1], turn.images) for turn in turns]
    ids, spans, masks = [], [], []
    for turn in turns:
        tokens, offsets = policy.renderer.response_ids(turn.reply)
        reply = task.read(turn.reply, {})
        assert reply is not None
        ids.append(np.array(tokens, np.int32))
        spans.append(np.array(offsets, np.int32))
        masks.append(span_masks(offsets, action_start=reply.action_start, action_span=reply.action_span))
    thought, action = [np.array(mask.thought) for mask in masks], [np.array(mask.action) for mask in masks]
    unknown = [np.zeros(len(row), np.float32) for row in ids]
    return Transcript(turns, TurnTokens([prompt.ids for prompt in prompts], ids, spans, thought, action, unknown), prompts)


def _task_of(rollouts: Path) -> tuple[str, list[str]]:
    settings = read_manifest(rollouts).config
    return settings["task"], settings["env"]


def update_toolkit(policy: Policy, config: PpoStepConfig, transcript: Transcript) -> PpoBatch:
    """Update as `gtrturbo ppo-step` does."""
    optimizer, rollout = optimizer_of(config, policy), read_rollout(config.rollouts)
    batch, _ = prepared(config, policy, transcript, rollout)
    learn(config, Student(policy, optimizer, transcript, batch), rollout, [], lambda step, numbers: None)
    return batch


def update_reference(policy: Policy, config: PpoStepConfig, transcript: Transcript, fixed: PpoBatch) -> tuple[Tensor, Tensor]:
    """Update one turn at a time; advantages and returns, which cost nothing, are those that the toolkit worked out.

    Returns: old log-probs and values per turn. [N], [N]
    """
    temperature = read_rollout(config.rollouts).temperature
    count = len(transcript.turns)

    def evaluate(row: int) -> tuple[Tensor, Tensor]:
        prompt, ids = transcript.prompts[row], transcript.tokens.response_ids[row]
        logprobs = _logprobs(policy, prompt, ids, temperature)
        masks = (fixed.thought_mask[row, : len(ids)], fixed.action_mask[row, : len(ids)])
        thought, action = (mask[None].to(policy.device) for mask in masks)
        turn = weighted_turn_logprobs(logprobs[None], thought, action, thought_coef=config.thought_coef)
        return turn, _value(policy, prompt)

    with torch.no_grad():
        old = [evaluate(row) for row in range(count)]
    old_logprobs, old_values = (torch.cat([each[which] for each in old]) for which in (0, 1))
    parameters = trainable(policy)
    adam = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for turns in [turns for epoch in epochs_of(config, count) for turns in epoch]:
        for row in turns:
            new, value = evaluate(row)
            one = slice(row, row + 1)
            assert fixed.value_targets is not None
            credit = fixed.advantages[one].to(policy.device), fixed.value_targets[one].to(policy.device)
            policy_loss = clipped_policy_loss(new, old_logprobs[one], credit[0], clip_range=config.clip_range).loss
            value_loss = clipped_value_loss(value, old_values[one], credit[1], clip_range=config.clip_range)
            ((policy_loss + config.value_coef * value_loss).sum() / len(turns)).backward()
        nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        adam.step()
        adam.zero_grad()
    return old_logprobs.cpu(), old_values.cpu()


def _logprobs(policy: Policy, prompt: Prompt, ids: np.ndarray, temperature: float) -> Tensor:
    """Run prompt and reply, all positions with all logits in float32. [R]"""
    tail = torch.from_numpy(ids.astype(np.int64))[None]
    extra = {"input_ids": tail, "attention_mask": torch.ones_like(tail), "mm_token_type_ids": torch.zeros_like(tail)}
    whole = {name: torch.cat([value, extra[name]], dim=1) if name in extra else value for name, value in prompt.tensors.items()}
    logits = bare(policy)(**_on_device(policy, whole), use_cache=False).logits.float()[0] / temperature
    logits = logits.index_fill(-1, policy.forbidden, -torch.inf)[-len(ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, tail[0].to(policy.device)[:, None])[:, 0]


def _value(policy: Policy, prompt: Prompt) -> Tensor:
    """Run the prompt and value the state of its last token. [1]"""
    assert policy.value_head is not None
    batch = _on_device(policy, prompt.tensors)
    hidden = bare(policy)(**batch, use_cache=False, output_hidden_states=True).hidden_states[-1]
    return policy.value_head(hidden[:, -1].float())


def _on_device(policy: Policy, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    dtype = policy.model.dtype
    return {name: value.to(policy.device, dtype if value.is_floating_point() else None) for name, value in tensors.items()}


def trainable(policy: Policy) -> dict[str, nn.Parameter]:
    """Name all parameters that an update changes."""
    assert policy.value_head is not None
    return dict(policy.parameters()) | dict(policy.value_head.named_parameters())


class Bench:
    """A policy and turns, and both ways to update the one from the other; each starts from the same weights."""

    def __init__(self, policy: Policy, config: PpoStepConfig, count: int) -> None:
        self.policy, self.config, self.count = policy, config, count
        self._start = {name: value.detach().clone() for name, value in trainable(policy).items()}
        self._fixed: PpoBatch | None = None

    def toolkit(self) -> tuple[Tensor, Tensor]:
        self._fixed = update_toolkit(self.policy, self.config, read(self.policy, self.config.rollouts, self.count))
        assert self._fixed.old_values is not None
        return self._fixed.old_logprobs, self._fixed.old_values

    def reference(self) -> tuple[Tensor, Tensor]:
        assert self._fixed is not None
        transcript = read(self.policy, self.config.rollouts, self.count)
        return update_reference(self.policy, self.config, transcript, self._fixed)

    def measure(self, way: Callable[[], tuple[Tensor, Tensor]]) -> Measured:
        """Time one way, rendering of the prompts included."""
        self.restore()
        device = self.policy.device
        with peak_memory(device) as peak:
            synchronize(device)
            started = time.perf_counter()
            logprobs, values = way()
            synchronize(device)
            seconds = time.perf_counter() - started
            weights = {name: value.detach().cpu().clone() for name, value in trainable(self.policy).items()}
            return Measured(seconds, self.count * self.config.epochs, peak(), Update(logprobs, values, weights))

    @torch.no_grad()
    def restore(self) -> None:
        for name, value in trainable(self.policy).items():
            value.copy_(self._start[name])

    def shares(self, way: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Measure which share of the time passes in the model (forward and backward) and the processor; the rest is all else."""
        clock, processor = Clock(self.policy.device), type(self.policy.processor)
        parts = [
            ("model", bare(self.policy), "forward"),
            ("model", torch.Tensor, "backward"),
            ("processor", processor, "__call__"),
            ("processor", processor, "apply_chat_template"),
        ]
        with clock.watching(parts):
            total = self.measure(way).seconds
        known = {part: clock.seconds[part] / total for part in ("model", "processor")}
        return known | {"other": 1 - sum(known.values())}


def flops_per_sample(policy: Policy, transcript: Transcript, *, epochs: int) -> float:
    """Count the multiplications and additions that one turn's share of an update needs, recomputation left out.

    2 per weight and token forward; as many for the gradient of the activations, and again for that of the weights where they
    are trained; and 4 · width · length per layer and token, halved by causality, for attention.
    """
    model, text = bare(policy), bare(policy).config.get_text_config()
    vision = sum(value.numel() for name, value in model.named_parameters() if "visual" in name)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    outside = embedding.numel() + (0 if head is embedding else head.numel())
    layers = sum(value.numel() for value in model.parameters()) - vision - outside
    lengths = [(len(p.ids), len(ids)) for p, ids in zip(transcript.prompts, transcript.tokens.response_ids, strict=True)]
    tokens = statistics.mean(p + r for p, r in lengths)
    attention = 2 * text.hidden_size * text.num_hidden_layers * statistics.mean((p + r) ** 2 for p, r in lengths)
    patches = statistics.mean(len(prompt.tensors["pixel_values"]) for prompt in transcript.prompts)
    forward = 2 * (layers * tokens + vision * patches + head.numel() * statistics.mean(r for _, r in lengths)) + attention
    full = all(parameter.requires_grad for parameter in model.parameters())
    return forward * (1 + 1 / epochs + (2 if full else 1))  # One forward pass before the epochs is shared by them.


def main(words: list[str] | None = None) -> dict[str, float]:
    """Measure and print; return the headline numbers."""
    options = options_of(words)
    with tempfile.TemporaryDirectory() as folder:
        bench = bench_of(options, Path(folder))
        return _compare(bench, options)


def bench_of(options: Any, folder: Path) -> Bench:
    """Build what the options name."""
    if options.shape == "tiny":
        first = execute(InitConfig(out=folder / "init", lora_rank=options.lora_rank)).out
        policy = load_policy(first, device=options.device, trainable=True)
    else:
        policy = policy_of_shape(options.shape, device=options.device, lora_rank=options.lora_rank)
    policy.value_head = ValueHead.new(bare(policy).config.get_text_config().hidden_size, seed=0).to(policy.device)
    nn.init.normal_(policy.value_head.layers[-1].weight, std=0.1)  # A new head answers 0, which would compare nothing.
    expert = RolloutConfig(
        out=folder / "expert", task=options.task, env=tuple(options.env), expert=True, episodes=options.turns, seed=options.seed
    )
    config = PpoStepConfig(
        out=folder / "out",
        checkpoint=folder / "none",
        rollouts=execute(expert).out,
        epochs=options.epochs,
        minibatch_size=options.minibatch_size,
        micro_batch_tokens=options.micro_batch_tokens,
        gradient_checkpointing=options.gradient_checkpointing,
        clip_range=0.2,
        seed=options.seed,
    )
    if config.gradient_checkpointing:
        policy.recompute_activations()
    return Bench(policy, config, _whole_episodes(config.rollouts, options.turns))


def _whole_episodes(rollouts: Path, wanted: int) -> int:
    """Count the turns up to the end of the episode that holds the last wanted one."""
    ends = [row + 1 for row, turn in enumerate(read_turns(rollouts)) if turn.terminated or turn.truncated]
    return next(end for end in ends if end >= wanted)


def _compare(bench: Bench, options: Any) -> dict[str, float]:
    ways = {"ppo-step": bench.toolkit, "reference": bench.reference}
    bench.measure(bench.toolkit)  # The first pass of a model is slower.
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(options.repeats):  # In turns, so that what else the machine does falls on both.
        for name, way in ways.items():
            runs[name].append(bench.measure(way))
    device = bench.policy.device
    print(f"{options.task} {' '.join(options.env)}, {options.shape}, {device}, {bench.count} turns, {bench.config.epochs} epochs")
    print("             samples/s   peak GiB   model  processor  other")
    for name, way in ways.items():
        speed, peak = statistics.median(run.samples_per_second for run in runs[name]), max(run.peak_gib for run in runs[name])
        print(f"{name:10s} {speed:11.1f} {peak:10.2f}", *(f"{share:8.0%}" for share in bench.shares(way).values()))
    ratios = [ours.samples_per_second / theirs.samples_per_second for ours, theirs in zip(*runs.values(), strict=True)]
    print(f"ratio of samples/s {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")
    found = {"ratio": statistics.median(ratios)} | _differences(*(each[0].update for each in runs.values()))
    print("largest difference of", ", ".join(f"{name} {found[name]:.1e}" for name in ("logprobs", "values", "weights")))
    flops = flops_per_sample(bench.policy, read(bench.policy, bench.config.rollouts, bench.count), epochs=bench.config.epochs)
    rate = flops * statistics.median(run.samples_per_second for run in runs["ppo-step"])
    print(f"ppo-step: {flops / 1e9:.3g} GFLOP per sample, {rate / 1e12:.3g} TFLOP/s", end="")
    print(f", {rate / 1e12 / options.peak_tflops:.1%} of the device's {options.peak_tflops:g}" if options.peak_tflops else "")
    return found


def _differences(ours: Update, theirs: Update) -> dict[str, float]:
    """The largest differences of old log-probs per turn (nats), of old values, and of the trained weights."""
    return {
        "logprobs": float((ours.logprobs - theirs.logprobs).abs().max()),
        "values": float((ours.values - theirs.values).abs().max()),
        "weights": max(float((ours.weights[name] - theirs.weights[name]).abs().max()) for name in theirs.weights),
    }


def options_of(words: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="tiny", help="tiny or qwen2.5-vl-7b (random weights)")
    parser.add_argument("--lora-rank", type=int, default=0, help="train an adapter of this rank; 0 trains the full weights")
    parser.add_argument("--task", default="numberline")
    parser.add_argument("--env", action="append", help="KEY=VALUE; image=tiny if not given")
    parser.add_argument("--turns", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--minibatch-size", type=int, default=64)
    parser.add_argument("--micro-batch-tokens", default="auto")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peak-tflops", type=float, default=0.0, help="of the device in its weights' type, such as 989 for an H100"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    options.env = options.env or ["image=tiny"]
    return options


if __name__ == "__main__":
    main()
