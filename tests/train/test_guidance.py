"""Guidance: the KL of a turn by hand, and estimators of the user's own."""

import math
from types import SimpleNamespace

import pytest
import torch

from gtrturbo.algorithms.kl import ESTIMATORS
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import Transcript
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.train.guidance import Guidance, StudentView, find_estimator


def turn_kl(p, q, counted, estimator):
    return Guidance(torch.tensor(q), torch.tensor(counted), ESTIMATORS[estimator]).kl(torch.tensor(p)).tolist()


def test_the_kl_of_two_thought_tokens_by_hand():
    # r = (0.5, 1.5, 100): thoughts average to 1, the action token does not count.
    assert turn_kl([[-1.0, -2.0, 0.0]], [[-1.5, -3.5, -100.0]], [[True, True, False]], "k1") == [1.0]


def test_tokens_are_clipped_before_they_are_averaged():
    # r = (−4, 2): clipped per token (0 + 2) / 2 = 1; clipping the mean −1 would give 0.
    assert turn_kl([[-5.0, -1.0]], [[-1.0, -3.0]], [[True, True]], "k1-clip") == [1.0]


def test_a_turn_without_thoughts_has_no_kl():
    assert turn_kl([[-1.0], [-1.0]], [[math.nan], [-3.0]], [[False], [True]], "k1") == [0.0, 2.0]


@pytest.fixture
def view():
    """Two turns of two tokens, of which the second of turn 1 does not count."""
    logprobs, teacher = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([[-2.0, -4.0], [-6.0, -8.0]])
    counted = torch.tensor([[True, True], [True, False]])
    transcript = Transcript([], TurnTokens([], [], [], [], [], []), [])
    return StudentView(SimpleNamespace(), transcript, logprobs, teacher, counted, temperature=0.9, tokens=100)


@pytest.fixture
def own(tmp_path):
    def write(body: str):
        (tmp_path / "mine.py").write_text(f"def kl(student):\n    {body}\n")
        return find_estimator(f"{tmp_path / 'mine.py'}:kl")

    return write


def test_an_estimator_of_the_users_own_is_averaged_over_what_counts(own, view):
    estimator = own("return 10 * (student.logprobs - student.teacher_logprobs)")
    kl, metrics = Guidance(view.teacher_logprobs, view.counted, estimator).measure(view, None)
    # Turn 0: (10 + 20) / 2; turn 1: 30, and the 40 does not count.
    assert kl.tolist() == [15.0, 30.0] and metrics == {"kl_mean": 22.5}


def test_an_error_inside_shows_the_users_own_line(own, view):
    with pytest.raises(GtrTurboError, match=r"mine.py line 2 raises AttributeError.*") as error:
        own("return student.logits")(view)
    assert "return student.logits" in error.value.fix


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return student.logprobs[0]", r"must give a tensor of shape \[2, 2\], got \[2\]"),
        ("return 0.0", "got float"),
        ("return student.logprobs / 0", "gives -inf at turn 0, token 0"),
    ],
)
def test_what_comes_back_is_checked(own, view, body, what):
    with pytest.raises(GtrTurboError, match=what):
        own(body)(view)


def test_what_does_not_count_may_be_anything(own, view):
    kl = own("return student.logprobs.masked_fill(~student.counted, float('nan'))")(view)
    assert Guidance(view.teacher_logprobs, view.counted, lambda _: kl).measure(view, None)[0].tolist() == [-1.5, -3.0]


def test_what_is_no_estimator_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("NUMBER = 3\n")
    with pytest.raises(GtrTurboError, match=r"mine\.py:NUMBER is a int, no KL estimator"):
        find_estimator(f"{tmp_path / 'mine.py'}:NUMBER")
