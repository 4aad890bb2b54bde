"""ppo-step on turns whose illegal replies did nothing, as with --on-invalid-reply noop or end: what their credit is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from updates import prepare

from gtrturbo.models.value_head import ValueHead

GAMMA, VALID, INVALID = 0.9, 0.25, -1.0


@pytest.fixture
def played(policy, transcript):
    """The turns as they were, but nothing was executed where a reply did not parse; the policy values every state 0."""
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    turns = [turn if turn.legal else replace(turn, executed=None) for turn in transcript.turns]
    assert {turn.legal for turn in turns} == {True, False}
    return replace(transcript, turns=turns)


@pytest.fixture
def settings(ppo_config):
    return replace(ppo_config, gamma=GAMMA, gae_lambda=1.0, format_valid=VALID, format_invalid=INVALID)


def rewarded(turns) -> np.ndarray:
    """The discounted reward of each turn's episode from it on, by a double loop; all values are 0."""
    earned = [turn.reward + (VALID if turn.legal else INVALID) for turn in turns]
    return np.array(
        [
            sum(
                GAMMA ** (later.turn - turn.turn) * reward
                for later, reward in zip(turns, earned, strict=True)
                if later.episode == turn.episode and later.turn >= turn.turn
            )
            for turn in turns
        ]
    )


def test_legal_turns_are_normalised_among_themselves_and_the_others_by_the_same_numbers(settings, policy, played):
    batch, metrics = prepare(settings, policy, played)
    legal, advantages = np.array([turn.legal for turn in played.turns]), rewarded(played.turns)
    mean, spread = advantages[legal].mean(), advantages[legal].std()
    assert batch.advantages.numpy() == pytest.approx((advantages - mean) / (spread + 1e-5), abs=1e-4)
    assert metrics["advantage_std"] == pytest.approx(spread, abs=1e-5)


def test_tokens_of_legal_turns_are_normalised_among_themselves(settings, policy, played):
    batch, metrics = prepare(replace(settings, credit="token"), policy, played)
    legal, lengths = torch.tensor([turn.legal for turn in played.turns]), [len(ids) for ids in played.tokens.response_ids]
    # Without decay within a turn, and values of 0, each token of a reply has what its turn is credited with.
    advantages = np.repeat(rewarded(played.turns), lengths)
    counted = np.repeat(legal.numpy(), lengths)
    mean, spread = advantages[counted].mean(), advantages[counted].std()
    found = torch.cat([row[:length] for row, length in zip(batch.advantages, lengths, strict=True)])
    assert found.numpy() == pytest.approx((advantages - mean) / (spread + 1e-5), abs=1e-4)
    assert metrics["advantage_std"] == pytest.approx(spread, abs=1e-5)
