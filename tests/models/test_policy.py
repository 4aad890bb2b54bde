"""Sampling and scoring agree with each other and with the model run by hand."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from games import prompt_text

from gtrturbo.models.renderer import Prompt
from gtrturbo.models.value_head import ValueHead


def run_by_hand(policy, prompt: Prompt, response: np.ndarray, *, drop: str = "") -> torch.Tensor:
    """Run the model on one unpadded sequence, all positions at once; return the logits [P + R, V]."""
    inputs = {name: value for name, value in prompt.tensors.items() if name != drop}
    tail = torch.as_tensor(np.asarray(response, np.int64))[None]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tail)], dim=1)
    with torch.no_grad():
        return policy.model(**inputs).logits[0]


def allowed_logprobs(policy, logits: torch.Tensor, temperature: float) -> np.ndarray:
    """Softmax at a temperature over all tokens but the placeholders of pictures, in float64. [..., V]"""
    tokens = [f"<|{name}|>" for name in ("image_pad", "video_pad", "vision_start", "vision_end")]
    banned = [policy.processor.tokenizer.convert_tokens_to_ids(token) for token in tokens]
    scaled = logits.double().numpy() / temperature
    scaled[..., banned] = -np.inf
    peak = scaled.max(axis=-1, keepdims=True)
    return scaled - peak - np.log(np.exp(scaled - peak).sum(axis=-1, keepdims=True))


def logprobs_by_hand(policy, prompt: Prompt, response: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probs of a reply: the token at position t is predicted by the logits at position t - 1. [R]"""
    logits = run_by_hand(policy, prompt, response)
    predicting = logits[len(prompt.ids) - 1 : len(prompt.ids) - 1 + len(response)]
    return allowed_logprobs(policy, predicting, temperature)[np.arange(len(response)), response]


