"""Manifests of earlier versions, read as if this one had written them."""

import pytest

from gtrturbo.store.ageing import upgraded


def knobs(**config):
    return upgraded({"config": config})["config"]


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"engine": "openai", "server": "vllm"}, "vllm"),
        ({"engine": "openai", "server": "sglang"}, "sglang"),
        ({"engine": "openai", "server": "generic"}, "openai"),
        ({"engine": "hf", "server": "vllm"}, "hf"),
        ({"engine": "own.py:make", "server": "vllm"}, "own.py:make"),
        ({"engine": "openai"}, "openai"),  # as this version writes it
        ({"engine": "vllm"}, "vllm"),
    ],
)
def test_who_answered_is_one_word_where_the_kind_of_server_stood_apart(was, now):
    assert knobs(**was, episodes=3) == {"engine": now, "episodes": 3}


def test_what_is_gone_is_left_out_at_the_value_that_changed_nothing_and_stays_at_another():
    nothing = {
        "micro_batch_size": 32,
        "update": [],
        "sign": "total",
        "adapter_space": "delta",
        "recursive": False,
        "compat": "none",
    }
    assert knobs(**nothing, rank=0) == {"rank": 0}
    other = {"micro_batch_size": 8, "update": ["epochs=1"], "sign": "count", "adapter_space": "factors", "recursive": True}
    assert knobs(**other) == other


def test_hints_that_were_all_or_none_are_named():
    assert knobs(hints=True, probe=True) == {"hints": ["truth", "expert"], "probe": True}
    assert knobs(hints=False, mode="sft") == {"hints": [], "mode": "thoughts"}
    assert knobs(hints=["outcome"]) == {"hints": ["outcome"]}
