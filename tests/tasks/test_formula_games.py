"""EZPoints and Points24 event by event."""

import json
from collections import Counter
from itertools import combinations_with_replacement, permutations, product
from operator import mul

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.loading import load_task

FOUR = ["HA", "S2", "DA", "C2"]  # values 1, 2, 1, 2


def dealt(name: str, cards: list[str], *options: str):
    task = load_task(name, ["image=tiny", *options])
    env = task.make()
    env.reset(seed=0, options={"cards": cards})
    return env, lambda text: [env.step(task.actions.index(item)) for item in text.split()]


def test_action_numbers_are_the_originals():
    assert load_task("points24").actions == (*map(str, range(1, 11)), "+", "-", "*", "/", "(", ")", "=")
    assert load_task("ezpoints").actions == (*map(str, range(1, 11)), "+", "*", "=")
    assert len(load_task("points24", ["face_cards_as_10=false"]).actions) == 20


def test_items_cost_nothing_and_are_appended():
    _, play = dealt("points24", ["H8", "S3", "D8", "C3"])
    _, reward, terminated, truncated, info = play("8 / ( )")[-1]
    assert (reward, terminated, truncated, info["Formula"]) == (0, False, False, ["8", "/", "(", ")"])


def test_an_illegal_number_costs_one_leaves_a_blank_and_goes_on():
    _, play = dealt("points24", FOUR)
    steps = play("7 1 1 1")
    assert [step[1] for step in steps] == [-1, 0, 0, -1]
    assert not any(step[2] or step[3] for step in steps)
    assert steps[-1][4]["Formula"] == [" ", "1", "1", " "]


@pytest.mark.parametrize(
    ("cards", "text", "reward"),
    [
        (["H8", "S3", "D8", "C3"], "8 / ( 3 - 8 / 3 ) =", 10),
        (["HK", "SQ", "D4", "CA"], "10 + 10 + 4 * 1 =", 10),
        (["HK", "SQ", "D4", "CA"], "10 + 10 + 4 =", -1),  # three numbers only
        (["HK", "SQ", "D4", "CA"], "10 + 10 + 4 + 1 =", -1),  # 25
        (["H5", "S2", "DA", "CA"], "5 * * 2 - 1 * 1 =", -1),
        (FOUR, "1 2 + 1 2 =", -1),
        (FOUR, "=", -1),
    ],
)
def test_equals_judges_exactly_and_ends(cards, text, reward):
    _, play = dealt("points24", cards)
    _, got, terminated, truncated, info = play(text)[-1]
    assert (got, terminated, truncated, info["won"]) == (reward, True, False, reward == 10)
    assert "=" not in info["Formula"]


@pytest.mark.parametrize(
    ("cards", "text", "reward"),
    [
        (FOUR, "1 2 + 1 2 =", 10),
        (["H5", "S2", "DA", "CA"], "5 * * 2 - 1 * 1 =", 10),
        (["H8", "S3", "D8", "C3"], "8 / ( 3 - 8 / 3 ) =", -1),
        (["H9", "S9", "D9", "C9"], "9 * * 9 * * 9 * * 9 =", -1),
    ],
)
def test_equals_judges_as_the_original_where_asked(cards, text, reward):
    _, play = dealt("points24", cards, "arithmetic=original")
    assert play(text)[-1][1] == reward


@pytest.mark.parametrize(("options", "place"), [([], 2), (["overlong=cut"], 3)])
def test_the_twenty_second_action_ends_points24_or_cuts_it_as_in_the_original(options, place):
    # 21 illegal numbers cost -1 each, the 22nd action is ignored for another -1.
    _, play = dealt("points24", FOUR, *options)
    steps = play("9 " * 22)
    assert [step[place] for step in steps] == [False] * 21 + [True]
    assert sum(step[1] for step in steps) == -22
    assert not any(step[5 - place] for step in steps)


def test_an_equals_sign_after_21_items_is_ignored():
    _, play = dealt("points24", ["HK", "SQ", "D4", "CA"])
    text = "( ( ( ( ( ( ( 10 ) ) ) ) ) ) ) + 10 + 4 * 1"  # 21 items, worth 24
    assert len(text.split()) == 21
    _, reward, terminated, truncated, info = play(f"{text} =")[-1]
    assert (reward, terminated, truncated, info["won"]) == (-1, True, False, False)


