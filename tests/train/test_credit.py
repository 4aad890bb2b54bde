"""Credit by name: what is found, what it is given, and what is refused of what comes back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gtrturbo.algorithms.credit import CREDITS, Credit, Credited
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.train.credit import earned_by, find_credit

OWN = f"{Path(__file__).parent.parent / 'plugins' / 'mean_return_credit.py'}:CREDIT"


@pytest.fixture(scope="module")
def recorded(turns):
    return read_turns(turns)


def earned_from(turns, *, rewards=None, values=True, gamma=0.5):
    count = len(turns)
    rewards = torch.tensor([turn.reward for turn in turns]) if rewards is None else torch.tensor(rewards)
    zeros = torch.zeros(count) if values else None
    return earned_by(turns, rewards, values=zeros, bootstrap_values=zeros, gamma=gamma, gae_lambda=1.0)


def test_turns_without_a_group_are_grouped_by_episode(recorded):
    earned = earned_from(recorded)
    assert earned.groups.tolist() == earned.episodes.tolist() == [turn.episode for turn in recorded]
    assert earned.turns.tolist() == [turn.turn for turn in recorded]


def test_a_group_of_a_number_is_not_the_episode_of_that_number(recorded):
    # Episodes 0 and 2 are group 1; episode 1, without a group, is none of theirs.
    grouped = [replace(turn, group=1) if turn.episode in (0, 2) else turn for turn in recorded if turn.episode < 3]
    groups = {turn.episode: number for turn, number in zip(grouped, earned_from(grouped).groups.tolist(), strict=True)}
    assert groups == {0: 0, 1: 1, 2: 0}


def test_a_state_is_what_was_shown_and_not_what_was_replied(recorded):
    first, other = recorded[0], recorded[1]
    question, reply = first.messages
    said = replace(first, messages=[question, {**reply, "content": [{"type": "text", "text": "something else"}]}])
    elsewhere = replace(first, images=["images/other.png"])
    asked = replace(first, messages=[{**question, "content": [{"type": "text", "text": "?"}]}, reply])
    states = earned_from([first, said, elsewhere, asked, replace(other, terminated=True)]).states
    assert states[0] == states[1] and len(set(states)) == 4


def test_the_mean_return_credit_by_hand(recorded):
    # γ 0.5. Returns: episode 0: 1 + 0.5·2 = 2; episode 1: 4; episode 2: 1 + 0.5·2 + 0.25·8 = 4. Group of 0 and 2: mean 3.
    turn = recorded[0]
    places = [(0, 0, 5), (0, 1, 5), (1, 0, None), (2, 0, 5), (2, 1, 5), (2, 2, 5)]
    turns = [replace(turn, episode=episode, turn=number, group=group) for episode, number, group in places]
    credit = find_credit(OWN)
    credited = credit.assign(earned_from(turns, rewards=[1.0, 2.0, 4.0, 1.0, 2.0, 8.0], values=False))
    assert credited.advantages.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0, 1.0]
    assert credited.value_targets is None and not credit.needs_values


def test_an_unknown_credit_lists_what_is_built_in():
    with pytest.raises(GtrTurboError, match="there is no credit 'gaee'") as error:
        find_credit("gaee")
    assert "did you mean gae?" in error.value.fix


def test_what_is_no_credit_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("NUMBER = 3\n")
    with pytest.raises(GtrTurboError, match=r"mine\.py:NUMBER is a int, not a credit"):
        find_credit(f"{tmp_path / 'mine.py'}:NUMBER")


def test_a_bare_function_is_given_values(tmp_path, recorded):
    file = tmp_path / "mine.py"
    file.write_text(
        "from gtrturbo.algorithms.credit import Credited\n"
        "def own(earned):\n    return Credited(earned.rewards - earned.values, earned.rewards)\n"
    )
    credit = find_credit(f"{file}:own")
    assert credit.needs_values
    assert credit.assign(earned_from(recorded)).value_targets.tolist() == [turn.reward for turn in recorded]


def test_an_error_inside_shows_the_users_own_line(tmp_path, recorded):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef own(earned):\n    return torch.stack(earned.states)\n")
    with pytest.raises(GtrTurboError, match=r"credit .*mine.py:own fails: .*mine.py line 3 raises TypeError") as error:
        find_credit(f"{file}:own").assign(earned_from(recorded))
    assert "return torch.stack(earned.states)" in error.value.fix


N = 3


@pytest.mark.parametrize(
    ("returned", "needs_values", "what"),
    [
        (lambda n: torch.zeros(n), True, "returns a Tensor"),
        (lambda n: Credited(torch.zeros(n)), True, "returns no value targets, but needs values"),
        (lambda n: Credited(torch.zeros(n), torch.zeros(n)), False, "returns value targets, but does not need values"),
        (lambda n: Credited(torch.zeros(n + 1), torch.zeros(n)), True, r"advantages must be a tensor of shape \[3\].*got \[4\]"),
        (lambda n: Credited(torch.zeros(n), torch.zeros(n, 1)), True, r"value_targets must be .* got \[3, 1\]"),
        (lambda n: Credited([0.0] * n, torch.zeros(n)), True, "advantages must be .* got list"),
        (lambda n: Credited(torch.tensor([0.0, float("nan"), 1.0]), torch.zeros(n)), True, "advantages is nan at turn 1"),
        (lambda n: Credited(torch.zeros(n), torch.tensor([0.0, 1.0, float("inf")])), True, "value_targets is inf at turn 2"),
    ],
)
def test_what_comes_back_is_checked(recorded, monkeypatch, returned, needs_values, what):
    monkeypatch.setitem(CREDITS, "odd", Credit(lambda earned: returned(N), needs_values=needs_values))
    with pytest.raises(GtrTurboError, match=f"credit odd:? .*{what}|credit odd: {what}"):
        find_credit("odd").assign(earned_from([replace(turn, terminated=True) for turn in recorded[:N]]))


def test_numbers_of_another_type_and_with_gradients_are_taken(recorded, monkeypatch):
    found = torch.arange(N, dtype=torch.float64, requires_grad=True)
    monkeypatch.setitem(CREDITS, "odd", Credit(lambda earned: Credited(found), needs_values=False))
    advantages = find_credit("odd").assign(earned_from(recorded[:N], values=False)).advantages
    assert advantages.dtype == torch.float32 and not advantages.requires_grad
