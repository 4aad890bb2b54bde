"""Estimates of memory, beside what torch allocates: what autograd saves, tensor by tensor, and the peak of all allocations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration, Qwen3VLMoeConfig

from gtrturbo.models import shape as shapes
from gtrturbo.models.built_in import build_processor, built_in_config
from gtrturbo.models.checkpoint import add_adapter
from gtrturbo.models.memory import Batch, Layers, Shape, generating, scoring, training
from gtrturbo.models.policy import Policy
from gtrturbo.models.shape import auto_tokens, read_shape
from gtrturbo.models.sizes import QWEN_3B
from gtrturbo.models.value_head import ValueHead
from gtrturbo.models.widths import text_layers

# The peak of a step, estimated over measured; measured here between 0.90 and 1.38.
LOW, HIGH = 0.85, 1.4
LARGE = "Qwen/Qwen2.5-VL-7B-Instruct"


@dataclass(frozen=True)
class Case:
    """A model to measure. The wider one is not the tiny model's shape in any number."""

    wide: bool = False
    dtype: torch.dtype = torch.float32
    rank: int = 0
    recompute: bool = False
    vocabulary: int | None = None


CASES = [
    Case(),
    Case(rank=8),
    Case(wide=True, rank=16),
    pytest.param(Case(wide=True, dtype=torch.bfloat16, rank=16, recompute=True), marks=pytest.mark.long),
    pytest.param(Case(wide=True, dtype=torch.bfloat16, vocabulary=10_000), marks=pytest.mark.long),
]


class Measured:
    """A policy with random weights, two prompts of different pictures, and replies of forty tokens."""

    def __init__(self, case: Case, monkeypatch) -> None:
        processor = build_processor()
        config = built_in_config("tiny", processor.tokenizer)
        if case.wide:
            _widen(config, case.vocabulary)
        monkeypatch.setattr(shapes, "_config", lambda *_: config)
        dtype = "float32" if case.dtype == torch.float32 else "bfloat16"
        read = read_shape("any", lora_rank=case.rank, dtype=dtype)
        assert read is not None
        self.shape: Shape = read
        model = Qwen2_5_VLForConditionalGeneration(config).to(case.dtype)
        if case.rank:
            model = add_adapter(model.requires_grad_(False), rank=case.rank, alpha=1.0, target=(), revision=None, seed=0)
        self.head = ValueHead.new(self.shape.hidden, seed=0)
        self.policy = Policy(model, processor, self.head)
        rng = np.random.default_rng(0)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "word " * 60}]}
        pictures = [rng.integers(0, 255, (168, 168, 3), dtype=np.uint8) for _ in range(2)]
        self.prompts = [self.policy.renderer.prompt([message], [picture]) for picture in pictures]
        self.replies = [rng.integers(0, 200, 40).astype(np.int32) for _ in range(2)]
        self.batch = Batch(rows=2, prompt=len(self.prompts[0].ids), reply=40, image=self.shape.tokens_of_images([(168, 168)]))
        assert self.batch.image == int((self.prompts[0].ids == config.image_token_id).sum())

    @property
    def chunk(self) -> int | None:
        return 512 if self.shape.vocabulary >= 8192 else None

    def loss(self) -> torch.Tensor:
        scored = self.policy.score(self.prompts, self.replies, temperature=1.0)
        assert scored.values is not None
        return scored.logprobs.sum() + scored.values.sum()


def _widen(config, vocabulary: int | None) -> None:
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 896, 3
    text.num_attention_heads, text.num_key_value_heads, text.layer_types = 8, 2, ["full_attention"] * 3
    text.rope_parameters["mrope_section"] = [8, 4, 4]
    text.vocab_size = vocabulary or text.vocab_size
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 3, 160, 448, 5
    vision.out_hidden_size, vision.fullatt_block_indexes = 256, [0, 2]


