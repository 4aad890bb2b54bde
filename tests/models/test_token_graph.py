"""Token steps over fixed slots are those over a growing cache. A GPU records them; here each is made anew in its place."""

import pytest
import torch
from models.test_decoding import numbers, passes, prompts_of

from gtrturbo.models.decoding import Sampler
from gtrturbo.models.token_graph import SLOTS


def again(step):
    logits = step().clone()
    return logits, lambda: logits.copy_(step())


def samplers(policy):
    """Two that sample from one model: the second over fixed slots."""
    found = []
    for record in (None, again):
        sampler = Sampler(policy.model, pad_id=policy.pad_id, end_ids=policy.sampler.end_ids, forbidden=policy.forbidden)
        sampler.multiple, sampler.record = None, record  # Prompts of all lengths share a batch, as on a GPU.
        found.append(sampler)
    return found


@pytest.mark.parametrize("name", ["numberline", "points24"])
def test_replies_are_those_without_a_graph(policy, name):
    prompts, uniforms = prompts_of(policy, 9, name), numbers(9, 40)
    without, recorded = (each.sample(prompts, uniforms, temperature=0.7, max_new_tokens=40) for each in samplers(policy))
    assert name == "numberline" or len({len(prompt.ids) for prompt in prompts}) > 1
    for one, other in zip(without, recorded, strict=True):
        assert one.response_ids.tolist() == other.response_ids.tolist()
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)


def test_a_graph_is_made_again_for_another_number_of_rows_or_of_slots_alone(policy):
    prompts = prompts_of(policy, 20)
    sampler, counts = samplers(policy)[1], []
    sampler.record = lambda step: (counts.append(1), again(step))[1]
    length = len(prompts[0].ids)
    room = SLOTS - length % SLOTS  # up to the end of a multiple
    for rows, longest in ((20, room), (20, room - 1), (20, room + 1), (18, room + 1), (18, room + 1)):
        sampler.sample(prompts[:rows], numbers(rows, longest), temperature=0.7, max_new_tokens=longest)
    assert len(counts) == 3


def test_prompts_of_one_sampling_leave_nothing_to_the_next(policy):
    prompts, uniforms = prompts_of(policy, 8, "points24"), numbers(8, 24)
    without, recorded = samplers(policy)
    recorded.sample(prompts[::-1], uniforms, temperature=0.7, max_new_tokens=24)
    theirs, ours = (each.sample(prompts, uniforms, temperature=0.7, max_new_tokens=24) for each in (without, recorded))
    assert [each.response_ids.tolist() for each in ours] == [each.response_ids.tolist() for each in theirs]


def test_all_rows_stay_to_the_end_of_the_longest_reply(policy):
    prompts, sampler = prompts_of(policy, 20), samplers(policy)[1]
    with passes(policy.model) as shapes:
        sampler.sample(prompts, numbers(20, 64), temperature=1.5, max_new_tokens=64)
    assert {rows for rows, length in shapes if length == 1} == {20}
