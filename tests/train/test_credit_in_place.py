"""A credit or a KL estimator that works in place changes what it was given, and nothing that the update is made of."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gtrturbo.algorithms.credit import Earned, guided_credit
from gtrturbo.play.recording import Transcript
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.train.credit import find_credit
from gtrturbo.train.guidance import Guidance, StudentView, find_estimator

SPOIL = """
from dataclasses import fields

import torch
from gtrturbo.algorithms.credit import Credit, Credited


def spoil(given):
    for field in fields(given):
        each = getattr(given, field.name)
        if isinstance(each, torch.Tensor):
            each.fill_(1)
        elif isinstance(each, list):
            each[:] = ["spoilt"]
"""


@pytest.fixture
def written(tmp_path):
    def write(code: str, name: str) -> str:
        (tmp_path / "mine.py").write_text(SPOIL + code)
        return f"{tmp_path / 'mine.py'}:{name}"

    return write


@pytest.fixture
def earned() -> Earned:
    """One episode of two turns, with replies of one token and of two."""
    two, token_values = torch.tensor([2.0, -3.0]), torch.tensor([[2.0, 0.0], [-3.0, 5.0]])
    ends, numbers = torch.tensor([False, True]), torch.tensor([0, 2])
    return Earned(
        rewards=two.clone(), values=token_values[:, 0], terminated=ends.clone(), truncated=~ends, bootstrap_values=two.clone(),
        episodes=numbers.clone(), groups=numbers.clone(), turns=numbers.clone(), states=["a", "b"], gamma=0.5, gae_lambda=0.5,
        token_values=token_values, replies=torch.tensor([[True, False], [True, True]]),
    )  # fmt: skip


def columns(earned: Earned) -> dict:
    found = {field.name: getattr(earned, field.name) for field in fields(Earned)}
    return {name: each.tolist() if isinstance(each, torch.Tensor) else each for name, each in found.items()}


def test_a_credit_that_works_in_place_leaves_what_was_earned_as_it_was(written, earned):
    code = "def assign(earned):\n    spoil(earned)\n    return Credited(earned.rewards, earned.values)\n"
    before = columns(replace(earned, states=[*earned.states]))
    credited = find_credit(written(code, "assign")).assign(earned)
    assert columns(earned) == before and credited.advantages.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("placement", ["reward", "advantage", "return"])
def test_values_that_a_credit_changes_in_place_are_still_those_that_the_value_loss_clips_around(written, earned, placement):
    code = """
def assign(earned):
    targets = earned.token_values.neg_().add_(9)
    return Credited(targets - earned.token_values, targets)

CREDIT = Credit(assign, per_token=True)
"""
    old_values, kl = earned.token_values, torch.zeros(2)
    credited = guided_credit(earned, kl, assign=find_credit(written(code, "CREDIT")).assign, beta=1.0, placement=placement)
    assert old_values.tolist() == [[2.0, 0.0], [-3.0, 5.0]]
    assert credited.value_targets.tolist() == [[7.0, 9.0], [12.0, 4.0]]


def test_an_estimator_that_works_in_place_leaves_log_probs_and_tokens_as_they_were(written):
    code = """
def estimate(student):
    kl = student.logprobs.sub_(student.teacher_logprobs)
    student.teacher_logprobs.zero_()
    student.counted.fill_(False)
    student.transcript.turns.clear()
    for each in student.transcript.tokens.response_ids:
        each += 1
    return kl.clone()
"""
    logprobs, teacher = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -4.0]])
    ids = np.array([4, 5], np.int32)
    transcript = Transcript([SimpleNamespace()], TurnTokens([], [ids], [], [], [], []), [])
    counted = torch.tensor([[True, False]])
    view = StudentView(SimpleNamespace(), transcript, logprobs, teacher, counted, temperature=1.0, tokens=9)
    guidance = Guidance(teacher, counted, find_estimator(written(code, "estimate")))
    # Of two tokens, whose KL is 1 and 2, the first counts.
    assert guidance.measure(view, None)[0].tolist() == [1.0]
    assert logprobs.tolist() == [[-1.0, -2.0]] and teacher.tolist() == [[-2.0, -4.0]] and counted.tolist() == [[True, False]]
    assert ids.tolist() == [4, 5] and len(transcript.turns) == 1