@pytest.fixture
def replies(transcript):
    """Rows of the turns that differ in the length of their reply."""
    lengths = {len(ids): row for row, ids in enumerate(transcript.tokens.response_ids)}
    rows = [lengths[length] for length in sorted(lengths)]
    assert len(rows) >= 3
    return [rows[0], rows[-1], rows[len(rows) // 2]]


def stack(rows: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, count))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_scores_are_the_log_softmax_of_the_logits_one_position_earlier(policy, transcript, replies, temperature):
    prompts = [transcript.prompts[row] for row in replies]
    responses = [transcript.tokens.response_ids[row] for row in replies]
    with torch.no_grad():
        scored = policy.score(prompts, responses, temperature=temperature)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        expected = logprobs_by_hand(policy, prompt, response, temperature)
        assert scored.logprobs[row, : len(response)].numpy() == pytest.approx(expected, abs=2e-5, rel=2e-6)
        assert scored.mask[row].sum() == len(response)


def test_sampled_log_probs_equal_the_scores_of_the_same_tokens(policy, transcript):
    prompts = transcript.prompts[:4]
    samples = policy.generate(prompts, stack(4, 30, seed=1), temperature=0.7, max_new_tokens=30)
    with torch.no_grad():
        scored = policy.score(prompts, [sample.response_ids for sample in samples], temperature=0.7)
    for row, sample in enumerate(samples):
        assert scored.logprobs[row, : len(sample.logprobs)].numpy() == pytest.approx(sample.logprobs, abs=2e-5)


def test_greedy_tokens_are_the_most_likely_ones_by_hand(policy, transcript):
    prompt = transcript.prompts[0]
    [sample] = policy.generate([prompt], None, temperature=1.0, max_new_tokens=40)
    logits = run_by_hand(policy, prompt, sample.response_ids)[len(prompt.ids) - 1 : -1]
    best = allowed_logprobs(policy, logits, 1.0)
    assert sample.response_ids.tolist() == best.argmax(axis=-1).tolist()
    assert sample.logprobs == pytest.approx(best.max(axis=-1), abs=2e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_token_is_the_inverse_of_the_cumulative_distribution_at_its_number(policy, transcript, temperature):
    prompt = transcript.prompts[0]
    numbers = stack(64, 1, seed=2)
    samples = policy.generate([prompt] * 64, numbers, temperature=temperature, max_new_tokens=1)
    logits = run_by_hand(policy, prompt, np.array([], np.int32))[-1]
    cumulative = np.exp(allowed_logprobs(policy, logits, temperature)).cumsum()
    expected = np.searchsorted(cumulative, numbers[:, 0], side="right")
    assert [int(sample.response_ids[0]) for sample in samples] == expected.tolist()


def test_evenly_spread_numbers_give_each_token_its_share(policy, transcript):
    # Numbers (i + 1/2) / n fall into an interval of length p either floor(n p) or ceil(n p) times.
    count, prompt = 200, transcript.prompts[0]
    numbers = ((np.arange(count) + 0.5) / count)[:, None]
    samples = policy.generate([prompt] * count, numbers, temperature=2.0, max_new_tokens=1)
    shares = np.exp(allowed_logprobs(policy, run_by_hand(policy, prompt, np.array([], np.int32))[-1], 2.0))
    counts = np.bincount([int(sample.response_ids[0]) for sample in samples], minlength=len(shares))
    assert (counts > 0).sum() > 5
    assert np.abs(counts - count * shares).max() <= 1 + 1e-3


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_first_and_the_last_number_choose_tokens_that_can_be_chosen(policy, transcript, number):
    [sample] = policy.generate([transcript.prompts[0]], np.full((1, 1), number), temperature=1.0, max_new_tokens=1)
    assert np.isfinite(sample.logprobs).all()


def test_a_reply_ends_with_the_first_end_of_turn_or_at_the_longest(policy, transcript):
    end = policy.processor.tokenizer.eos_token_id
    for sample in policy.generate(transcript.prompts[:8], stack(8, 40, seed=3), temperature=1.0, max_new_tokens=40):
        inside = sample.response_ids[:-1].tolist()
        assert end not in inside and (sample.response_ids[-1] == end or len(inside) == 39)
        assert len(sample.logprobs) == len(sample.response_ids)


@contextmanager
def favoured(policy, ids, bias: float):
    """Raise the logits of some tokens for as long as the block runs."""

    def raise_logits(_module, _inputs, logits):
        return logits.index_add(-1, torch.as_tensor(ids), torch.full((*logits.shape[:-1], len(ids)), bias))

    hook = policy.model.get_output_embeddings().register_forward_hook(raise_logits)
    try:
        yield
    finally:
        hook.remove()


PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def test_placeholders_of_pictures_are_never_sampled_however_likely(policy, transcript):
    banned = policy.processor.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    with favoured(policy, banned, 1e4):
        for numbers in (None, stack(2, 10, seed=4)):
            for sample in policy.generate(transcript.prompts[:2], numbers, temperature=1.0, max_new_tokens=10):
                assert not set(sample.response_ids.tolist()) & set(banned)


def test_placeholders_take_no_probability_from_other_tokens(policy, transcript):
    banned = policy.processor.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    prompt, response = transcript.prompts[:1], transcript.tokens.response_ids[:1]
    with torch.no_grad():
        before = policy.score(prompt, response, temperature=1.0).logprobs
        with favoured(policy, banned, 50.0):
            after = policy.score(prompt, response, temperature=1.0).logprobs
    assert torch.allclose(before, after, atol=1e-5)


def test_the_models_own_generation_config_does_not_change_what_is_sampled(policy, transcript):
    # Qwen2.5-VL comes with a repetition penalty of 1.05 and a temperature of 1e-6.
    plain = policy.generate(transcript.prompts[:2], stack(2, 20, seed=5), temperature=1.0, max_new_tokens=20)
    own = policy.model.generation_config
    own.update(repetition_penalty=1.5, temperature=1e-6, top_k=1, do_sample=True, min_new_tokens=20, max_length=3)
    penalised = policy.generate(transcript.prompts[:2], stack(2, 20, seed=5), temperature=1.0, max_new_tokens=20)
    assert [s.response_ids.tolist() for s in penalised] == [s.response_ids.tolist() for s in plain]
    assert np.array_equal(np.concatenate([s.logprobs for s in penalised]), np.concatenate([s.logprobs for s in plain]))
    assert policy.model.generation_config.repetition_penalty == 1.5  # and it is still there to be saved


def test_a_score_does_not_depend_on_the_batch_that_it_is_in(policy, transcript, replies):
    prompts = [transcript.prompts[row] for row in replies]
    responses = [transcript.tokens.response_ids[row] for row in replies]
    with torch.no_grad():
        together = policy.score(prompts, responses, temperature=1.0)
        for row in range(3):
            alone = policy.score(prompts[row : row + 1], responses[row : row + 1], temperature=1.0)
            assert torch.allclose(together.logprobs[row, : len(responses[row])], alone.logprobs[0], atol=1e-5)


def test_prompts_of_other_lengths_and_picture_sizes_beside_it_do_not_change_a_score(policy, transcript):
    from gtrturbo.store.records import chat
    from gtrturbo.tasks.loading import load_task

    task = load_task("points24", ["image=full"])
    picture, info = task.make().reset(seed=0)
    other = policy.renderer.prompt(chat(prompt_text(task, info)), [picture])
    response = transcript.tokens.response_ids[0]
    with torch.no_grad():
        alone = policy.score([transcript.prompts[0]], [response], temperature=1.0)
        mixed = policy.score([other, transcript.prompts[0]], [response, response], temperature=1.0)
    assert torch.allclose(mixed.logprobs[1], alone.logprobs[0], atol=1e-5)
    assert mixed.logprobs[0].numpy() == pytest.approx(logprobs_by_hand(policy, other, response, 1.0), abs=2e-5)


def test_log_probs_are_zero_outside_the_reply(policy, transcript, replies):
    responses = [transcript.tokens.response_ids[row] for row in replies]
    with torch.no_grad():
        scored = policy.score([transcript.prompts[row] for row in replies], responses, temperature=1.0)
    assert (~scored.mask).any()
    assert (scored.logprobs[~scored.mask] == 0).all()


def test_changing_only_the_picture_changes_the_log_probs(policy, transcript):
    prompt, response = transcript.prompts[0], transcript.tokens.response_ids[0]
    inverted = Prompt(prompt.tensors | {"pixel_values": -prompt.tensors["pixel_values"] - 3.0})
    with torch.no_grad():
        scored = policy.score([prompt, inverted], [response, response], temperature=1.0)
    assert (scored.logprobs[0] - scored.logprobs[1]).abs().max() > 0.01


def test_dropping_the_token_types_would_change_the_log_probs(policy, transcript):
    # The hazard that the renderer guards against: without them the picture loses its places in two dimensions, silently.
    prompt, response = transcript.prompts[0], transcript.tokens.response_ids[0]
    with_types, without = (run_by_hand(policy, prompt, response, drop=drop) for drop in ("", "mm_token_type_ids"))
    assert "mm_token_type_ids" in prompt.tensors
    assert (with_types - without).abs().max() > 1e-3


@pytest.fixture
def valued(policy):
    """The policy with a value head whose last layer is not zero."""
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.value_head.layers[-1].weight)
    return policy


def test_a_new_value_head_answers_zero(policy, transcript):
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    with torch.no_grad():
        values = policy.score(transcript.prompts[:3], transcript.tokens.response_ids[:3], temperature=1.0).values
    assert values.tolist() == [0.0, 0.0, 0.0]


def test_the_value_is_the_heads_answer_to_the_last_prompt_tokens_state(valued, transcript):
    prompt, response = transcript.prompts[0], transcript.tokens.response_ids[0]
    with torch.no_grad():
        scored = valued.score([prompt], [response], temperature=1.0)
        hidden = valued.model(**prompt.tensors, output_hidden_states=True).hidden_states[-1][0, -1]
        weights = [parameter.double() for parameter in valued.value_head.parameters()]
        state = hidden.double()
        for layer in range(3):
            state = weights[2 * layer] @ state + weights[2 * layer + 1]
            state = state.clamp(min=0) if layer < 2 else state
    assert scored.values.item() == pytest.approx(state.item(), abs=1e-4)


def test_the_value_depends_on_the_prompt_and_not_on_the_reply(valued, transcript, replies):
    first, second = transcript.prompts[0], next(p for p in transcript.prompts if not torch.equal(
        p.tensors["pixel_values"], transcript.prompts[0].tensors["pixel_values"]))  # fmt: skip
    short, long = (transcript.tokens.response_ids[row] for row in replies[:2])
    with torch.no_grad():
        values = valued.score([first, first, second], [short, long, long], temperature=1.0).values
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-5)
    assert abs(values[1] - values[2]) > 1e-3


