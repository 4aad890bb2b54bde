"""Micro-batches cover every sample once, keep to the budget, and keep several processes in step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gtrturbo.distributed.processes import World
from gtrturbo.models.batches import micro_batches
from gtrturbo.models.renderer import Prompt


def prompt(length: int) -> Prompt:
    return Prompt({"input_ids": torch.zeros(1, length, dtype=torch.long)})


def reply(length: int) -> np.ndarray:
    return np.zeros(length, np.int32)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=20),
    tokens=st.integers(1, 120),
    size=st.integers(1, 4),
)
def test_each_sample_is_in_one_pass_of_one_process_and_no_pass_outgrows_the_budget(lengths, tokens, size):
    prompts, replies = [prompt(p) for p, _ in lengths], [reply(r) for _, r in lengths]
    rows = list(range(len(lengths)))
    shares = [micro_batches(rows, prompts, replies, tokens=tokens, world=World(rank, size)) for rank in range(size)]
    assert sorted(row for share in shares for part in share if part.counted for row in part.rows) == rows
    assert len({len(share) for share in shares}) == 1
    for part in (part for share in shares for part in share):
        assert part.rows
        longest = max(sum(lengths[row]) for row in part.rows)
        assert len(part.rows) == 1 or len(part.rows) * longest <= tokens


def test_samples_of_like_length_share_a_pass_and_the_longest_come_first():
    replies = [reply(length) for length in (2, 9, 3, 8)]
    parts = micro_batches(range(4), [prompt(1)] * 4, replies, tokens=20, world=World())
    assert [part.rows for part in parts] == [[1, 3], [2, 0]]


def test_samples_of_one_prompt_stand_together():
    a, b = prompt(5), prompt(5)
    parts = micro_batches(range(6), [a, b, a, b, a, b], [reply(5)] * 6, tokens=30, world=World())
    assert [part.rows for part in parts] == [[0, 2, 4], [1, 3, 5]]


def test_a_process_without_a_sample_of_its_own_repeats_one_that_does_not_count():
    own = [micro_batches([7], [prompt(3)] * 8, [reply(2)] * 8, tokens=10, world=World(rank, 2)) for rank in range(2)]
    assert sorted((part.rows, part.counted) for [part] in own) == [([7], False), ([7], True)]


@pytest.mark.parametrize("text", ["0", "-5", "many", "1.5", ""])
def test_a_budget_that_is_no_number_of_tokens_is_refused(text):
    from gtrturbo.config import SftConfig
    from gtrturbo.errors import GtrTurboError

    with pytest.raises(GtrTurboError, match="micro-batch-tokens must be auto, or a whole number in"):
        SftConfig(out="x", data=("d",), checkpoint="c", micro_batch_tokens=text)
