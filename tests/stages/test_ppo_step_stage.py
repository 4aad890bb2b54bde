"""ppo-step on the tiny model: the update is the method's, and it stops where it must."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from updates import prepare

from gtrturbo.config import DistillConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.scorer import Scorer
from gtrturbo.models.value_head import ValueHead
from gtrturbo.stages import execute, ppo_step
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.tensors import load_scores
from gtrturbo.store.writing import writing
from gtrturbo.train import ppo_batch as module
from gtrturbo.train import prepare as preparing


def metrics(path) -> dict[str, float]:
    return read_manifest(path).metrics


def log(path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def critic(policy):
    """The warm policy with a new value head, so that every value is 0."""
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    return policy


def legal(transcript) -> np.ndarray:
    return np.array([turn.legal for turn in transcript.turns])


def discounted(transcript, rewards, *, discount: float) -> np.ndarray:
    """Sum rewards from each turn to the end of its episode by a double loop: with V = 0 this is GAE with γλ = discount."""
    turns = transcript.turns
    sums = np.zeros(len(turns))
    for t, turn in enumerate(turns):
        for later, other in enumerate(turns):
            if other.episode == turn.episode and later >= t:
                sums[t] += discount ** (later - t) * rewards[later]
    return sums


def kl_by_hand(critic, transcript, scores_path, *, temperature: float = 0.9, whole: bool = False) -> np.ndarray:
    """Mean over thought tokens, or the `whole` reply, of min(max(0, log p − log q), 10), turn by turn. [N]"""
    means = []
    tokens = transcript.tokens
    for prompt, ids, thought, teacher in zip(
        transcript.prompts, tokens.response_ids, tokens.thought_mask, load_scores(scores_path / "scores.safetensors"), strict=True
    ):
        with torch.no_grad():
            student = critic.score([prompt], [ids], temperature=temperature, values=False).logprobs[0].numpy()
        counted = thought | whole
        means.append(np.clip(student - teacher, 0, 10)[counted].mean() if counted.any() else 0.0)
    return np.array(means)


def test_every_ratio_is_one_before_the_first_step(ppo_config, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "all", minibatch_size=10_000, micro_batch_tokens="800")).out
    first = log(out)[0]
    # The same passes gave the old log-probs, so not even rounding is between the two.
    assert (first["ratio_min"], first["ratio_max"], metrics(out)["first_ratio_error"]) == (1.0, 1.0, 0.0)
    assert (first["clip_fraction"], first["approx_kl"]) == (0.0, 0.0)


def test_first_ratios_that_are_not_one_stop_the_stage(ppo_config, monkeypatch, tmp_path):
    real = preparing.score_all

    def off(*args, **settings):
        scored = real(*args, **settings)
        return replace(scored, logprobs=[row + 0.05 for row in scored.logprobs])

    monkeypatch.setattr(preparing, "score_all", off)
    monkeypatch.setattr(ppo_step, "require_own_logprobs", lambda *_, **__: None)  # Which notices it first.
    with pytest.raises(GtrTurboError, match=r"the first ratios are 0\.\d+ to 0\.\d+, not 1"):
        execute(replace(ppo_config, out=tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_the_sampler_and_the_trainer_agree_on_the_log_probs(ppo):
    assert metrics(ppo)["sampler_trainer_gap_max"] < 1e-4


def test_the_gap_of_each_turn_is_what_the_sampler_is_off_by(ppo_config, critic, transcript):
    # The sampler's log-probs are the trainer's up to rounding; the last token of turn 0 is now off by +2, that of turn 1 by −3.
    shifted = [row.copy() for row in transcript.tokens.sample_logprobs]
    shifted[0][-1] += 2
    shifted[1][-1] -= 3
    lengths = np.array([len(row) for row in shifted])
    off = np.zeros(len(shifted))
    off[:2] = 2 / lengths[0], 3 / lengths[1]
    tokens = replace(transcript.tokens, sample_logprobs=shifted)
    samples, summary = prepare(ppo_config, critic, replace(transcript, tokens=tokens))
    np.testing.assert_allclose(samples.sampler_trainer_gap.numpy(), off, atol=1e-4)
    assert summary["sampler_trainer_gap_mean"] == pytest.approx(5 / lengths.sum(), abs=1e-4)
    assert summary["sampler_trainer_gap_max"] == pytest.approx(3, abs=1e-4)


def test_the_value_error_is_that_of_the_head_before_the_update(ppo_config, critic, transcript):
    samples, summary = prepare(ppo_config, critic, transcript)
    assert not samples.old_values.any()  # A new head gives 0 everywhere.
    assert summary["value_error"] == pytest.approx(float(np.sqrt(np.mean(samples.value_targets.numpy() ** 2))))


def test_every_minibatch_tells_its_sampler_trainer_gap(ppo):
    assert all(0 <= row["sampler_trainer_gap"] < 1e-4 for row in log(ppo))


def test_a_step_moves_the_weights_and_later_ratios(ppo, warm):
    before, after = load_file(warm / "model.safetensors"), load_file(ppo / "model.safetensors")
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    assert log(ppo)[-1]["ratio_max"] > 1 + 1e-4


def test_credited_turns_become_likelier_and_the_loss_on_the_same_turns_falls(ppo_config, critic, transcript, tmp_path):
    config = replace(ppo_config, out=tmp_path / "next", epochs=3, minibatch_size=10_000, learning_rate=3e-5)
    samples, _ = prepare(config, critic, transcript)
    trained = load_policy(execute(config).out, device="cpu")
    after, _ = prepare(config, trained, transcript)
    ratio = (after.old_logprobs - samples.old_logprobs).exp()
    # The unclipped surrogate −mean(ratio · Â) was −mean(Â) before the steps.
    assert (ratio * samples.advantages).mean() > samples.advantages.mean() + 1e-3
    assert (after.old_values - samples.value_targets).square().mean() < (
        samples.old_values - samples.value_targets
    ).square().mean()


def test_the_log_prob_of_a_turn_is_its_actions_plus_a_share_of_its_thoughts(ppo_config, critic, transcript):
    samples, _ = prepare(replace(ppo_config, thought_coef=0.25), critic, transcript)
    tokens = transcript.tokens
    # The sampler's log-probs are the trainer's up to rounding.
    expected = [
        0.25 * logprobs[thought].sum() + logprobs[action].sum()
        for logprobs, thought, action in zip(tokens.sample_logprobs, tokens.thought_mask, tokens.action_mask, strict=True)
    ]
    assert samples.old_logprobs.numpy() == pytest.approx(np.array(expected), abs=1e-3)


def test_credit_is_the_normalised_discounted_reward_of_legal_turns(ppo_config, critic, transcript):
    config = replace(ppo_config, gamma=0.9, gae_lambda=0.5, format_valid=0.25, format_invalid=-1.0)
    samples, _ = prepare(config, critic, transcript)
    good = legal(transcript)
    rewards = np.array([turn.reward for turn in transcript.turns]) + np.where(good, 0.25, -1.0)
    advantages = discounted(transcript, rewards, discount=0.9 * 0.5)
    spread = advantages[good].std() + 1e-5
    expected = np.where(good, (advantages - advantages[good].mean()) / spread, -1.0 / spread)
    assert 5 < good.sum() < len(good) - 5
    assert samples.value_targets.numpy() == pytest.approx(advantages, abs=1e-5)
    assert samples.advantages.numpy() == pytest.approx(expected, abs=1e-5)


def test_a_text_whose_action_was_random_gets_no_credit_where_the_format_costs_nothing(ppo_config, critic, transcript):
    samples, _ = prepare(replace(ppo_config, format_invalid=0.0), critic, transcript)
    bad = ~torch.from_numpy(legal(transcript))
    assert bad.any() and all(turn.executed is not None for turn in transcript.turns)
    assert (samples.advantages[bad] == 0).all()
    assert (samples.advantages[~bad] != 0).any()


def test_nothing_leaks_across_the_end_of_an_episode(ppo_config, critic, transcript, monkeypatch):
    first_of_second = next(row for row, turn in enumerate(transcript.turns) if turn.episode == 1)
    score = critic.score
    returns = []
    for value in (0.0, 1e6):

        def valued(prompts, responses, value=value, **settings):
            """Value every turn 0, but for one."""
            marked = [value * (response is transcript.tokens.response_ids[first_of_second]) for response in responses]
            return replace(score(prompts, responses, **settings), values=torch.tensor(marked))

        monkeypatch.setattr(critic, "score", valued)
        samples, _ = prepare(ppo_config, critic, transcript)
        assert samples.old_values[first_of_second] == value
        returns.append(samples.value_targets[:first_of_second])
    assert first_of_second > 0 and torch.equal(*returns)


def test_a_cut_episode_goes_on_with_the_value_of_what_followed_and_an_ended_one_does_not(ppo_config, critic, transcript):
    class Head:
        """Values all turns 0 and then every state after a cut turn 100."""

        calls = 0

        def __call__(self, state):
            self.calls += 1
            return torch.full((len(state),), 0.0 if self.calls == 1 else 100.0)

    # One pass for all turns, so that the head's first call is theirs.
    config = replace(ppo_config, micro_batch_tokens="1000000", minibatch_size=10_000, gamma=0.5, gae_lambda=0.0)
    plain, _ = prepare(config, critic, transcript)
    critic.value_head = Head()
    cut, _ = prepare(config, critic, transcript)
    # With λ = 0 only the cut turn itself feels γ V(s') = 50.
    truncated = torch.tensor([turn.truncated for turn in transcript.turns])
    assert truncated.any() and any(turn.terminated for turn in transcript.turns)
    assert (cut.value_targets - plain.value_targets).tolist() == pytest.approx((50.0 * truncated).tolist(), abs=1e-5)


def test_without_weight_the_environments_reward_does_not_count(ppo_config, critic, transcript):
    config = replace(ppo_config, environment_coef=0.0)
    paid = replace(transcript, turns=[replace(turn, reward=turn.reward + row) for row, turn in enumerate(transcript.turns)])
    plain, metrics = prepare(config, critic, transcript)
    other, _ = prepare(config, critic, paid)
    assert torch.equal(plain.advantages, other.advantages) and torch.equal(plain.value_targets, other.value_targets)
    assert metrics["reward_mean"] == 0.0
    assert not torch.equal(plain.value_targets, prepare(ppo_config, critic, paid)[0].value_targets)


@pytest.fixture
def placed(ppo_config, critic, transcript, scores):
    """Returns and raw advantages by place of the guidance, and the KL by hand."""

    def place(where: str, **settings):
        config = replace(ppo_config, kl_placement=where, gamma=0.9, gae_lambda=0.5, **settings)
        return prepare(config, critic, transcript)[0].value_targets.numpy()

    return SimpleNamespace(place=place, kl=kl_by_hand(critic, transcript, scores), scores=scores, transcript=transcript)


def test_in_the_reward_the_kl_flows_to_earlier_turns_and_into_the_value_target(placed):
    plain, guided = placed.place("reward"), placed.place("reward", scores=placed.scores, kl_coef=2.0)
    expected = plain - discounted(placed.transcript, 2.0 * placed.kl, discount=0.9 * 0.5)
    assert placed.kl.max() > 0.1
    assert guided == pytest.approx(expected, abs=1e-4)


def test_in_the_advantage_the_kl_leaves_the_value_target_alone(placed):
    assert placed.place("advantage", scores=placed.scores, kl_coef=2.0) == pytest.approx(placed.place("advantage"), abs=1e-6)


def test_in_the_return_the_kl_enters_the_value_target_of_its_own_turn(placed):
    guided = placed.place("return", scores=placed.scores, kl_coef=2.0)
    assert guided == pytest.approx(placed.place("return") - 2.0 * placed.kl, abs=1e-4)


@pytest.mark.parametrize("where", ["reward", "advantage", "return"])
def test_a_weight_of_zero_switches_the_guidance_off_in_every_place(ppo_config, critic, transcript, scores, where):
    config = replace(ppo_config, kl_placement=where)
    plain, _ = prepare(config, critic, transcript)
    off, _ = prepare(replace(config, scores=scores, kl_coef=0.0), critic, transcript)
    assert torch.equal(plain.advantages, off.advantages) and torch.equal(plain.value_targets, off.value_targets)


def test_guidance_in_the_advantage_is_the_normalised_advantage_less_the_kl(ppo_config, critic, transcript, scores):
    config = replace(ppo_config, scores=scores, kl_placement="advantage", kl_coef=2.0, gamma=0.9, gae_lambda=0.5)
    # An invalid reply costs 2 here: a turn of NumberLine pays -1 to 1.
    samples, measured = prepare(config, critic, transcript)
    good, kl = legal(transcript), kl_by_hand(critic, transcript, scores)
    rewards = np.array([turn.reward for turn in transcript.turns]) + np.where(good, 0.0, -2.0)
    advantages = discounted(transcript, rewards, discount=0.45) - 2.0 * kl
    spread = advantages[good].std() + 1e-5
    expected = np.where(good, (advantages - advantages[good].mean()) / spread, (-2.0 - 2.0 * kl) / spread)
    assert samples.advantages.numpy() == pytest.approx(expected, abs=1e-4)
    assert measured["kl_mean"] == pytest.approx(kl.mean(), abs=1e-5)


def test_over_the_reply_the_kl_is_the_mean_over_thought_and_action_alike(ppo_config, critic, transcript, scores):
    config = replace(ppo_config, scores=scores, kl_placement="return", kl_tokens="reply")
    guided, measured = prepare(config, critic, transcript)
    plain, _ = prepare(ppo_config, critic, transcript)
    kl = kl_by_hand(critic, transcript, scores, whole=True)
    assert np.abs(kl - kl_by_hand(critic, transcript, scores)).max() > 0.1
    assert (guided.value_targets - plain.value_targets).numpy() == pytest.approx(-kl, abs=1e-4)
    assert measured["kl_mean"] == pytest.approx(kl.mean(), abs=1e-5)
    differences = np.concatenate(transcript.tokens.sample_logprobs) - np.concatenate(load_scores(scores / "scores.safetensors"))
    assert measured["kl_k1_mean"] == pytest.approx(differences.mean(), abs=1e-4)


def test_the_students_own_scores_are_no_guidance(ppo_config, critic, transcript, warm, turns, tmp_path):
    own = execute(DistillConfig(out=tmp_path / "own", rollouts=turns, teacher=warm)).out
    _, measured = prepare(replace(ppo_config, scores=own, kl_estimator="abs"), critic, transcript)
    assert measured["kl_mean"] < 1e-6 and abs(measured["kl_k1_mean"]) < 1e-6


def test_micro_batches_change_the_update_by_rounding_only(ppo_config, ppo, tmp_path):
    small = execute(replace(ppo_config, out=tmp_path / "small", micro_batch_tokens="600")).out
    for ours, theirs in zip(log(small), log(ppo), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    left, right = load_file(small / "model.safetensors"), load_file(ppo / "model.safetensors")
    far = np.concatenate([(np.abs(left[name] - right[name]) > 1e-5).ravel() for name in left])
    # Adam turns rounding into a whole step only where the gradient itself is rounding.
    assert far.mean() < 0.02


def test_recomputed_activations_give_the_same_weights_bit_by_bit(ppo_config, monkeypatch, tmp_path):
    # Recomputing cannot share prompts between replies, so neither does the other.
    monkeypatch.setattr(Scorer, "_worth_sharing", lambda *_: False)
    outs = [
        execute(replace(ppo_config, out=tmp_path / name, gradient_checkpointing=recomputes)).out
        for name, recomputes in (("kept", False), ("again", True))
    ]
    assert len({sha256_file(out / "model.safetensors") for out in outs}) == 1


def test_the_same_update_twice_gives_the_same_bytes_and_another_seed_another_order(ppo_config, ppo, tmp_path):
    again = execute(replace(ppo_config, out=tmp_path / "again"))
    assert again.id == sha256_file(ppo / "stage.json")
    other = execute(replace(ppo_config, out=tmp_path / "other", seed=6)).out
    assert sha256_file(other / "model.safetensors") != sha256_file(ppo / "model.safetensors")


def test_a_finished_update_is_not_done_again(ppo_config, ppo, monkeypatch):
    monkeypatch.setattr(ppo_step, "run", lambda config: pytest.fail("it was done again"))
    result = execute(ppo_config)
    assert result.out == ppo and result.metrics == metrics(ppo)


def test_an_update_names_the_ids_of_what_it_was_made_from(ppo, warm, turns):
    assert read_manifest(ppo).inputs == {
        "checkpoint": sha256_file(warm / "stage.json"),
        "rollouts": sha256_file(turns / "stage.json"),
    }


@pytest.fixture(scope="module")
def second(root, ppo, turns_config, ppo_config):
    """A second update after the first, with a schedule of four updates; its checkpoint."""
    turns = execute(replace(turns_config, out=root / "turns2", checkpoint=ppo, episodes=3, seed=1)).out
    return execute(replace(ppo_config, out=root / "ppo2", checkpoint=ppo, rollouts=turns, schedule_updates=4)).out


def test_the_optimisers_moments_continue_through_the_checkpoint(ppo, second):
    first, later = (load_file(path / "optimizer.safetensors") for path in (ppo, second))
    steps = [{float(value) for name, value in state.items() if name.startswith("step.")} for state in (first, later)]
    assert steps == [{len(log(ppo))}, {len(log(ppo)) + len(log(second))}]
    assert (int(first["updates"]), int(later["updates"])) == (1, 2)
    assert first.keys() == later.keys()
    # Two moments and a count for every tensor of the model and of the value head, and the number of updates.
    tensors = len(load_file(ppo / "model.safetensors")) + len(load_file(ppo / "value_head.safetensors"))
    assert len(first) == 3 * tensors + 1


def test_the_learning_rate_follows_the_number_of_updates_behind_the_checkpoint(ppo, second):
    # One of four updates done: half a cosine from 1e-4 to 1e-9, a quarter of the way.
    expected = 1e-9 + 0.5 * (1e-4 - 1e-9) * (1 + math.cos(math.pi / 4))
    assert metrics(second)["learning_rate"] == pytest.approx(expected, rel=1e-9)
    assert metrics(ppo)["learning_rate"] == 1e-4  # No schedule: constant.


def test_a_schedule_may_begin_at_a_later_update(root, ppo, second, ppo_config, tmp_path):
    """The first update of a schedule of four, though one of an earlier run is behind the checkpoint."""
    anew = replace(ppo_config, out=tmp_path / "x", checkpoint=ppo, rollouts=root / "turns2", schedule_updates=4, schedule_start=1)
    out = execute(anew).out
    assert metrics(out)["learning_rate"] == 1e-4
    assert int(load_file(out / "optimizer.safetensors")["updates"]) == 2
    assert "schedule_start" not in read_manifest(second).config and read_manifest(out).config["schedule_start"] == 1
    with pytest.raises(GtrTurboError, match=r"--schedule-start 3 counts more updates than are behind .*ppo: 1\."):
        execute(replace(anew, out=tmp_path / "y", schedule_start=3))


def test_the_value_head_goes_on_from_the_checkpoint(ppo, second):
    first, later = (load_file(path / "value_head.safetensors") for path in (ppo, second))
    moved = [np.abs(later[name] - first[name]).max() for name in first]
    # Two minibatches or so at 1e-4: it moved by small steps and did not start anew.
    assert 0 < max(moved) < 2e-3


def test_turns_of_another_checkpoint_are_refused_before_anything_is_loaded(ppo_config, init, tmp_path):
    with pytest.raises(GtrTurboError) as error:
        execute(replace(ppo_config, out=tmp_path / "x", checkpoint=init))
    played, given = (sha256_file(path / "stage.json")[:6] for path in (ppo_config.checkpoint, init))
    assert error.value.what == (f"the turns in {ppo_config.rollouts} were played by {played}, but --checkpoint is {given}.")
    assert error.value.fix.startswith("run: gtrturbo rollout --checkpoint")


def test_scores_of_other_turns_are_refused_with_the_command_that_makes_the_right_ones(ppo_config, turns_config, init, tmp_path):
    other = execute(replace(turns_config, out=tmp_path / "turns", episodes=1)).out
    wrong = execute(DistillConfig(out=tmp_path / "scores", rollouts=other, teacher=init)).out
    with pytest.raises(GtrTurboError) as error:
        execute(replace(ppo_config, out=tmp_path / "x", scores=wrong))
    made, given = (sha256_file(path / "stage.json")[:6] for path in (other, ppo_config.rollouts))
    assert error.value.what == f"scores were made for turns {made}, but --rollouts is {given}."
    assert error.value.fix.startswith(f"run: gtrturbo distill --rollouts {ppo_config.rollouts} --mode kl")
    assert not (tmp_path / "x").exists()


def test_turns_that_are_all_illegal_are_refused(init, ppo_config, turns_config, tmp_path):
    mute = execute(replace(turns_config, out=tmp_path / "mute", checkpoint=init, episodes=1, max_new_tokens=3)).out
    count = metrics(mute)["turns"]
    with pytest.raises(GtrTurboError) as error:
        execute(replace(ppo_config, out=tmp_path / "x", checkpoint=init, rollouts=mute))
    assert error.value.what == (
        f"every turn of {mute} is illegal ({count:.0f} of {count:.0f}): the policy does not follow the format."
    )
    assert error.value.fix == "warm it up with: gtrturbo sft …"
    assert not (tmp_path / "x").exists()


def test_a_loss_that_is_nan_stops_the_stage_and_nothing_is_written(ppo_config, monkeypatch, tmp_path):
    real, calls = module.clipped_policy_loss, []

    def breaks_in_the_second_minibatch(*args, **kwargs):
        calls.append(1)
        result = real(*args, **kwargs)
        return replace(result, loss=result.loss * math.nan) if len(calls) == 2 else result

    monkeypatch.setattr(module, "clipped_policy_loss", breaks_in_the_second_minibatch)
    with pytest.raises(GtrTurboError, match=r"(_loss|grad_norm) is nan at epoch 0, minibatch 1 \(turns \d+-\d+\)\.") as error:
        execute(replace(ppo_config, out=tmp_path / "x"))
    assert error.value.fix.startswith(f"nothing was written; inspect with: gtrturbo show {ppo_config.rollouts} --turn ")
    assert list(tmp_path.iterdir()) == []


def test_a_gradient_that_is_nan_stops_the_stage_too(ppo_config, monkeypatch, tmp_path):
    real = module.clipped_value_loss
    # Finite in value, not in gradient: the square root's slope at 0 is infinite, times 0 is nan.
    monkeypatch.setattr(
        module, "clipped_value_loss", lambda new, *args, **kwargs: real(new, *args, **kwargs) + 0.0 * (new * 0.0).abs().sqrt()
    )
    with pytest.raises(GtrTurboError, match=r"grad_norm is (nan|inf) at epoch 0, minibatch 0"):
        execute(replace(ppo_config, out=tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def demos(root, turns):
    return execute(DistillConfig(out=root / "demos", rollouts=turns, expert=True, mode="thoughts")).out


def test_demos_of_no_weight_leave_the_update_as_it_is(ppo_config, ppo, demos, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "x", demos=(demos,), demo_coef=0.0)).out
    assert sha256_file(out / "model.safetensors") == sha256_file(ppo / "model.safetensors")
    assert metrics(out)["demo_loss"] > 0 == metrics(ppo)["demo_loss"]


def test_demos_with_weight_become_likelier(ppo_config, demos, tmp_path):
    config = replace(ppo_config, demos=(demos,), demo_coef=1.0, learning_rate=1e-3, epochs=3)
    rows = log(execute(replace(config, out=tmp_path / "x")).out)
    assert rows[-1]["demo_loss"] < rows[0]["demo_loss"]


def test_an_adapters_update_leaves_its_base_bit_by_bit(lora_warm, lora, turns_config, ppo_config, tmp_path, monkeypatch):
    before = {path.name: sha256_file(path) for path in (lora / "base").iterdir()}
    config = RolloutConfig(**vars(replace(turns_config, out=tmp_path / "turns", checkpoint=lora_warm, episodes=2)))
    turns = execute(config).out
    # Three steps do not teach the format: pretend that some replies parsed, so that there is something to learn from.
    monkeypatch.setattr(ppo_step, "read_transcript", pretend_legal(ppo_step.read_transcript))
    out = execute(replace(ppo_config, out=tmp_path / "next", checkpoint=lora_warm, rollouts=turns, learning_rate=1e-3)).out
    assert {path.name: sha256_file(path) for path in (lora / "base").iterdir()} == before
    assert not (out / "model.safetensors").exists()
    old, new = (load_file(path / "adapter_model.safetensors") for path in (lora_warm, out))
    assert old.keys() == new.keys() and all(not np.array_equal(old[name], new[name]) for name in old)
    assert metrics(out)["first_ratio_error"] < 1e-6
    base = dict(load_policy(lora / "base", device="cpu").model.named_parameters())
    kept = {name.replace(".base_layer", ""): value for name, value in load_policy(out, device="cpu").model.named_parameters()}
    assert all(torch.equal(value, kept[f"base_model.model.{name}"]) for name, value in base.items())


def pretend_legal(read):
    def reading(*args):
        transcript = read(*args)
        turns = [replace(turn, legal=row % 2 == 0) for row, turn in enumerate(transcript.turns)]
        return replace(transcript, turns=turns)

    return reading


def test_detached_values_train_the_head_and_leave_the_model_to_the_policy_loss(ppo_config, tmp_path):
    settings = {"minibatch_size": 10_000, "max_grad_norm": 1e9}
    attached, detached, without = (
        execute(replace(ppo_config, out=tmp_path / name, **settings, **changed)).out
        for name, changed in (("a", {}), ("d", {"detach_value": True}), ("w", {"value_coef": 0.0}))
    )
    model = [sha256_file(path / "model.safetensors") for path in (attached, detached, without)]
    head = [sha256_file(path / "value_head.safetensors") for path in (attached, detached, without)]
    # A new head's last layer is 0, so its gradient reaches the model only from the second step on.
    assert head[0] == head[1] != head[2]
    assert model[1] == model[2]


def test_no_path_of_this_machine_is_in_the_manifest(ppo, root):
    assert str(root) not in (ppo / "stage.json").read_text()


def test_a_checkpoint_that_gives_nan_is_refused_with_a_message(ppo_config, monkeypatch, tmp_path):
    load = ppo_step.load_policy

    def broken(*args, **kwargs):
        policy = load(*args, **kwargs)
        with torch.no_grad():
            policy.model.get_input_embeddings().weight.fill_(math.nan)
        return policy

    monkeypatch.setattr(ppo_step, "load_policy", broken)
    with pytest.raises(GtrTurboError):
        execute(replace(ppo_config, out=tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_a_corrector_with_nothing_to_say_leaves_plain_ppo(ppo_config, ppo, tmp_path):
    silent = tmp_path / "silent"
    with writing(silent, Provenance(stage="distill", kind="demos", config={}, inputs={})) as draft:
        (draft.folder / "demos.jsonl").touch()
    guided = execute(replace(ppo_config, out=tmp_path / "guided", demos=(silent,))).out
    assert (guided / "model.safetensors").read_bytes() == (ppo / "model.safetensors").read_bytes()
