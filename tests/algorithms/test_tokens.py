"""Masks by hand; log-probabilities against torch.distributions."""

import pytest
import torch

from gtrturbo.algorithms.tokens import gather_logprobs, linear_logprobs, masked_mean, span_masks, weighted_turn_logprobs

# {"thoughts": "hi", "action": "stop"}<|im_end|>
#  0123456789012345678901234567890123456   the key of the action starts at 19, its value is [30, 34), the text ends at 36
REPLY = '{"thoughts": "hi", "action": "stop"}'


def test_positions_used_below_are_those_of_the_reply():
    assert REPLY.index('"action"') == 19
    assert REPLY[30:34] == "stop"
    assert len(REPLY) == 36


def test_tokens_on_the_boundaries_split_cleanly():
    offsets = [(0, 13), (13, 19), (19, 30), (30, 34), (34, 36), (36, 36)]
    masks = span_masks(offsets, action_start=19, action_span=(30, 34))
    assert masks.thought == [True, True, False, False, False, False]
    assert masks.action == [False, False, True, True, True, True]
    assert masks.action_value == [False, False, False, True, False, False]


def test_a_token_that_straddles_the_start_of_the_action_is_action():
    # ` "` is one token in a byte-pair vocabulary: characters 18 and 19.
    masks = span_masks([(0, 18), (18, 20), (20, 36)], action_start=19, action_span=(30, 34))
    assert masks.thought == [True, False, False]
    assert masks.action == [False, True, True]


def test_tokens_that_straddle_the_value_on_either_side_are_value():
    # `"st`, `op"}`: quote and value merged into one token, at both ends.
    masks = span_masks([(0, 29), (29, 32), (32, 36), (36, 36)], action_start=19, action_span=(30, 34))
    assert masks.action_value == [False, True, True, False]


def test_a_token_that_covers_the_whole_value_is_value():
    masks = span_masks([(0, 25), (25, 36)], action_start=19, action_span=(30, 34))
    assert masks.action_value == [False, True]


def test_tokens_that_only_touch_the_value_are_not_value():
    masks = span_masks([(29, 30), (34, 35)], action_start=19, action_span=(30, 34))
    assert masks.action_value == [False, False]


def test_every_piece_of_a_split_character_is_value():
    # A byte-level vocabulary may split one character into pieces that report the same span.
    masks = span_masks([(30, 31), (30, 31), (31, 34)], action_start=19, action_span=(30, 34))
    assert masks.action_value == [True, True, True]


def test_end_of_turn_is_action_even_when_the_action_part_is_empty():
    masks = span_masks([(0, 5), (5, 5)], action_start=5, action_span=None)
    assert masks.thought == [True, False]
    assert masks.action == [False, True]


def test_a_token_without_text_before_the_action_is_thought():
    masks = span_masks([(0, 0), (0, 19), (19, 36)], action_start=19, action_span=(30, 34))
    assert masks.thought == [True, True, False]


def test_a_reply_that_did_not_parse_is_all_thought():
    masks = span_masks([(0, 3), (3, 7), (7, 7)], action_start=None, action_span=None)
    assert masks.thought == [True, True, True]
    assert masks.action == [False, False, False]
    assert masks.action_value == [False, False, False]


def test_every_token_is_thought_or_action_and_every_value_token_is_action():
    for width in range(1, 12):
        offsets = [(start, min(start + width, 36)) for start in range(0, 36, width)] + [(36, 36)]
        masks = span_masks(offsets, action_start=19, action_span=(30, 34))
        assert all(thought != action for thought, action in zip(masks.thought, masks.action, strict=True))
        assert all(action for value, action in zip(masks.action_value, masks.action, strict=True) if value)
        # No character of the value lies outside the value tokens.
        covered = {c for (a, b), value in zip(offsets, masks.action_value, strict=True) if value for c in range(a, b)}
        assert covered >= {30, 31, 32, 33}


