"""The KL as a loss, and over whole distributions: value and gradient are those of the formula, and where it counts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from updates import gradients_of, prepare

from gtrturbo.algorithms.kl import ESTIMATORS, exact_reverse_kl
from gtrturbo.config import DistillConfig, PpoStepConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import budget
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import read_transcript
from gtrturbo.runs.plan import plan
from gtrturbo.stages import execute
from gtrturbo.store.tensors import load_scores, load_top_logprobs
from gtrturbo.train.guidance import read_guidance

TEMPERATURE = 0.9
ROWS = [0, 3, 5, 6, 9]


@pytest.fixture(scope="module")
def critic(warm):
    policy = load_policy(warm, device="cpu", trainable=True)
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    return policy


@pytest.fixture(scope="module")
def transcript(critic, turns):
    return read_transcript(turns, critic.renderer)


@pytest.fixture
def loss_config(ppo_config, scores) -> PpoStepConfig:
    """Passes of about two turns, so that means over a minibatch are put together of several."""
    return replace(ppo_config, scores=scores, kl_placement="loss", kl_estimator="k2", kl_coef=0.7, micro_batch_tokens="400")


def minibatch(config, critic, transcript, rows=ROWS):
    """Return the losses of one minibatch and the gradient that it adds, by name."""
    critic.model.zero_grad()
    losses = gradients_of(config, critic, transcript, list(rows))
    return losses, {name: parameter.grad.clone() for name, parameter in critic.parameters() if parameter.grad is not None}


def of_the_kl(config, critic, transcript):
    """Return the gradient that the KL adds to that of PPO alone."""
    _, guided = minibatch(config, critic, transcript)
    _, alone = minibatch(replace(config, scores=None), critic, transcript)
    return {name: gradient - alone[name] for name, gradient in guided.items()}


def logits_of(policy, prompt, ids):
    """Return the model's logits at temperature, [R, V], by a pass of its own through the whole sequence."""
    inputs, tail = dict(prompt.tensors), torch.from_numpy(ids.astype(np.int64))[None]
    for name, value in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
        inputs[name] = torch.cat([inputs[name], value], dim=1)
    logits = policy.model(**inputs).logits[0, len(prompt.ids) - 1 : -1] / TEMPERATURE
    return logits.index_fill(-1, policy.forbidden, -torch.inf)


def assert_same_gradient(found, policy, loss):
    policy.model.zero_grad()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in policy.parameters() if parameter.grad is not None}
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3 and found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() < 1e-4 * largest, name


def test_the_gradient_of_k2_is_the_log_ratio_times_that_of_the_log_prob(loss_config, critic, transcript, scores):
    found = of_the_kl(loss_config, critic, transcript)
    teacher, total = load_scores(scores / "scores.safetensors"), torch.zeros(())
    for row in ROWS:
        ids, thought = transcript.tokens.response_ids[row], torch.from_numpy(transcript.tokens.thought_mask[row])
        logits = logits_of(critic, transcript.prompts[row], ids)
        logprobs = logits.log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(ids.astype(np.int64))]
        log_ratio = (logprobs - torch.from_numpy(teacher[row])).detach()
        total = total + (log_ratio * logprobs)[thought].mean()
    assert_same_gradient(found, critic, 0.7 * total / len(ROWS))


def test_the_loss_is_the_mean_over_turns_of_the_mean_over_thought_tokens(loss_config, critic, transcript, scores):
    losses, _ = minibatch(loss_config, critic, transcript)
    teacher, tokens = load_scores(scores / "scores.safetensors"), transcript.tokens
    # The sampler's log-probs are the trainer's up to rounding. β is no part of what is logged.
    means = [((tokens.sample_logprobs[row] - teacher[row]) ** 2 / 2)[tokens.thought_mask[row]].mean() for row in ROWS]
    assert losses["kl_loss"] == pytest.approx(np.mean(means), rel=1e-3)