def test_the_seventh_action_ends_ezpoints_or_cuts_it_as_in_the_original():
    for options, end in (([], (True, False)), (["overlong=cut"], (False, True))):
        _, play = dealt("ezpoints", ["H5", "S7"], *options)
        assert [step[2:4] for step in play("+ + + + + + =")] == [(False, False)] * 6 + [end]


@pytest.mark.parametrize(("text", "reward"), [("5 + 7 =", 10), ("7 + 5 =", 10), ("5 * 7 =", -1), ("5 =", -1), ("+ 5 + 7 =", 10)])
def test_ezpoints_wants_12_of_both_cards(text, reward):
    _, play = dealt("ezpoints", ["H5", "S7"])
    assert play(text)[-1][1] == reward


def test_a_single_card_of_12_does_not_win_ezpoints():
    _, play = dealt("ezpoints", ["HQ", "SA"], "face_cards_as_10=false")
    assert play("12 =")[-1][1] == -1


def test_face_cards_count_more_where_asked():
    _, play = dealt("points24", ["HK", "SJ", "DQ", "CA"], "face_cards_as_10=false")
    assert play("13 + 11 *")[-1][4]["Numbers"] == [13, 11, 12, 1]
    assert [step[1] for step in play("10")] == [-1]


def test_info_is_a_copy():
    _, play = dealt("points24", FOUR)
    info = play("1")[-1][4]
    for key in ("Formula", "Cards", "Numbers"):
        info[key].clear()
    later = play("+")[-1][4]
    assert later["Formula"] == ["1", "+"] and later["Numbers"] == [1, 2, 1, 2] and later["Cards"] == FOUR


def pair_shares(*options: str, draws: int = 4000) -> dict[tuple[int, ...], float]:
    env = load_task("ezpoints", ["image=tiny", *options]).make()
    env.reset(seed=0)
    pairs = Counter(tuple(sorted(env.reset()[1]["Numbers"])) for _ in range(draws))
    return {pair: count / draws for pair, count in pairs.items()}


