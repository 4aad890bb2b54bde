"""Facts that an estimate shares with what it estimates: token budgets, widths of the value head, published shapes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gtrturbo.models import shape as shapes
from gtrturbo.models.batches import token_budget
from gtrturbo.models.budget import LARGE_VOCABULARY, LOGIT_CHUNK, logit_chunk, tokens_that_fit
from gtrturbo.models.built_in import build_processor, built_in_config
from gtrturbo.models.shape import auto_tokens, read_shape
from gtrturbo.models.sizes import PUBLISHED, QWEN_7B, value_head_widths
from gtrturbo.models.value_head import ValueHead
from gtrturbo.runs.peaks import head_size

ROOT = Path(__file__).parent.parent.parent
TOTAL = 10 * 2**30


@pytest.mark.parametrize("recomputes", [True, False])
@pytest.mark.parametrize("rank", [0, 4])
def test_the_estimates_budget_of_tokens_is_the_one_that_a_stage_takes(monkeypatch, rank, recomputes):
    shape = read_shape("tiny", lora_rank=rank, dtype="float32")
    assert shape is not None
    monkeypatch.setattr(shapes, "resolve_device", lambda device: device)
    monkeypatch.setattr(shapes, "memory", lambda device: (0, TOTAL))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loaded = shape.weights + shape.adapter_bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (TOTAL - loaded, TOTAL))
    config = built_in_config("tiny", build_processor().tokenizer)
    policy = SimpleNamespace(
        device=torch.device("cuda"),
        value_head=None,
        model=SimpleNamespace(config=config),
        parameters=lambda: [("all", torch.empty(shape.trainable, device="meta"))],
    )
    expected = auto_tokens(shape, "cuda", recomputes=recomputes)
    assert token_budget("auto", policy, recomputes=recomputes) == expected > 10_000  # type: ignore[arg-type]


def test_tokens_that_fit_by_hand():
    # Half of 1,000,000 bytes: per layer 24 · 10 + 8 · 30 = 480 bytes, of 3 layers 1440; recomputing 480 + 2 · 10 · 3 = 540.
    assert tokens_that_fit(1_000_000, hidden=10, inner=30, layers=3, recomputes=False) == 347
    assert tokens_that_fit(1_000_000, hidden=10, inner=30, layers=3, recomputes=True) == 925
    assert tokens_that_fit(-5, hidden=10, inner=30, layers=3, recomputes=True) == 1


def test_logits_are_made_in_chunks_from_a_large_vocabulary_on():
    assert logit_chunk(LARGE_VOCABULARY) == LOGIT_CHUNK and logit_chunk(LARGE_VOCABULARY - 1) is None


@pytest.mark.parametrize(("hidden", "first", "second"), [(64, 256, 128), (250, 1000, 500), (300, 1024, 512), (2048, 1024, 512)])
def test_the_estimated_size_of_a_value_head_is_that_of_one(hidden, first, second):
    assert value_head_widths(hidden) == (hidden, first, second)
    head = ValueHead.new(hidden, seed=0)
    assert head_size(hidden) == sum(parameter.numel() for parameter in head.parameters())
    assert [layer.in_features for layer in head.layers[::2]] == list(value_head_widths(hidden))


def test_the_benchmarks_take_the_published_shape_of_7b(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.benchmarks import common, merge

    assert common.SHAPES["qwen2.5-vl-7b"] is PUBLISHED[QWEN_7B]
    # Hidden 3584, 28 layers, 18,944 inside the MLP, 152,064 tokens, 4 heads of 128 for keys and values.
    assert merge.SHAPES["7b"] == (3584, 28, 18944, 152064, 512)