def test_as_a_loss_the_kl_of_the_reply_has_the_actions_too(loss_config, critic, transcript, scores):
    losses, _ = minibatch(replace(loss_config, kl_tokens="reply"), critic, transcript)
    teacher, tokens = load_scores(scores / "scores.safetensors"), transcript.tokens
    means = [((tokens.sample_logprobs[row] - teacher[row]) ** 2 / 2).mean() for row in ROWS]
    assert losses["kl_loss"] == pytest.approx(np.mean(means), rel=1e-3)


def test_as_a_loss_the_kl_is_in_no_reward(loss_config, critic, transcript):
    guided, measured = prepare(loss_config, critic, transcript)
    plain, _ = prepare(replace(loss_config, scores=None), critic, transcript)
    assert torch.equal(guided.value_targets, plain.value_targets) and torch.equal(guided.advantages, plain.advantages)
    assert measured["kl_mean"] > 0.1


def test_a_heavy_kl_loss_brings_the_student_to_its_teacher(loss_config, tmp_path):
    config = replace(loss_config, out=tmp_path / "next", kl_coef=20.0, epochs=4, learning_rate=1e-3, micro_batch_tokens="auto")
    out = execute(config).out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kl_loss"] < 0.75 * rows[0]["kl_loss"]


def test_a_kl_without_scores_is_refused(ppo_config, tmp_path):
    with pytest.raises(GtrTurboError, match="--kl-estimator has no part in an update without --scores"):
        execute(replace(ppo_config, out=tmp_path / "next", kl_placement="loss", kl_estimator="k2"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def full_scores(root, init, turns):
    """The untrained model's whole distributions, of 573 tokens less the forbidden ones."""
    return execute(DistillConfig(out=root / "full", rollouts=turns, teacher=init, top_logprobs=1000)).out


@pytest.fixture(scope="module")
def top_scores(root, init, turns):
    return execute(DistillConfig(out=root / "top", rollouts=turns, teacher=init, top_logprobs=5)).out


@pytest.fixture(scope="module")
def teacher(init):
    return load_policy(init, device="cpu")


def exact_kl(critic, teacher, transcript, row):
    """The KL per token over the vocabulary, from a pass of each model of its own. [R]"""
    prompt, ids = transcript.prompts[row], transcript.tokens.response_ids[row]
    with torch.no_grad():
        told = logits_of(teacher, prompt, ids)
    return exact_reverse_kl(logits_of(critic, prompt, ids)[None], told[None])[0]


def bucketed_kl(critic, teacher, transcript, row, count):
    """The same over the teacher's most likely tokens and the rest as one, in numpy. [R]"""
    prompt, ids = transcript.prompts[row], transcript.tokens.response_ids[row]
    with torch.no_grad():
        p, q = (logits_of(policy, prompt, ids).double().softmax(-1).numpy() for policy in (critic, teacher))
    order = np.argsort(-q, axis=-1)[:, :count]
    tops = [np.take_along_axis(shares, order, -1) for shares in (p, q)]
    p, q = (np.concatenate([top, 1 - top.sum(-1, keepdims=True)], -1) for top in tops)
    return (p * np.log(p / q)).sum(-1)


def test_scores_hold_the_teachers_most_likely_tokens_in_order(top_scores, scores, teacher, transcript):
    top = load_top_logprobs(top_scores / "scores.safetensors")
    assert all(map(np.array_equal, load_scores(top_scores / "scores.safetensors"), load_scores(scores / "scores.safetensors")))
    for row in (0, 7):
        ids = transcript.tokens.response_ids[row]
        with torch.no_grad():
            shares = logits_of(teacher, transcript.prompts[row], ids).double().softmax(-1).numpy()
        order = np.argsort(-shares, axis=-1)[:, :5]
        assert top.ids[row].dtype == np.int32 and top.ids[row].shape == (len(ids), 5)
        assert np.array_equal(top.ids[row], order)
        np.testing.assert_allclose(np.exp(top.logprobs[row]), np.take_along_axis(shares, order, -1), atol=1e-5)
        np.testing.assert_allclose(np.exp(top.rest[row]), 1 - np.take_along_axis(shares, order, -1).sum(-1), atol=1e-5)


def test_more_than_the_vocabulary_is_all_of_it(full_scores, teacher):
    top = load_top_logprobs(full_scores / "scores.safetensors")
    possible = 573 - len(teacher.forbidden)
    assert {ids.shape[1] for ids in top.ids} == {possible}
    assert all((rest == -np.inf).all() for rest in top.rest)


@pytest.mark.parametrize("placement", ["reward", "return", "loss"])
def test_over_the_vocabulary_each_turn_has_the_exact_kl_of_its_thought(
    loss_config, critic, teacher, transcript, full_scores, placement
):
    config = replace(loss_config, scores=full_scores, kl_estimator="full", kl_placement=placement)
    guided, measured = prepare(config, critic, transcript)
    with torch.no_grad():
        kl = [
            exact_kl(critic, teacher, transcript, row)[torch.from_numpy(thought)].mean().item()
            for row, thought in enumerate(transcript.tokens.thought_mask)
        ]
    assert measured["kl_mean"] == pytest.approx(np.mean(kl), rel=1e-4)
    if placement == "return":
        plain, _ = prepare(replace(config, scores=None), critic, transcript)
        assert (plain.value_targets - guided.value_targets).tolist() == pytest.approx([0.7 * value for value in kl], abs=1e-3)


def test_over_five_tokens_and_the_rest_the_kl_is_the_one_of_six_buckets(loss_config, critic, teacher, transcript, top_scores):
    losses, _ = minibatch(replace(loss_config, scores=top_scores, kl_estimator="full"), critic, transcript)
    masks = transcript.tokens.thought_mask
    kl = [bucketed_kl(critic, teacher, transcript, row, 5)[masks[row]].mean() for row in ROWS]
    assert losses["kl_loss"] == pytest.approx(np.mean(kl), rel=1e-3)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_gradient_over_the_vocabulary_is_that_of_the_exact_kl(
    loss_config, critic, teacher, transcript, full_scores, chunked, monkeypatch
):
    config = replace(loss_config, scores=full_scores, kl_estimator="full")
    if chunked:
        monkeypatch.setattr(budget, "LARGE_VOCABULARY", 1)
    found = of_the_kl(config, critic, transcript)
    masks = transcript.tokens.thought_mask
    kl = [exact_kl(critic, teacher, transcript, row)[torch.from_numpy(masks[row])].mean() for row in ROWS]
    assert_same_gradient(found, critic, 0.7 * torch.stack(kl).mean())


def test_the_students_own_distributions_are_no_guidance(loss_config, critic, transcript, warm, turns, tmp_path):
    own = execute(DistillConfig(out=tmp_path / "own", rollouts=turns, teacher=warm, top_logprobs=3)).out
    losses, _ = minibatch(replace(loss_config, scores=own, kl_estimator="full"), critic, transcript)
    assert abs(losses["kl_loss"]) < 1e-6


def test_scores_without_distributions_name_the_command_that_makes_them(loss_config, tmp_path):
    with pytest.raises(GtrTurboError, match=r"needs the teacher's most likely tokens, and .*scores has none") as error:
        execute(replace(loss_config, out=tmp_path / "x", kl_estimator="full"))
    assert error.value.fix.startswith(f"run: gtrturbo distill --rollouts {loss_config.rollouts} --mode kl --top-logprobs 64")


def test_a_teacher_of_more_tokens_than_the_student_is_refused(top_scores):
    mask = torch.ones(1, 1, dtype=torch.bool)
    lengths = [len(row) for row in load_scores(top_scores / "scores.safetensors")]
    with pytest.raises(GtrTurboError, match="not all among the student's 4"):
        read_guidance(
            top_scores, lengths=lengths, thought=torch.ones(100, 100).bool(), action=mask, tokens="thought",
            estimator=ESTIMATORS["full"], vocabulary=4,
        )  # fmt: skip


def test_a_run_whose_distill_keeps_no_distributions_is_refused_before_it_starts(tmp_path):
    full = "ppo-step.kl-estimator=full"
    with pytest.raises(GtrTurboError, match="distill keeps none") as error:
        plan(RunConfig(out=tmp_path / "r", method="turbo-kl", set=(full,)))
    assert error.value.fix == "add: --set distill.top-logprobs=64"
    plan(RunConfig(out=tmp_path / "r", method="turbo-kl", set=(full, "distill.top-logprobs=8")))
    with pytest.raises(GtrTurboError, match="has no part in an update without --scores"):
        plan(RunConfig(out=tmp_path / "r", set=(full,), method="turbo-sft"))
    assert list(tmp_path.iterdir()) == []


def test_thoughts_have_no_distributions(turns, init, tmp_path):
    with pytest.raises(GtrTurboError, match="--top-logprobs is for --mode kl"):
        execute(DistillConfig(out=tmp_path / "d", rollouts=turns, teacher=init, mode="thoughts", top_logprobs=3))


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        ("k1", "its expected gradient is 0"),
        ("k1-clip", "is 0 where the teacher likes a token better"),
        ("abs", "the same however far apart the two are"),
        ("k3", "that of the forward KL"),
    ],
)
def test_an_estimator_that_is_no_loss_is_refused_before_anything_runs(ppo_config, scores, estimator, why, tmp_path):
    with pytest.raises(GtrTurboError, match=f"{estimator} is no loss: .*{why}") as error:
        execute(replace(ppo_config, out=tmp_path / "x", scores=scores, kl_placement="loss", kl_estimator=estimator))
    assert list(tmp_path.iterdir()) == []
    assert "--kl-estimator k2" in error.value.fix
    with pytest.raises(GtrTurboError, match="is no loss"):
        settings = ("ppo-step.kl-placement=loss", f"ppo-step.kl-estimator={estimator}")
        plan(RunConfig(out=ppo_config.out, set=settings))


