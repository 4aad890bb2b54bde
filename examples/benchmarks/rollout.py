"""How fast does `rollout` play, beside the loop that the papers describe, in one run on one machine?

    python -m examples.benchmarks.rollout                                         # the tiny model on a CPU, a few minutes
    python -m examples.benchmarks.rollout --shape small --vllm-python .venv-vllm/bin/python    # and vLLM in the same run
    python -m examples.benchmarks.rollout --device cuda --shape qwen2.5-vl-7b --lora-rank 128 --env image=full

The reference is written from the description of RL4VLM's and GTR's loop: one environment, the processor once per state,
`generate` for one state at a time, and a second full forward pass for the log-probs of what was sampled. Both play the same
episodes of the same model with the same random numbers, token for token, and their log-probs are compared. Two rows more play the
same environments with tokens of their own: transformers' `generate`, batched over the environments, and vLLM.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from examples.benchmarks.common import Clock, bare, load_or_build, peak_memory, synchronize, warm_checkpoint
from examples.benchmarks.others import generating, serving_vllm
from gtrturbo.models.inputs import to_device
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import collate
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.play.episodes import play_episodes
from gtrturbo.play.policy_agent import PolicyAgent, uniforms
from gtrturbo.store.ids import seed_for
from gtrturbo.store.records import chat
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import View

VLLM = "vLLM"
Replies = dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Settings:
    """What both loops are given."""

    task: Task
    seed: int
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class Measured:
    """One measurement. `replies`: token ids and log-probs by (episode, turn)."""

    seconds: float
    replies: Replies
    peak_gib: float

    @property
    def steps_per_second(self) -> float:
        return len(self.replies) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return sum(len(ids) for ids, _ in self.replies.values()) / self.seconds


def measure(play: Callable[[], Replies], device: torch.device) -> Measured:
    """Time one way of playing."""
    with peak_memory(device) as peak:
        synchronize(device)
        started = time.perf_counter()
        replies = play()
        synchronize(device)
        return Measured(time.perf_counter() - started, replies, peak())


def play_toolkit(policy: Policy, settings: Settings, *, episodes: int, num_envs: int) -> Replies:
    """Play as `gtrturbo rollout` does."""
    agent = PolicyAgent(policy, seed=settings.seed, temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    policy.renderer = type(policy.renderer)(policy.processor)  # Each measurement renders its own prompts.
    return play_agent(agent, settings, episodes=episodes, num_envs=num_envs)


def play_generate(policy: Policy, settings: Settings, *, episodes: int, num_envs: int) -> Replies:
    """Play with transformers' `generate`, one call for all environments."""
    policy.renderer = type(policy.renderer)(policy.processor)
    sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    agent = generating(policy, _plain(policy, settings.max_new_tokens, **sampling))
    return play_agent(agent, settings, episodes=episodes, num_envs=num_envs)


def play_agent(agent: Any, settings: Settings, *, episodes: int, num_envs: int) -> Replies:
    """Play with whoever answers."""
    played = play_episodes(
        agent, settings.task, seed=settings.seed, episodes=range(episodes), num_envs=num_envs, on_invalid_reply="random"
    )
    turns = [turn for episode in played for turn in episode]
    return {(turn.state.episode, turn.state.turn): _tokens(turn.response) for turn in turns}


def _tokens(response: Any) -> tuple[np.ndarray, np.ndarray]:
    return response.response_ids, response.logprobs


def _text(task: Task, picture: np.ndarray, info: dict[str, Any]) -> str:
    return task.prompt(View(picture, info)).messages[0]["content"][-1]["text"]


def play_reference(policy: Policy, settings: Settings, *, episodes: int) -> Replies:
    """Play one episode after another: batch 1, transformers' generate, and a second forward pass for the log-probs."""
    replies: Replies = {}
    env = settings.task.make()
    for episode in range(episodes):
        random = np.random.default_rng(seed_for(settings.seed, "random action", episode))
        picture, info = env.reset(seed=seed_for(settings.seed, "episode", episode) % 2**32)
        for turn in range(settings.task.max_turns or 0):
            batch = _reference_prompt(policy, _text(settings.task, picture, info), picture)
            numbers = uniforms([seed_for(settings.seed, "reply", episode, turn)], settings.max_new_tokens)[0]
            ids = _reference_generate(policy, batch, numbers, settings)
            replies[episode, turn] = ids, _reference_logprobs(policy, batch, ids, settings.temperature)
            text = policy.processor.tokenizer.decode(ids, skip_special_tokens=True)
            reply = settings.task.read(text, {})
            actions = settings.task.allowed(info)
            action = reply.action if reply else actions[random.integers(len(actions))]
            picture, _, terminated, truncated, info = env.step(actions.index(action))
            if terminated or truncated:
                break
    return replies