def peak_of(work: Callable[[], object]) -> int:
    """Run something; return the most bytes that torch had allocated beyond what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    sizes: list[tuple[int, int]] = []
    waiting = list(profiled.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "Allocation":
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    return int(np.cumsum([size for _, size in sorted(sizes)]).max())


def saved_by(work: Callable[[], object], *, besides: list[torch.Tensor]) -> int:
    """Run a forward pass; return the bytes of all storages that it saves for the backward pass, each counted once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()
    own = {tensor.untyped_storage().data_ptr() for tensor in besides}
    assert kept is not None
    return sum(storage.nbytes() for place, storage in storages.items() if place not in own)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_estimates_are_near_what_torch_allocates(case, monkeypatch):
    for name in (
        "FEWEST_ROWS",
        "FEWEST_PROMPTS",
    ):  # The estimate is of the rows that are asked for, not of those that fill a batch.
        monkeypatch.setattr(f"gtrturbo.models.decoding.{name}", 2)
    measured = Measured(case, monkeypatch)
    shape, batch, policy = measured.shape, measured.batch, measured.policy
    assert shape.weights + shape.adapter_bytes == sum(p.nbytes for p in policy.model.parameters())
    assert shape.trainable == sum(parameter.numel() for _, parameter in policy.parameters())
    assert generated(measured) == pytest.approx(1, rel=0.4)
    assert scored(measured) == pytest.approx(1, rel=0.4)
    head = sum(parameter.numel() for parameter in measured.head.parameters())
    estimate = training(shape, batch, recompute=case.recompute, chunk=measured.chunk, head=head)
    if case.recompute:
        policy.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        policy.model.enable_input_require_grads()
        policy.model.train()
    optimizer = torch.optim.AdamW([*(p for _, p in policy.parameters()), *measured.head.parameters()])

    def step() -> None:
        for _ in range(2):  # Gradients of the first micro-batch are there while the second one is run.
            measured.loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # From here on there are moments.
    before = estimate.weights + sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    # AdamW itself keeps its moments in the type of the weights, which the estimate takes as float32.
    wanted = estimate.peak - estimate.optimizer + before - estimate.weights
    assert LOW < wanted / (before + peak_of(step)) < HIGH
    parameters = [*policy.model.parameters(), *measured.head.parameters()]
    assert estimate.activations == pytest.approx(
        saved_by(measured.loss, besides=parameters), rel=0.35 if case.recompute else 0.12
    )


def generated(measured: Measured) -> float:
    """Sample a reply to each prompt; return the estimated peak over the measured one."""
    shape = measured.shape
    numbers = np.random.default_rng(0).random((2, 40))
    found = peak_of(lambda: measured.policy.generate(measured.prompts, numbers, temperature=1.0, max_new_tokens=40))
    return generating(shape, measured.batch).peak / (shape.weights + shape.adapter_bytes + found)


@torch.no_grad()
def scored(measured: Measured) -> float:
    shape = measured.shape
    measured.loss()
    return scoring(shape, measured.batch, chunk=measured.chunk).peak / (
        shape.weights + shape.adapter_bytes + peak_of(measured.loss)
    )


def test_parameters_of_the_7b_model_are_those_that_its_widths_give():
    shape = read_shape(LARGE)
    assert shape is not None
    h, f, q, k, v = 3584, 18_944, 28 * 128, 4 * 128, 152_064
    layer = h * q + q + 2 * (h * k + k) + q * h + 3 * h * f + 2 * h
    w, g, out = 1280, 3420, 3584
    block = 3 * w * w + 3 * w + w * w + w + 3 * w * g + 2 * g + w + 2 * w
    merger = w + (4 * w) * (4 * w) + 4 * w + (4 * w) * out + out
    vision = 3 * 2 * 14 * 14 * w + 32 * block + merger
    assert shape.vision == vision
    assert shape.embeddings == 2 * v * h
    assert shape.parameters == 28 * layer + h + 2 * v * h + vision == 8_292_166_656  # as published
    assert (shape.width, shape.adapters, shape.trained) == (2, 0, "full")
    assert shape.tokens_of_images([(300, 300)]) == 11 * 11