def test_an_unknown_estimator_is_refused_before_anything_runs(ppo_config, scores, tmp_path):
    with pytest.raises(GtrTurboError, match="there is no KL estimator 'k4'") as error:
        execute(replace(ppo_config, out=tmp_path / "x", scores=scores, kl_estimator="k4"))
    assert "built in: k1-clip, k1, abs, k2, k3, full" in error.value.fix and list(tmp_path.iterdir()) == []
    with pytest.raises(GtrTurboError, match="there is no KL estimator 'k4'"):
        plan(RunConfig(out=tmp_path / "r", set=("ppo-step.kl-estimator=k4",)))


def test_the_reasons_hold_for_a_categorical():
    # Expected gradients E_p[k'(r) ∇log p] over the logits of a small distribution, by automatic differentiation.
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    q = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64).log()

    def gradient(of):
        logits = p.log().requires_grad_()
        return torch.autograd.grad(of(logits.log_softmax(-1)), logits)[0]

    reverse = gradient(lambda log_p: (log_p.exp() * (log_p - q)).sum())
    forward = gradient(lambda log_p: (q.exp() * (q - log_p)).sum())
    k1, k2, k3 = (
        gradient(lambda log_p, k=k: (p * k(log_p - q)).sum())
        for k in (lambda r: r, lambda r: r.square() / 2, lambda r: torch.expm1(-r) + r)
    )
    assert k1.abs().max() < 1e-12
    torch.testing.assert_close(k2, reverse, atol=1e-12, rtol=0)
    torch.testing.assert_close(k3, forward, atol=1e-12, rtol=0)