def _reference_prompt(policy: Policy, prompt: str, picture: np.ndarray) -> dict[str, torch.Tensor]:
    text = policy.processor.apply_chat_template(chat(prompt), add_generation_prompt=True, tokenize=False)
    batch = policy.processor(text=[text], images=[Image.fromarray(picture)], return_tensors="pt")
    pixels = batch["pixel_values"].to(policy.model.dtype)
    return {name: value.to(policy.device) for name, value in (dict(batch) | {"pixel_values": pixels}).items()}


@torch.no_grad()
def _reference_generate(policy: Policy, batch: dict[str, torch.Tensor], numbers: np.ndarray, settings: Settings) -> np.ndarray:
    model = bare(policy)
    model.generation_config = _plain(policy, settings.max_new_tokens)
    draw = _Draw(policy.forbidden, numbers, settings.temperature)
    sequences = model.generate(**batch, logits_processor=LogitsProcessorList([draw]))
    return sequences[0, batch["input_ids"].shape[1] :].cpu().numpy().astype(np.int32)


def _plain(policy: Policy, max_new_tokens: int, **more: Any) -> GenerationConfig:
    tokenizer = policy.processor.tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GenerationConfig(**({"do_sample": False, "max_new_tokens": max_new_tokens} | ids | more))


class _Draw(LogitsProcessor):
    """Leave the token whose share of the cumulative distribution holds the next number as the only one."""

    def __init__(self, forbidden: torch.Tensor, numbers: np.ndarray, temperature: float) -> None:
        self.forbidden, self.numbers, self.temperature = forbidden, iter(numbers.tolist()), temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self.forbidden] = -torch.inf
        cumulative = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        token = int((cumulative[0] <= next(self.numbers) * cumulative[0, -1]).sum())
        chosen = torch.full_like(scores, -torch.inf)
        chosen[0, min(token, scores.shape[1] - 1)] = 0.0
        return chosen


@torch.no_grad()
def _reference_logprobs(policy: Policy, batch: dict[str, torch.Tensor], ids: np.ndarray, temperature: float) -> np.ndarray:
    """Run prompt and reply once more, all positions with all logits, as PPO's evaluation of actions does."""
    tail = torch.from_numpy(ids.astype(np.int64))[None].to(policy.device)
    extra = {"input_ids": tail, "attention_mask": torch.ones_like(tail), "mm_token_type_ids": torch.zeros_like(tail)}
    whole = {name: torch.cat([value, extra[name]], dim=1) if name in extra else value for name, value in batch.items()}
    logits = bare(policy)(**whole, use_cache=False).logits[0, -len(ids) - 1 : -1].float() / temperature
    logits[:, policy.forbidden] = -torch.inf
    return logits.log_softmax(-1).gather(1, tail[0][:, None])[:, 0].cpu().numpy()


def compare(reference: Replies, toolkit: Replies) -> tuple[int, int, float]:
    """Return how many replies both have, how many of them have the same tokens, and the largest difference of their log-probs."""
    both = reference.keys() & toolkit.keys()
    same = [key for key in both if np.array_equal(reference[key][0], toolkit[key][0])]
    worst = max((float(np.abs(reference[key][1] - toolkit[key][1]).max()) for key in same), default=float("nan"))
    return len(both), len(same), worst


def shares(policy: Policy, settings: Settings, play: Callable[[], Replies]) -> dict[str, float]:
    """Measure which share of the time passes in model, processor and environment; the rest is Python, sampling included."""
    clock = Clock(policy.device)
    env, processor = type(settings.task.make().unwrapped), type(policy.processor)
    parts = [
        ("model", bare(policy), "forward"),
        ("processor", processor, "__call__"),
        ("processor", processor, "apply_chat_template"),
        ("environment", env, "step"),
        ("environment", env, "reset"),
    ]
    with clock.watching(parts):
        total = measure(play, policy.device).seconds
    known = {part: clock.seconds[part] / total for part in ("model", "processor", "environment")}
    return known | {"Python": 1 - sum(known.values())}