def test_specials_reported_at_zero_are_refused():
    with pytest.raises(ValueError, match="backwards"):
        span_masks([(0, 19), (19, 36), (0, 0)], action_start=19, action_span=(30, 34))


def test_a_value_outside_the_action_is_refused():
    with pytest.raises(ValueError, match="does not lie in the action"):
        span_masks([(0, 36)], action_start=19, action_span=(10, 12))
    with pytest.raises(ValueError, match="does not lie in the action"):
        span_masks([(0, 36)], action_start=None, action_span=(30, 34))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
def test_logprobs_equal_those_of_a_categorical_at_the_temperature(temperature):
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    expected = torch.distributions.Categorical(logits=logits.double() / temperature).log_prob(ids)
    found = gather_logprobs(logits, ids, temperature=temperature)
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


def test_forbidden_ids_are_left_out_of_the_softmax():
    torch.manual_seed(1)
    logits, ids = torch.randn(2, 3, 7), torch.randint(5, (2, 3))
    # Ids 5 and 6 forbidden: the distribution over the first five alone.
    expected = torch.distributions.Categorical(logits=logits[..., :5].double() / 0.2).log_prob(ids)
    found = gather_logprobs(logits, ids, temperature=0.2, forbidden=torch.tensor([5, 6]))
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=0)


def test_forbidding_ids_leaves_the_callers_logits_alone():
    logits = torch.zeros(1, 1, 3)
    gather_logprobs(logits, torch.tensor([[0]]), temperature=1.0, forbidden=torch.tensor([2]))
    assert logits.tolist() == [[[0.0, 0.0, 0.0]]]


def test_forbidden_ids_get_no_gradient_and_the_others_a_finite_one():
    # d log p(0) / dz = onehot(0) − softmax over {0, 1} = (1/2, −1/2), nothing for id 2; T = 1.
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    gather_logprobs(logits, torch.tensor([[0]]), temperature=1.0, forbidden=torch.tensor([2])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.5, -0.5, 0.0]]]), atol=1e-7, rtol=0)


def test_each_token_is_read_from_the_logits_at_its_own_place():
    # Position 0 is certain of id 1, position 1 of id 2; a shift by one would give about −20.
    logits = torch.tensor([[[0.0, 20.0, 0.0], [0.0, 0.0, 20.0]]])
    found = gather_logprobs(logits, torch.tensor([[1, 2]]), temperature=1.0)
    assert found.abs().max() < 1e-6


def test_bfloat16_logits_give_float32_logprobs():
    # Two equal logits: log ½ = −0.6931472; the nearest bfloat16 is −0.6914.
    found = gather_logprobs(torch.zeros(1, 1, 2, dtype=torch.bfloat16), torch.tensor([[0]]), temperature=1.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-0.6931472, abs=1e-6)


def test_a_sampled_forbidden_id_is_refused():
    with pytest.raises(ValueError, match="sampled id 2 is forbidden"):
        gather_logprobs(torch.zeros(1, 2, 3), torch.tensor([[0, 2]]), temperature=1.0, forbidden=torch.tensor([2]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        gather_logprobs(torch.zeros(1, 1, 3), torch.tensor([[0]]), temperature=temperature)


def test_logits_of_another_length_than_the_ids_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        gather_logprobs(torch.zeros(1, 3, 3), torch.tensor([[0, 0]]), temperature=1.0)


def test_turn_logprob_weights_thoughts_down_and_ignores_padding():
    logprobs = torch.tensor([[-1.0, -2.0, -4.0, -8.0], [-1.0, -3.0, -5.0, float("nan")]])
    thought = torch.tensor([[True, True, False, False], [True, False, False, False]])
    action = torch.tensor([[False, False, True, True], [False, True, True, False]])
    # 0.5 · (−1 − 2) − 4 − 8 = −13.5;   0.5 · (−1) − 3 − 5 = −8.5
    found = weighted_turn_logprobs(logprobs, thought, action, thought_coef=0.5)
    assert found.tolist() == [-13.5, -8.5]


def test_turn_logprob_gradient_is_the_weight_of_each_token():
    logprobs = torch.zeros(1, 3, requires_grad=True)
    thought, action = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    weighted_turn_logprobs(logprobs, thought, action, thought_coef=0.25).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.25, 1.0, 0.0]]