@pytest.mark.parametrize("detach", [False, True])
def test_a_detached_value_keeps_its_gradient_out_of_the_model(valued, transcript, detach):
    valued.model.requires_grad_(True)
    scored = valued.score(transcript.prompts[:2], transcript.tokens.response_ids[:2], temperature=1.0, detach_value=detach)
    scored.values.sum().backward()
    moved = any(p.grad is not None and p.grad.abs().max() > 0 for p in valued.model.parameters())
    assert moved is not detach
    assert all(p.grad is not None for p in valued.value_head.parameters())


def test_no_values_are_computed_without_a_head_or_unasked(valued, transcript):
    with torch.no_grad():
        arguments = (transcript.prompts[:1], transcript.tokens.response_ids[:1])
        assert valued.score(*arguments, temperature=1.0, values=False).values is None
        valued.value_head = None
        assert valued.score(*arguments, temperature=1.0).values is None


def test_only_predictions_of_reply_tokens_get_a_gradient(policy, transcript, replies):
    policy.model.requires_grad_(True)
    kept: list[torch.Tensor] = []

    def keep(_module, _inputs, logits):
        logits.retain_grad()
        kept.append(logits)

    hook = policy.model.get_output_embeddings().register_forward_hook(keep)
    policy.scorer.shares_prompts = False  # One pass, so that all logits are in one place.
    responses = [transcript.tokens.response_ids[row] for row in replies]
    scored = policy.score([transcript.prompts[row] for row in replies], responses, temperature=1.0)
    hook.remove()
    scored.logprobs.sum().backward()
    felt = kept[0].grad.abs().sum(dim=-1) > 0
    # Logits are made where a reply token is predicted, and nowhere else: of R' positions the first R of each row count.
    longest = max(map(len, responses))
    for row, response in enumerate(responses):
        assert felt[row].tolist() == [True] * len(response) + [False] * (longest - len(response))


def test_the_model_stays_in_eval_mode(policy):
    assert not any(module.training for module in policy.model.modules())