@dataclass(frozen=True)
class TokenStep:
    """Milliseconds per generated token step: all in all, and outside the model's forward pass."""

    whole: float
    overhead: float


def token_steps(policy: Policy, settings: Settings, *, rows: int, repeats: int) -> dict[str, TokenStep]:
    """Compare the token steps of both loops on one batch of `rows` prompts, prefill left out; the median of the repeats."""
    prompts = _prompts(policy, settings, rows)
    batch = to_device(policy.sampler.model, collate(prompts, pad_id=policy.pad_id))
    model, longest = bare(policy), settings.max_new_tokens
    numbers = np.random.default_rng(0).random((rows, longest))
    fixed = {"eos_token_id": None, "min_new_tokens": longest}

    def generate(**sampled: Any) -> None:
        model.generation_config = _plain(policy, longest, **fixed, **sampled)
        with torch.no_grad():
            model.generate(**batch)

    def sample(uniforms: np.ndarray | None) -> None:
        policy.sampler.sample(prompts, uniforms, temperature=settings.temperature, max_new_tokens=longest)

    ways: dict[str, Callable[[], None]] = {
        "transformers generate, greedy": generate,
        "transformers generate, sampling": lambda: generate(do_sample=True, temperature=settings.temperature, top_k=0),
        "rollout, greedy": lambda: sample(None),
        "rollout, sampling": lambda: sample(numbers),
    }
    ends, policy.sampler.end_ids = policy.sampler.end_ids, []
    try:
        found: dict[str, list[TokenStep]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                found[name].append(_token_step(policy, way, longest))
    finally:
        policy.sampler.end_ids = ends
    return {
        name: TokenStep(*(statistics.median(getattr(one, part) for one in runs) for part in ("whole", "overhead")))
        for name, runs in found.items()
    }


def _prompts(policy: Policy, settings: Settings, rows: int) -> list[Any]:
    env = settings.task.make()
    states = [env.reset(seed=seed) for seed in range(rows)]
    return [policy.renderer.prompt(chat(_text(settings.task, picture, info)), [picture]) for picture, info in states]


def _token_step(policy: Policy, way: Callable[[], None], steps: int) -> TokenStep:
    """Time every forward pass but the first, and all that happens from the first one's end on."""
    device, model = policy.device, bare(policy)
    passes: list[tuple[float, float]] = []
    forward = model.forward

    @functools.wraps(forward)  # transformers reads its signature.
    def timed(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        started = time.perf_counter()
        result = forward(*args, **kwargs)
        synchronize(device)
        passes.append((started, time.perf_counter()))
        return result

    model.forward = timed
    try:
        way()
    finally:
        del model.forward
    ended = time.perf_counter()
    whole = ended - passes[0][1]
    inside = sum(end - start for start, end in passes[1:])
    return TokenStep(1000 * whole / steps, 1000 * (whole - inside) / steps)


def main(words: list[str] | None = None) -> dict[str, float]:
    """Measure and print; return the headline numbers."""
    options = _options(words)
    task = load_task(options.task, options.env)
    settings = Settings(task, options.seed, options.temperature, options.max_new_tokens)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ending:
        if options.shape in BUILT_IN and not options.checkpoint:
            options.checkpoint = warm_checkpoint(Path(folder), options.task, tuple(options.env), model=options.shape)
        policy = load_or_build(
            options.shape,
            device=options.device,
            checkpoint=options.checkpoint,
            folder=Path(folder),
            task=options.task,
            env=tuple(options.env),
            lora_rank=options.lora_rank,
        )
        found = _compare(policy, settings, options, _vllm(settings, options, ending))
        if options.scaling:
            _scale(policy, settings, options.scaling)
    return found


def _vllm(settings: Settings, options: Any, ending: ExitStack) -> dict[str, Callable[[], Replies]]:
    """Start vLLM where a Python that has it is named."""
    if not options.vllm_python:
        return {}
    sampling = {"seed": settings.seed, "temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    agent = ending.enter_context(serving_vllm(options.checkpoint, options.vllm_python, num_envs=options.num_envs, **sampling))
    return {VLLM: lambda: play_agent(agent(), settings, episodes=options.episodes, num_envs=options.num_envs)}


def _compare(policy: Policy, settings: Settings, options: Any, more: dict[str, Callable[[], Replies]]) -> dict[str, float]:
    device, num_envs = policy.device, options.num_envs
    ways: dict[str, Callable[[], Replies]] = {
        "reference": lambda: play_reference(policy, settings, episodes=options.reference_episodes),
        "rollout": lambda: play_toolkit(policy, settings, episodes=options.episodes, num_envs=num_envs),
        "generate": lambda: play_generate(policy, settings, episodes=options.episodes, num_envs=num_envs),
        **more,
    }
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for way in (play_toolkit, play_generate):  # The first pass of a model is slower.
        way(policy, settings, episodes=1, num_envs=1)
    for _ in range(options.repeats):  # In turns, so that what else the machine does falls on all.
        for name, way in ways.items():
            runs[name].append(measure(way, device))
    print(f"{options.task} {' '.join(options.env)}, {options.shape}, {device}, {num_envs} environments")
    print("              env steps/s   tokens/s   peak GiB   model  processor  environment  Python")
    for name, way in ways.items():
        steps, tokens, peak = _medians(runs[name])
        split = shares(policy, settings, way) if name != VLLM else {}  # Its time passes elsewhere.
        print(f"{name:12s} {steps:12.1f} {tokens:10.0f} {peak:10.2f}", *(f"{share:8.0%}" for share in split.values()))
    ratios = {
        name: [ours.steps_per_second / theirs.steps_per_second for theirs, ours in zip(theirs, runs["rollout"], strict=True)]
        for name, theirs in runs.items()
        if name != "rollout"
    }
    both, same, worst = compare(runs["reference"][0].replies, runs["rollout"][0].replies)
    for name, found in ratios.items():
        told = f"{statistics.median(found):.2f} (from {min(found):.2f} to {max(found):.2f})"
        print(f"ratio of env steps/s, rollout to {name}: {told}")
    print(f"the same tokens in {same} of {both} replies; largest difference of log-probs {worst:.1e} nats")
    print(f"\nmilliseconds per token step, {options.rows} rows    whole  outside the forward pass")
    steps = token_steps(policy, settings, rows=options.rows, repeats=options.repeats)
    for name, step in steps.items():
        print(f"{name:38s} {step.whole:8.2f} {step.overhead:12.3f}")
    return {
        **{f"ratio to {name}": statistics.median(found) for name, found in ratios.items()},
        "replies": both,
        "same": same,
        "worst": worst,
        "overhead": steps["rollout, sampling"].overhead / steps["transformers generate, greedy"].overhead,
    }


def _medians(runs: list[Measured]) -> tuple[float, float, float]:
    steps = statistics.median(run.steps_per_second for run in runs)
    return steps, statistics.median(run.tokens_per_second for run in runs), max(run.peak_gib for run in runs)


def _scale(policy: Policy, settings: Settings, counts: list[int]) -> None:
    print("\nenvironments  env steps/s   tokens/s   peak GiB")
    for count in counts:
        episodes = max(8, 4 * count)
        run = measure(lambda n=count, e=episodes: play_toolkit(policy, settings, episodes=e, num_envs=n), policy.device)
        print(f"{count:12d} {run.steps_per_second:12.1f} {run.tokens_per_second:10.0f} {run.peak_gib:10.2f}")


def _options(words: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="tiny", help="tiny, small, or qwen2.5-vl-7b (random weights)")
    parser.add_argument("--lora-rank", type=int, default=0, help="adapter on a random shape")
    parser.add_argument("--checkpoint", type=Path, help="measure this one; else the tiny model after 20 seconds of sft")
    parser.add_argument("--task", default="numberline")
    parser.add_argument("--env", action="append", help="KEY=VALUE; image=tiny if not given")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--reference-episodes", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32, help="rows of the batch whose token steps are compared")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scaling", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument(
        "--vllm-python", help="of an environment that has vLLM, which then plays as well: not tiny, whose heads it refuses"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    options.env = options.env or ["image=tiny"]
    return options


if __name__ == "__main__":
    main()
