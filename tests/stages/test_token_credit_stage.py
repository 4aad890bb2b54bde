"""ppo-step with credit per token: values, advantages and ratios of single tokens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from updates import gradients_of, losses_of, prepare

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.value_head import ValueHead
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.train.critic import bootstrap_values
from gtrturbo.train.inputs import read_rollout


@pytest.fixture
def critic(policy):
    """The warm policy with a value head that is no longer 0 everywhere."""
    head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    for parameter in head.layers[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    policy.value_head = head
    return policy


@pytest.fixture
def config(ppo_config):
    return replace(ppo_config, credit="token", gamma=0.9, gae_lambda=1.0)


def values_of(critic, transcript):
    """Value the prefix before each token of each reply with a pass of its own, which sees nothing that comes later."""
    found = []
    with torch.no_grad():
        for prompt, ids in zip(transcript.prompts, transcript.tokens.response_ids, strict=True):
            passes = [critic.score([prompt], [ids[: j + 1]], temperature=0.9, token_values=True) for j in range(len(ids))]
            found.append([scored.values[0, -1].item() for scored in passes])
    return found


def returns_of(transcript, after, *, gamma):
    """γ-discounted reward from each turn on and the value after a cut, by a double loop; an illegal reply costs 2."""
    turns = transcript.turns
    earned = [
        turn.reward - 2 * (not turn.legal) + gamma * value * turn.truncated for turn, value in zip(turns, after, strict=True)
    ]
    return [
        sum(
            gamma ** (other.turn - turn.turn) * reward
            for other, reward in zip(turns, earned, strict=True)
            if other.episode == turn.episode and other.turn >= turn.turn
        )
        for turn in turns
    ]


def test_a_token_is_valued_by_what_stands_before_it(critic, transcript):
    few = replace(
        transcript,
        prompts=transcript.prompts[:3],
        tokens=replace(transcript.tokens, response_ids=transcript.tokens.response_ids[:3]),
    )
    expected = values_of(critic, few)
    with torch.no_grad():
        at_once = critic.score(few.prompts, few.tokens.response_ids, temperature=0.9, token_values=True)
        of_turns = critic.score(few.prompts, few.tokens.response_ids, temperature=0.9)
    for row, values in enumerate(expected):
        assert at_once.values[row, : len(values)].tolist() == pytest.approx(values, abs=1e-4)
        assert not at_once.values[row, len(values) :].any()
    torch.testing.assert_close(at_once.values[:, 0], of_turns.values, atol=1e-6, rtol=1e-5)
    assert np.std(expected[0]) > 1e-3  # The head tells tokens apart.


@pytest.mark.parametrize("credit", ["token", "bi-level"])
def test_without_decay_a_token_has_the_return_less_its_value(config, critic, transcript, credit):
    batch, metrics = prepare(replace(config, credit=credit), critic, transcript)
    replies = batch.thought_mask | batch.action_mask
    values = values_of(critic, transcript)
    after = bootstrap_values(critic, read_rollout(config.rollouts), transcript, tokens=10_000).tolist()
    returns = returns_of(transcript, after, gamma=0.9)
    raw = [[total - value for value in row] for total, row in zip(returns, values, strict=True)]
    legal = [turn.legal for turn in transcript.turns]
    counted = np.concatenate([row for row, parsed in zip(raw, legal, strict=True) if parsed])
    spread = counted.std() + 1e-5
    expected = [
        [(number - counted.mean()) / spread if parsed else -2 / spread for number in row]
        for row, parsed in zip(raw, legal, strict=True)
    ]
    for row, numbers in enumerate(expected):
        assert batch.advantages[row][replies[row]].tolist() == pytest.approx(numbers, abs=2e-3)
    assert not batch.advantages[~replies].any()
    assert metrics["advantage_std"] == pytest.approx(counted.std(), abs=1e-3)
    flat = np.concatenate(raw)  # The targets are the returns, so what is left of them is the advantage.
    assert metrics["value_error"] == pytest.approx(np.sqrt((flat**2).mean()), abs=1e-3)


@pytest.mark.parametrize("credit", ["token", "bi-level"])
def test_an_update_learns_from_tokens(config, warm, credit, tmp_path):
    out = execute(replace(config, out=tmp_path / "next", credit=credit, epochs=2)).out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert (rows[0]["ratio_min"], rows[0]["ratio_max"], rows[0]["approx_kl"]) == (1.0, 1.0, 0.0)
    assert rows[-1]["approx_kl"] > 0 and rows[-1]["value_loss"] > 0
    assert (out / "value_head.safetensors").is_file()
    assert sha256_file(out / "model.safetensors") != sha256_file(warm / "model.safetensors")
    assert read_manifest(out).config["credit"] == credit


def test_a_step_makes_credited_tokens_likelier(config, critic, transcript, tmp_path):
    config = replace(config, epochs=3, minibatch_size=10_000, learning_rate=3e-5)
    critic.value_head = None
    critic.value_head = ValueHead.new(critic.model.config.get_text_config().hidden_size, seed=0)
    before, _ = prepare(config, critic, transcript)
    after, _ = prepare(config, load_policy(execute(replace(config, out=tmp_path / "next")).out, device="cpu"), transcript)
    weight = config.thought_coef * before.thought_mask + 1.0 * before.action_mask
    gained = ((after.old_logprobs - before.old_logprobs) * before.advantages * weight).sum()
    assert gained > 0.1


def test_the_kl_told_is_per_turn_and_the_value_loss_per_token(config, critic, transcript):
    batch, _ = prepare(config, critic, transcript)
    rows = list(range(5))
    replies = (batch.thought_mask | batch.action_mask)[rows]
    moved = replace(batch, old_logprobs=batch.old_logprobs - 0.1)
    found = losses_of(config, critic, transcript, moved, rows)
    assert found.surrogate.ratio.tolist() == pytest.approx([np.exp(0.1)] * int(replies.sum()), rel=1e-3)
    error = 0.5 * (batch.old_values[rows] - batch.value_targets[rows]) ** 2
    expected = [row[mask].mean().item() for row, mask in zip(error, replies, strict=True)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-4)
    whole = gradients_of(config, critic, transcript, rows)
    assert whole["approx_kl"] == pytest.approx(0, abs=1e-6)


def test_padding_learns_nothing(config, critic, transcript):
    """What stands outside the replies has no part in the losses, whatever it is."""
    batch, _ = prepare(config, critic, transcript)
    outside = ~(batch.thought_mask | batch.action_mask)
    noise = {name: getattr(batch, name).masked_fill(outside, 1e6) for name in ("advantages", "old_logprobs", "value_targets")}
    rows = list(range(5))
    plain, noisy = (losses_of(config, critic, transcript, each, rows) for each in (batch, replace(batch, **noise)))
    assert noisy.surrogate.loss.tolist() == plain.surrogate.loss.tolist()
    assert noisy.values.tolist() == plain.values.tolist()


@pytest.mark.parametrize("placement", ["reward", "advantage", "return", "loss"])
def test_guidance_enters_where_it_does_for_turns(config, scores, placement, tmp_path):
    update = replace(config, out=tmp_path / "x", scores=scores, kl_placement=placement, kl_estimator="k2")
    assert read_manifest(execute(update).out).metrics["kl_mean"] > 0.1


def test_a_credit_of_ones_own_may_be_per_token(config, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from gtrturbo.algorithms.credit import Credit, Credited\n"
        "def by_value(earned):\n"
        "    return Credited(earned.rewards[:, None] - earned.token_values, earned.rewards[:, None].expand_as(earned.replies))\n"
        "def by_turn(earned):\n    return Credited(earned.rewards, earned.rewards)\n"
        "OWN, WRONG = Credit(by_value, per_token=True), Credit(by_turn, per_token=True)\n"
    )
    execute(replace(config, out=tmp_path / "next", credit=f"{file}:OWN"))
    with pytest.raises(GtrTurboError, match=r"must be a tensor of shape \[\d+, \d+\], one number per token, got \[\d+\]"):
        execute(replace(config, out=tmp_path / "wrong", credit=f"{file}:WRONG"))