def test_a_token_in_both_parts_is_refused():
    both = torch.tensor([[True]])
    with pytest.raises(ValueError, match="both thought and action"):
        weighted_turn_logprobs(torch.zeros(1, 1), both, both, thought_coef=0.5)


def test_masked_mean_counts_masked_entries_only():
    x = torch.tensor([[1.0, 3.0, 100.0], [7.0, float("nan"), 100.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [2.0, 7.0, 0.0]


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_chunked_logprobs_and_both_gradients_are_those_of_a_categorical(temperature, chunk):
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    ids, upstream = torch.randint(7, (10,)), torch.randn(10, dtype=torch.float64)
    exact = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    # Ids 7 and 8 forbidden: the distribution over the first seven alone.
    logits = exact[0] @ exact[1].T / temperature
    expected = torch.distributions.Categorical(logits=logits[:, :7]).log_prob(ids)
    (expected * upstream).sum().backward()
    ours = [hidden.float().requires_grad_(), weight.float().requires_grad_()]
    found = linear_logprobs(*ours, ids, temperature=temperature, forbidden=torch.tensor([7, 8]), chunk=chunk)
    (found * upstream.float()).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    for left, right in zip(ours, exact, strict=True):
        assert left.grad is not None and right.grad is not None
        torch.testing.assert_close(left.grad.double(), right.grad, atol=2e-5, rtol=1e-5)
    assert (ours[1].grad[7:] == 0).all()


def test_chunked_logprobs_of_bfloat16_states_are_float32():
    # Two equal logits: log ½ = −0.6931472; the nearest bfloat16 is −0.6914.
    hidden, weight = torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(2, 2, dtype=torch.bfloat16)
    found = linear_logprobs(
        hidden, weight, torch.tensor([0]), temperature=1.0, forbidden=torch.tensor([], dtype=torch.long), chunk=2
    )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-0.6931472, abs=1e-6)


def test_chunked_logprobs_refuse_what_does_not_fit():
    states, none = torch.zeros(2, 3), torch.tensor([], dtype=torch.long)
    with pytest.raises(ValueError, match="shapes differ"):
        linear_logprobs(states, torch.zeros(5, 3), torch.tensor([0]), temperature=1.0, forbidden=none, chunk=2)
    with pytest.raises(ValueError, match="sampled id 1 is forbidden"):
        linear_logprobs(states, torch.zeros(5, 3), torch.tensor([0, 1]), temperature=1.0, forbidden=torch.tensor([1]), chunk=2)


def test_a_thought_that_follows_the_action_is_thought_by_its_own_span():
    # "up: it is near" in four tokens and an end of turn; the thought is characters 4 to 14.
    offsets = [(0, 2), (2, 4), (4, 9), (9, 14), (14, 14)]
    masks = span_masks(offsets, action_start=0, action_span=(0, 2), thought_span=(4, 14))
    assert masks.thought == [False, False, True, True, False]
    assert masks.action == [True, True, False, False, True]
    assert masks.action_value == [True, False, False, False, False]


def test_a_token_that_straddles_the_thoughts_edge_is_action():
    masks = span_masks([(0, 3), (3, 6), (6, 9)], action_start=0, action_span=(0, 2), thought_span=(4, 9))
    assert masks.thought == [False, False, True]


def test_a_thought_that_overlaps_the_actions_value_is_refused():
    with pytest.raises(ValueError, match="overlaps the action's value"):
        span_masks([(0, 9)], action_start=0, action_span=(0, 3), thought_span=(2, 9))
