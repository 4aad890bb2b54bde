"""What the expert of the formula games says is true: of the signs that its family has, and under the rule that judges."""

import json
from itertools import product
from operator import mul

import pytest

from gtrturbo.tasks.loading import load_task

JOINED = ["HA", "S2", "DA", "C2"]  # 12 + 12 is 24, and with signs between the largest is (1 + 2) * (1 + 2), which is 9.


def advised(*options: str, cards: list[str], items: str = "") -> tuple[str, str]:
    """Return what the expert says after items were played, its thoughts and its action."""
    task = load_task("points24", ["image=tiny", *options])
    _, info = (env := task.make()).reset(seed=0, options={"cards": cards})
    for item in items.split():
        *_, info = env.step(task.actions.index(item))
    reply = json.loads(task.expert_reply(info))
    return reply["thoughts"], reply["action"]


def test_the_expert_of_signs_only_adds_and_subtracts_and_wins_what_is_won_that_way():
    task = load_task("points24", ["image=tiny", "family=signs"])
    env, outcomes = task.make(), []
    for seed in range(60):
        _, info = env.reset(seed=seed)
        can = any(sum(map(mul, info["Numbers"], signs)) == 24 for signs in product((1, -1), repeat=4))
        ended, said = False, ""
        while not ended:
            reply = json.loads(task.expert_reply(info))
            said = reply["thoughts"]
            _, _, ended, _, info = env.step(task.actions.index(reply["action"]))
        assert info["won"] is can and not set(info["Formula"]) & {"*", "/"}
        assert can or said == "no formula with + and - alone makes 24 from here so end with ="
        outcomes.append(can)
    assert 0 < sum(outcomes) < 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no formula makes 24 from here so end with ="),
        (("family=signs",), "no formula with + and - alone makes 24 from here so end with ="),
        (("family=sums",), "no formula makes 24 from here so end with ="),
        (("arithmetic=original",), "no formula without joined digits or signs makes 24 from here so end with ="),
    ],
)
def test_a_hand_is_given_up_in_words_that_are_true(options, said):
    assert advised(*options, cards=JOINED) == (said, "=")


def test_what_the_expert_gives_up_under_the_original_rules_is_won_by_joining_digits():
    task = load_task("points24", ["image=tiny", "arithmetic=original"])
    env = task.make()
    env.reset(seed=0, options={"cards": JOINED})
    steps = [env.step(task.actions.index(item)) for item in ["1", "2", "+", "1", "2", "="]]
    assert steps[-1][-1]["won"]


def test_a_formula_that_rounding_spoils_is_no_way_under_the_original_rules():
    # 8 / (3 - 8 / 3) is 24, and 23.999999999999989 in floats.
    assert advised(cards=["H3", "S3", "H8", "S8"])[0] == "8 / ( 3 - 8 / 3 ) is 24 so the next item is 8"
    assert "without joined" in advised("arithmetic=original", cards=["H3", "S3", "H8", "S8"])[0]