@pytest.fixture(scope="module")
def adapted() -> Shape:
    shape = read_shape(LARGE, lora_rank=128)
    assert shape is not None
    return shape


def test_adapters_of_the_7b_model_are_rank_times_inputs_and_outputs(adapted):
    h, f, k, w, g = 3584, 18_944, 512, 1280, 3420
    text = 28 * ((h + h) + 2 * (h + k) + (h + h) + 2 * (h + f) + (f + h))
    vision = 32 * ((w + 3 * w) + (w + w) + 2 * (w + g) + (g + w)) + (4 * w + 4 * w) + (4 * w + h)
    assert adapted.adapters == 128 * (text + vision)
    assert adapted.optimizer_bytes == 8 * adapted.adapters  # two moments in float32


def test_the_3b_model_has_as_many_parameters_as_published_with_its_embeddings_counted_once():
    shape = read_shape(QWEN_3B)
    assert shape is not None
    assert (shape.parameters, shape.embeddings) == (3_754_622_976, 151_936 * 2048)


def test_narrow_weights_that_are_trained_have_a_wide_copy():
    shape = read_shape(QWEN_3B, dtype="bfloat16")
    assert shape is not None
    assert shape.optimizer_bytes == 12 * shape.parameters
    wide = read_shape(QWEN_3B, dtype="float32")
    assert wide is not None and wide.optimizer_bytes == 8 * shape.parameters


@pytest.mark.parametrize("recompute", [True, False])
def test_the_update_of_the_7b_model_fits_into_80_gb_whatever_it_keeps(monkeypatch, adapted, recompute):
    monkeypatch.setattr(shapes, "resolve_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shapes, "memory", lambda _: (0, 80 * 10**9))
    tokens = auto_tokens(adapted, "cuda", recomputes=recompute)
    batch = Batch(rows=tokens // 512, prompt=256, reply=256, image=121)
    found = training(adapted, batch, recompute=recompute, chunk=512, head=4_194_304)
    assert 0.5 * 80e9 < found.peak < 80e9


def test_a_model_whose_config_is_not_here_has_no_shape():
    assert read_shape("no-such/model") is None


def test_saved_bytes_of_a_layer_by_hand():
    layers = Layers(count=1, width=10, inner=30, queries=10, keys=5, heads=2)
    # Norms 2·4·10, attention 4·e·10 and 4·2, MLP 3·e·30; and what is trained:
    # full: the norms' outputs twice each, 4·e·10, the MLP's product e·30.
    assert layers.saved(trained="full", width=4, rank=0) == 80 + 160 + 8 + 360 + 160 + 120
    # LoRA in bfloat16: five inputs of width 10, one of 10, one of 30, and seven of the rank, in float32.
    assert layers.saved(trained="lora", width=2, rank=3) == 80 + 80 + 8 + 180 + 4 * (50 + 10 + 30) + 4 * 21
    assert layers.saved(trained="nothing", width=2, rank=0) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_a_mixture_saves_is_counted_with_the_copies_of_a_token_that_its_experts_read(dtype):
    text = {"vocab_size": 300, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 32, "moe_intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 4, "intermediate_size": 96,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]}}  # fmt: skip
    tower = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 128,
             "deepstack_visual_indexes": [0]}  # fmt: skip
    config = Qwen3VLMoeConfig(text_config=text, vision_config=tower, dtype=dtype)
    model: Any = AutoModelForImageTextToText.from_config(config)
    rows, tokens = 2, 100
    ids = torch.randint(0, 290, (rows, tokens), generator=torch.Generator().manual_seed(0))
    found = saved_by(
        lambda: model(input_ids=ids, logits_to_keep=1, use_cache=False).logits.sum(), besides=list(model.parameters())
    )
    layers = text_layers(config.text_config)
    estimate = rows * tokens * layers.count * layers.saved(trained="full", width=dtype.itemsize, rank=0)
    assert estimate == pytest.approx(found, rel=0.2)  # Without the copies it is 0.6 of it.
