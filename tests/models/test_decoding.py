"""Sampling token by token: no row depends on its neighbours, nothing is computed twice, and any model can be sampled from."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from games import prompt_text
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig

from gtrturbo.models.decoding import FEWEST_ROWS, Sampler
from gtrturbo.models.renderer import Prompt, collate
from gtrturbo.store.records import chat
from gtrturbo.tasks.loading import load_task


def prompts_of(policy, count: int, name: str = "numberline") -> list[Prompt]:
    """Prompts of the first states of so many episodes; of points24 also after a move, which makes them longer."""
    task = load_task(name, ["image=tiny"])
    env, prompts = task.make(), []
    for seed in range(count):
        picture, info = env.reset(seed=seed)
        for _ in range(seed % 4 if name == "points24" else 0):
            picture, _, _, _, info = env.step(14)
        prompts.append(policy.renderer.prompt(chat(prompt_text(task, info)), [picture]))
    return prompts


def numbers(rows: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, count))


@contextmanager
def passes(model):
    """Record the shape of the ids of each forward pass."""
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(lambda _, __, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.mark.parametrize("size", [1, 3, 10])
def test_on_a_cpu_a_reply_has_the_same_bits_whatever_is_sampled_beside_it(policy, size):
    prompts = [*prompts_of(policy, 8), *prompts_of(policy, 12, "points24")]
    assert len({len(prompt.ids) for prompt in prompts}) >= 4
    uniforms = numbers(20, 24)
    whole = policy.generate(prompts, uniforms, temperature=0.7, max_new_tokens=24)
    order = np.random.default_rng(1).permutation(20)
    for start in range(0, 20, size):
        rows = order[start : start + size]
        part = policy.generate([prompts[row] for row in rows], uniforms[rows], temperature=0.7, max_new_tokens=24)
        for row, sample in zip(rows, part, strict=True):
            assert np.array_equal(sample.response_ids, whole[row].response_ids)
            assert np.array_equal(sample.logprobs, whole[row].logprobs)  # exactly


def test_sampling_stops_with_the_longest_reply(policy):
    prompts = prompts_of(policy, 8)
    with passes(policy.model) as shapes:
        samples = policy.generate(prompts, numbers(8, 64), temperature=0.5, max_new_tokens=64)
    longest = max(len(sample.response_ids) for sample in samples)
    assert longest < 64
    # The first pass predicts the first token, and no pass follows the last one.
    assert len(shapes) == longest


def test_a_prompt_that_comes_twice_is_prefilled_once_and_every_state_but_once(policy):
    prompts = prompts_of(policy, 5)
    assert len(set(prompts)) == 5
    with passes(policy.model) as shapes:
        policy.generate(prompts * 4, numbers(20, 8), temperature=2.0, max_new_tokens=8)
    assert shapes[0][0] == 5 and shapes[1] == (20, 1)


def test_replies_that_have_ended_leave_the_batch(policy):
    prompts = prompts_of(policy, 40)
    with passes(policy.model) as shapes:
        samples = policy.generate(prompts, numbers(40, 64), temperature=1.5, max_new_tokens=64)
    lengths = np.array([len(sample.response_ids) for sample in samples])
    batch = [rows for rows, _ in shapes[1:]]
    assert batch == sorted(batch, reverse=True) and batch[-1] < 40
    for step, rows in enumerate(batch, start=1):
        going = int((lengths > step).sum())
        assert going <= rows <= max(FEWEST_ROWS, going / 0.75)  # A quarter may have ended.


def reference(model, prompts, *, pad_id: int, end_id: int | None, longest: int, banned: int = 0) -> list[list[int]]:
    """Greedy replies by transformers' own loop."""
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=longest, pad_token_id=pad_id, eos_token_id=end_id, suppress_tokens=[banned]
    )
    batch = collate(prompts, pad_id=pad_id)
    sequences = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    return [row.tolist() for row in sequences]


def test_greedy_replies_are_those_of_transformers_generate(policy):
    prompts = [*prompts_of(policy, 3), *prompts_of(policy, 5, "points24")]
    theirs = reference(policy.model, prompts, pad_id=policy.pad_id, end_id=policy.renderer.end_id, longest=40)
    for sample, ids in zip(policy.generate(prompts, None, temperature=1.0, max_new_tokens=40), theirs, strict=True):
        assert sample.response_ids.tolist() == ids[: len(sample.response_ids)]
        assert set(ids[len(sample.response_ids) :]) <= {policy.pad_id}


@pytest.fixture(scope="module")
def gemma():
    """A model with another kind of cache (a window of 8 tokens in every other layer) that prepares its own inputs."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8, "initializer_range": 0.3, "pad_token_id": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=False)
    config.image_token_id = 98
    return Gemma3ForConditionalGeneration(config).eval()


def gemma_prompt(seed: int, length: int) -> Prompt:
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 90, (length,), generator=random)
    ids = torch.cat([words[:2], torch.full((4,), 98), words[2:]])[None]
    return Prompt(
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": (ids == 98).long(),
            "pixel_values": torch.randn(1, 3, 28, 28, generator=random),
        }
    )


def test_a_model_with_sliding_windows_and_inputs_of_its_own_is_sampled_as_transformers_does(gemma):
    prompts = [gemma_prompt(seed, length) for seed, length in enumerate((5, 12, 9, 12, 5, 20))]
    sampler = Sampler(gemma, pad_id=0, end_ids=[7], forbidden=torch.tensor([98]))
    samples = sampler.sample(prompts, None, temperature=1.0, max_new_tokens=24)
    theirs = reference(gemma, prompts, pad_id=0, end_id=7, longest=24, banned=98)
    for sample, ids in zip(samples, theirs, strict=True):
        assert sample.response_ids.tolist() == ids[: len(sample.response_ids)]
    assert len({tuple(ids) for ids in theirs}) == 6 and len({token for ids in theirs for token in ids}) > 12


def test_an_adapter_takes_part_in_sampling(lora_warm):
    from gtrturbo.models.checkpoint import load_policy

    policy = load_policy(lora_warm, device="cpu")
    prompts = prompts_of(policy, 4)
    samples = policy.generate(prompts, numbers(4, 12), temperature=1.0, max_new_tokens=12)
    ids = [sample.response_ids for sample in samples]
    with torch.no_grad():
        scored = policy.score(prompts, ids, temperature=1.0)
        with policy.model.disable_adapter():
            bare = policy.score(prompts, ids, temperature=1.0)
    for row, sample in enumerate(samples):
        count = len(sample.logprobs)
        assert scored.logprobs[row, :count].numpy() == pytest.approx(sample.logprobs, abs=2e-5)
        assert np.abs(bare.logprobs[row, :count].numpy() - sample.logprobs).max() > 1e-3
