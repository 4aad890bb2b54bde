"""Scoring does no work twice, and what it saves changes nothing but rounding."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from gtrturbo.models import budget
from gtrturbo.models.checkpoint import load_policy


@pytest.fixture
def batch(transcript):
    """Two prompts, one of them with three replies of different lengths: rows of prompts and replies."""
    replies = {len(ids): ids for ids in transcript.tokens.response_ids}
    short, *_, long = (replies[length] for length in sorted(replies))
    first = transcript.prompts[0]
    other = next(p for p in transcript.prompts if not np.array_equal(p.tensors["pixel_values"], first.tensors["pixel_values"]))
    assert len(short) < len(long)
    return [first, other, first, first], [long, short, short, long[:-2]]


def scored(policy, batch, **settings):
    """Return log-probs, states and the gradient of a sum that weighs every token and its state differently."""
    policy.model.zero_grad()
    found = policy.scorer.score(*batch, temperature=0.7, **settings)
    logprobs, states = found.logprobs, found.states * found.mask.unsqueeze(-1)
    weights = torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)
    ((logprobs * weights).sum() + (states * torch.linspace(0, 1, states.numel()).view_as(states)).sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in policy.parameters() if parameter.grad is not None}
    return logprobs.detach(), states.detach(), gradients


def assert_same(left, right):
    assert torch.allclose(left[0], right[0], atol=2e-5) and torch.allclose(left[1], right[1], atol=2e-5)
    assert left[2].keys() == right[2].keys() and left[2]
    largest = max(gradient.abs().max() for gradient in right[2].values())
    for name, gradient in left[2].items():
        assert (gradient - right[2][name]).abs().max() < 2e-5 * largest, name


@contextmanager
def watched(module):
    """Collect the inputs and outputs of a module for as long as the block runs."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    try:
        yield calls
    finally:
        hook.remove()


def trainable(path):
    return load_policy(path, device="cpu", trainable=True)


def test_a_shared_prompt_gives_the_log_probs_states_and_gradients_of_separate_ones(warm, batch):
    policy = trainable(warm)
    shared = scored(policy, batch)
    policy.scorer.shares_prompts = False
    assert_same(shared, scored(policy, batch))


def test_a_shared_prompt_and_its_picture_are_run_once(warm, batch):
    policy = trainable(warm)
    pixels = len(batch[0][0].tensors["pixel_values"])
    for shares, pictures in ((True, 2), (False, 4)):
        policy.scorer.shares_prompts = shares
        with watched(policy.model.model.visual.patch_embed) as calls:
            policy.scorer.score(*batch, temperature=1.0)
        assert [len(seen) for seen, _ in calls] == [pictures * pixels]


def test_different_prompts_take_one_pass(warm, batch):
    policy = trainable(warm)
    with watched(policy.model.get_output_embeddings()) as calls:
        policy.scorer.score(batch[0][:2], batch[1][:2], temperature=1.0)
    assert len(calls) == 1


@pytest.mark.parametrize("checkpoint", ["warm", "lora_warm"])
def test_logits_in_chunks_give_the_same_log_probs_and_gradients(checkpoint, batch, request, monkeypatch):
    # The tiny model's head is tied to its embeddings, whose gradient then comes from both ends.
    policy = trainable(request.getfixturevalue(checkpoint))
    whole = scored(policy, batch)
    monkeypatch.setattr(budget, "LARGE_VOCABULARY", 1)
    with watched(policy.model.get_output_embeddings()) as calls:
        in_chunks = scored(policy, batch)
    # One probing pass made logits; the others hand on states of width 64.
    assert [output.shape[-1] for _, output in calls] == [573, 573, 64, 64]
    assert_same(in_chunks, whole)


def test_a_model_that_scales_its_logits_is_scored_by_its_logits(policy, batch, monkeypatch):
    monkeypatch.setattr(budget, "LARGE_VOCABULARY", 1)

    def halve(_model, _inputs, output):
        output.logits = output.logits / 2
        return output

    with torch.no_grad():
        expected = policy.scorer.score(*batch, temperature=1.0).logprobs
        policy.model.register_forward_hook(halve)
        policy.scorer._ends_in_head = None
        assert torch.allclose(policy.scorer.score(*batch, temperature=0.5).logprobs, expected, atol=1e-5)


def test_recomputed_activations_give_the_same_gradients(warm, batch):
    policy = trainable(warm)
    policy.scorer.shares_prompts = False
    kept = scored(policy, batch)
    policy.recompute_activations()
    layer = policy.model.model.language_model.layers[0]
    with watched(layer.input_layernorm) as calls:
        again = scored(policy, batch)
    assert len(calls) == 2  # Once forward, once more for the backward pass.
    assert not any(module.training for module in layer.children())
    assert all(torch.equal(kept[2][name], again[2][name]) for name in kept[2])


def test_a_reply_of_one_token_needs_no_token_of_the_reply(policy, batch):
    end = np.array([policy.processor.tokenizer.eos_token_id])
    with torch.no_grad():
        alone = policy.scorer.score(batch[0][:1], [end], temperature=1.0)
        many = policy.scorer.score(batch[0], [end] * 4, temperature=1.0)
    assert torch.allclose(many.logprobs[0], alone.logprobs[0], atol=1e-5)
    assert torch.allclose(many.states[0], alone.states[0], atol=1e-5)
