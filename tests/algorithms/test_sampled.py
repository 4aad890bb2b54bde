"""The test of samples: against sums by hand, how often right samples are refused, and what wrong ones are found."""

import math

import numpy as np
import pytest
import torch

from gtrturbo.algorithms.sampled import TEMPERED, TILTED, TOO_MUCH, drawn, draws_reader, evidence_against


def read(logits, ids):
    return draws_reader(torch.tensor(ids))(torch.tensor(logits), slice(0, len(ids)))[0]


def test_what_is_read_is_what_loops_over_the_vocabulary_give():
    rng = np.random.default_rng(0)
    logits, ids = rng.normal(0, 2, (5, 7)), [0, 6, 3, 3, 1]
    logits[:, 5] = -np.inf  # A forbidden token.
    found = read(logits, ids)
    for row, token in enumerate(ids):
        weights = [math.exp(value) for value in logits[row]]
        p = [weight / sum(weights) for weight in weights]
        entropy = -sum(each * math.log(each) for each in p if each)
        variance = sum(each * (math.log(each) + entropy) ** 2 for each in p if each)
        expected = [math.log(p[token]) + entropy, variance]
        for power in TEMPERED:
            total = sum(each ** (1 + power) for each in p if each)
            expected.append(math.log(p[token] ** (1 + power) / total / p[token]))
        likeliest = max(range(7), key=p.__getitem__)
        expected.append(math.log((15 / 16 * (token == likeliest) + p[token] / 16) / p[token]))
        places = [sum(p[:place]) + p[place] / 2 - 0.5 for place in range(7)]
        for tilt in TILTED:
            tilted = [each * math.exp(tilt * place) for each, place in zip(p, places, strict=True)]
            expected.append(math.log(tilted[token] / sum(tilted) / p[token]))
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_each_ratio_has_mean_one_and_the_score_mean_zero_with_its_variance():
    """Summed over all tokens of a distribution, weighted by their probabilities."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1)) * 3
    p = logits.softmax(-1)[0].double()
    found = read(logits.expand(50, 50).tolist(), list(range(50))).double()
    assert (p[:, None] * found[:, 2:].exp()).sum(0).tolist() == pytest.approx([1.0] * (len(TEMPERED) + 1 + len(TILTED)), abs=1e-5)
    assert (p * found[:, 0]).sum().item() == pytest.approx(0, abs=1e-5)
    assert (p * found[:, 0].square()).sum().item() == pytest.approx(found[0, 1].item(), rel=1e-4)


def test_evidence_by_hand():
    # Two tokens, two alternatives: likelihood ratios 2 · 3 and ½ · 1; their mean is 3.25.
    ratios = torch.tensor([[2.0, 0.5], [3.0, 1.0]]).log()
    assert evidence_against(ratios) == pytest.approx(math.log(3.25))


def test_what_rounds_otherwise_is_judged_by_what_it_told_where_that_is_milder():
    found, logprobs = torch.tensor([[0.0, 1.0, 0.7]]), torch.tensor([-1.0])
    assert drawn(found, logprobs).evidence == pytest.approx(0.7)
    assert drawn(found, logprobs, told=torch.tensor([-0.5])).evidence == pytest.approx(0.2)
    assert drawn(found, logprobs, told=torch.tensor([-1.5])).evidence == pytest.approx(0.7)


def test_tokens_that_are_certain_say_nothing():
    found = drawn(read([[0.0, -np.inf]] * 3, [0, 0, 0]), torch.zeros(3))
    assert (found.z, found.evidence) == (0.0, pytest.approx(0.0, abs=1e-6))


def replies(count, tokens, *, sharp, choose, seed):
    """Play `count` lots of tokens, each from distributions of its own of 40 tokens; return z and evidence of each lot."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, sharp, (count * tokens, 40))).float()
    ids = torch.from_numpy(choose(logits.softmax(-1).double().numpy(), rng.random(count * tokens)))
    rows = draws_reader(ids)(logits, slice(0, len(ids)))[0]
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    lots = zip(rows.split(tokens), logprobs.split(tokens), strict=True)
    return [drawn(row, logprob) for row, logprob in lots]


def sampled(p, u):
    return np.minimum((p.cumsum(1) < u[:, None]).sum(1), 39)


def narrow(p, u):
    """The last tenth of the cumulative distribution, by ids, is never drawn."""
    return sampled(p, 0.9 * u)


def top_p(p, u):
    """Draw of the likeliest tokens that have nine tenths between them."""
    order = np.argsort(-p, axis=1)
    ranked = np.take_along_axis(p, order, 1)
    ranked = np.where(ranked.cumsum(1) - ranked < 0.9, ranked, 0)
    return np.take_along_axis(order, sampled(ranked / ranked.sum(1, keepdims=True), u)[:, None], 1)[:, 0]


def greedy(p, _):
    return p.argmax(1)


def hotter(p, u):
    tempered = p ** (1 / 1.3)
    return sampled(tempered / tempered.sum(1, keepdims=True), u)


@pytest.mark.parametrize("sharp", [1.0, 4.0, 12.0])  # of the last nearly every token is certain
@pytest.mark.parametrize("tokens", [8, 400])
def test_right_samples_are_not_refused_and_reach_evidence_no_more_often_than_the_bound_says(sharp, tokens):
    found = np.array([each.evidence for each in replies(400, tokens, sharp=sharp, choose=sampled, seed=2)])
    assert found.max() < TOO_MUCH
    # P(evidence ≥ ln 20) ≤ 1/20: of 400 at most 20 in the mean, and 40 with four standard deviations.
    assert (found >= math.log(20)).sum() <= 40


def test_z_of_right_samples_is_standard_where_the_tokens_are_many():
    z = np.array([each.z for each in replies(400, 400, sharp=2.0, choose=sampled, seed=3)])
    assert abs(z.mean()) < 4 / math.sqrt(400) and abs(z.std() - 1) < 4 / math.sqrt(2 * 400)


@pytest.mark.parametrize(
    ("choose", "tokens", "sign"), [(greedy, 40, 1), (top_p, 1500, 1), (narrow, 3000, 0), (hotter, 1200, -1), (sampled, 3000, 0)]
)
def test_what_is_not_sampled_so_is_found(choose, tokens, sign):
    found = replies(20, tokens, sharp=2.0, choose=choose, seed=4)
    assert all((each.evidence > TOO_MUCH) == (choose is not sampled) for each in found)
    assert all(each.z * sign > 5 for each in found) or not sign


def test_a_sampler_that_computes_more_coarsely_is_believed_if_it_tells_its_log_probs():
    """Weights in few bits: log-probs that are off by 0.05 nats in a way that hangs together, over many tokens."""
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.normal(0, 2, (60_000, 40))).float()
    theirs = logits * 1.06
    ids = torch.from_numpy(sampled(theirs.softmax(-1).double().numpy(), rng.random(len(logits))))
    rows = draws_reader(ids)(logits, slice(0, len(ids)))[0]
    own, told = (each.log_softmax(-1).gather(-1, ids[:, None])[:, 0] for each in (logits, theirs))
    assert drawn(rows, own).evidence > TOO_MUCH
    assert drawn(rows, own, told).evidence < TOO_MUCH