def test_ezpoints_pairs_come_as_often_as_in_the_original():
    # First rank uniform on 2..13, in twelfths: value 10 has 4, 2..9 one each; 2, 3, 4, 6 split in halves.
    expected = {
        (2, 10): (4 + 0.5) / 12,
        (5, 7): 2 / 12,
        (3, 9): (1 + 0.5) / 12,
        (4, 8): (1 + 0.5) / 12,
        (2, 6): 1 / 12,  # half of the 2s and half of the 6s
        (3, 4): 1 / 12,
        (6, 6): 0.5 / 12,
    }
    shares = pair_shares()
    assert set(shares) == set(expected)
    for pair, share in expected.items():
        assert abs(shares[pair] - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_ezpoints_is_solvable_with_face_cards_above_10_too():
    shares = pair_shares("face_cards_as_10=false", draws=1000)
    assert {(1, 11), (1, 12)} < set(shares)
    assert all(sum(pair) == 12 or pair[0] * pair[1] == 12 for pair in shares)


def test_points24_deals_every_rank_and_suit_alike():
    env = load_task("points24", ["image=tiny"]).make()
    env.reset(seed=0)
    names = [name for _ in range(1500) for name in env.reset()[1]["Cards"]]
    counts = Counter(names)
    assert len(counts) == 52
    expected = len(names) / 52
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 92  # 51 degrees of freedom: p = 0.0004


def test_points24_deals_solvable_hands_where_asked():
    task = load_task("points24", ["image=tiny", "solvable_only=true"])
    env = task.make()
    env.reset(seed=0)
    thoughts = [task.expert_reply(env.reset()[1]) for _ in range(60)]
    assert not any("no formula" in thought for thought in thoughts)


@pytest.mark.parametrize("options", [{"cards": ["HA"]}, {"cards": ["HA", "S1", "D2", "D3"]}, {"start": 1}, {"cards": "HAS2"}])
def test_bad_hands_are_named(options):
    with pytest.raises(GtrTurboError):
        load_task("points24").make().reset(options=options)


def test_what_is_no_action_is_refused():
    env, _ = dealt("points24", FOUR)
    with pytest.raises(GtrTurboError, match="is not an action"):
        env.step(-1)


def sums() -> set[tuple[int, ...]]:
    """Hands that make 24 by adding and subtracting, by trying all signs."""
    hands = combinations_with_replacement(range(1, 11), 4)
    return {hand for hand in hands if any(sum(map(mul, hand, signs)) == 24 for signs in product((1, -1), repeat=4))}


def dealt_hands(*options: str, draws: int = 1500) -> Counter:
    env = load_task("points24", ["image=tiny", *options]).make()
    env.reset(seed=0)
    return Counter(tuple(sorted(env.reset()[1]["Numbers"])) for _ in range(draws))


def test_the_family_of_sums_is_all_hands_that_plus_and_minus_solve():
    # The rarest, four equal values, come 1 in 3359 draws; the commonest kinds must be there in their shares.
    hands, dealt = sums(), dealt_hands("family=sums")
    assert len(hands) == 57 and sum(sum(hand) == 24 for hand in hands) == 41
    assert set(dealt) <= hands and len(dealt) > 50
    weights = {hand: weight(hand) for hand in hands}
    share = sum(weights[hand] for hand in hands if sum(hand) == 24) / sum(weights.values())
    got = sum(count for hand, count in dealt.items() if sum(hand) == 24) / dealt.total()
    assert abs(got - share) < 4 * (share * (1 - share) / dealt.total()) ** 0.5


def weight(hand: tuple[int, ...]) -> int:
    """Ordered draws of four ranks that give these values: four ranks are worth 10."""
    return len(set(permutations(hand))) * 4 ** hand.count(10)


def test_the_family_of_signs_deals_hands_that_nothing_solves_unless_told():
    dealt = set(dealt_hands("family=signs"))
    assert len(dealt - sums()) > len(dealt) / 2
    assert set(dealt_hands("family=signs", "solvable_only=true", draws=300)) <= sums()


@pytest.mark.parametrize("family", ["any", "signs", "sums"])
def test_held_out_hands_are_a_fifth_and_never_dealt_in_training(family):
    # A random fifth of 57 hands is 11.4, within four standard deviations (3.0 each).
    train, held_out = (set(dealt_hands(f"family={family}", f"deals={deals}")) for deals in ("train", "held-out"))
    assert not train & held_out
    hands = sums() if family == "sums" else set(combinations_with_replacement(range(1, 11), 4))
    assert 0.04 < len(held_out) / len(hands) < 0.36 and len(train | held_out) > 0.6 * len(hands)  # Rare hands may be missing.


def test_the_expert_adds_and_subtracts_where_the_family_does():
    task = load_task("points24", ["image=tiny", "family=sums"])
    env = task.make()
    for seed in range(40):
        _, info = env.reset(seed=seed)
        while not info["won"]:
            _, _, ended, _, info = env.step(task.actions.index(json.loads(task.expert_reply(info))["action"]))
            assert info["won"] or not ended
        assert not set(info["Formula"]) & {"*", "/"}


def test_the_expert_of_a_family_still_saves_what_only_other_signs_can():
    task = load_task("points24", ["image=tiny", "family=sums"])
    env = task.make()
    _, info = env.reset(options={"cards": ["H3", "S6", "D7", "C8"]})
    for item in "(8-7":  # + 3 ) * 6
        *_, info = env.step(task.actions.index(item))
    while not info["won"]:
        _, _, ended, _, info = env.step(task.actions.index(json.loads(task.expert_reply(info))["action"]))
        assert info["won"] or not ended


@pytest.mark.parametrize("family", ["signs", "sums"])
def test_a_novice_keeps_to_the_signs_of_the_family(family):
    task, rng = load_task("points24", ["image=tiny", f"family={family}"]), np.random.default_rng(0)
    env, signs = task.make(), set()
    for seed in range(20):
        _, info = env.reset(seed=seed)
        for _ in range(8):
            *_, info = env.step(task.actions.index(json.loads(task.random_expert_reply(info, rng))["action"]))
        signs |= {item for item in info["Formula"] if not item.isdecimal()}
    assert signs == {"+", "-"}
