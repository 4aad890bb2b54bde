"""What the benchmarks share: policies of a given shape, a checkpoint that has learned to reply, and where the time goes."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gtrturbo.config import InitConfig, RolloutConfig, SftConfig
from gtrturbo.models.built_in import CHAT_TEMPLATE, build_processor
from gtrturbo.models.checkpoint import add_adapter, load_policy, quiet
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import ImageOnlyProcessor
from gtrturbo.models.sizes import BUILT_IN, PUBLISHED, QWEN_7B
from gtrturbo.stages import execute

SHAPES: dict[str, dict[str, Any]] = {"qwen2.5-vl-7b": PUBLISHED[QWEN_7B]}


def policy_of_shape(shape: str, *, device: str, lora_rank: int = 0, seed: int = 0) -> Policy:
    """Build a randomly initialised bfloat16 policy of a published shape, for speed and memory without its weights.

    Its tokenizer is the tiny model's, whose few tokens are the first of the vocabulary; pictures keep their size.
    """
    quiet()
    tokenizer = build_processor().tokenizer
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=SHAPES[shape]["text"] | {"bos_token_id": None, "eos_token_id": token("<|im_end|>")},
        vision_config=SHAPES[shape]["vision"],
        tie_word_embeddings=False,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    if lora_rank:
        model = add_adapter(model, rank=lora_rank, alpha=2.0 * lora_rank, target=(), revision=None, seed=seed)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280})
    return Policy(model, ImageOnlyProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE))


def warm_checkpoint(folder: Path, task: str, env: tuple[str, ...], *, steps: int = 100, model: str = "tiny") -> Path:
    """Teach a built-in model the form of a reply, in about 20 seconds: an untrained one never ends its replies."""
    first = execute(InitConfig(out=folder / "init", model=model)).out
    demos = execute(RolloutConfig(out=folder / "expert", task=task, env=env, expert=True, episodes=100, seed=7)).out
    sft = SftConfig(out=folder / "warm", checkpoint=first, data=(demos,), steps=steps, learning_rate=3e-3, batch_size=16)
    return execute(sft).out


def load_or_build(
    shape: str, *, device: str, checkpoint: Path | None, folder: Path, task: str, env: tuple[str, ...], lora_rank: int
) -> Policy:
    """Return the policy to measure: a given checkpoint, a random one of a shape, or the tiny model after a warm start."""
    if checkpoint:
        return load_policy(checkpoint, device=device)
    if shape in BUILT_IN and shape not in SHAPES:
        return load_policy(warm_checkpoint(folder, task, env, model=shape), device=device)
    return policy_of_shape(shape, device=device, lora_rank=lora_rank)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock that is read next counts its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds by part of the program, of calls that are counted in one part at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its seconds count for `part`, unless it is called from inside another part."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            synchronize(self.device)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize(self.device)
                self.seconds[part] += time.perf_counter() - started
                self.calls[part] += 1
                self._inside = False

        return wrapped

    @contextmanager
    def watching(self, parts: list[tuple[str, Any, str]]) -> Iterator[None]:
        """Time methods as long as the block runs: (part, class or module, name of the method)."""
        with ExitStack() as undo:
            for part, owner, name in parts:
                undo.enter_context(_replaced(owner, name, self.timed(part, getattr(owner, name))))
            yield


@contextmanager
def _replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def bare(policy: Policy) -> Any:
    """Return the transformers model under a possible adapter."""
    model = policy.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Measure the most memory taken while the block runs, in GiB: the GPU's, or the process's on a CPU (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 2**30
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM.
        yield lambda: _high_water_mark() / 2**20


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
