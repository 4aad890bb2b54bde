"""Blackjack event by event, against Gymnasium's own game and an exact calculation."""

from collections import Counter
from functools import cache

import gymnasium as gym
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.games.blackjack import BlackjackEnv, expert, total
from gtrturbo.tasks.games.cards import Card

STAND, HIT = 0, 1


class Stacked(BlackjackEnv):
    """A game whose next cards are known."""

    def stack(self, player: str, dealer: str, deck: str) -> "Stacked":
        self.reset(seed=0, options={"player": [f"H{rank}" for rank in player], "dealer": [f"S{rank}" for rank in dealer]})
        self.deck = [Card("D", rank) for rank in deck]
        return self

    def _card(self) -> Card:
        return self.deck.pop(0)


def played(player: str, dealer: str, deck: str, *actions: int):
    env = Stacked(image="tiny").stack(player, dealer, deck)
    for action in actions:
        step = env.step(action)
    return step[1:4], step[4]["won"]


@pytest.mark.parametrize(
    ("player", "dealer", "deck", "actions", "reward"),
    [
        ("K5", "6K", "Q", (HIT,), -1),  # 25: bust
        ("KQ", "KJ", "", (STAND,), 0),  # 20 against 20
        ("KQ", "K9", "", (STAND,), 1),
        ("K8", "K9", "", (STAND,), -1),
        ("K2", "K6", "K", (STAND,), 1),  # the dealer must draw at 16 and busts
        ("K2", "K7", "", (STAND,), -1),  # and stands at 17
        ("K2", "A6", "", (STAND,), -1),  # at soft 17 too
        ("K7", "A5", "5", (STAND,), -1),  # soft 16 draws to 21
        ("AK", "K9", "", (STAND,), 1),  # a natural pays 1
        ("AK", "AQ", "", (STAND,), 0),
        ("A6", "K9", "K3", (HIT, HIT, STAND), 1),  # soft 17, hard 17, 20
    ],
)
def test_rewards(player, dealer, deck, actions, reward):
    result, won = played(player, dealer, deck, *actions)
    assert result == (reward, True, False) and won == (reward == 1)


def test_a_hit_that_does_not_bust_goes_on():
    assert played("K5", "6K", "6", HIT) == ((0, False, False), False)


@pytest.mark.parametrize(
    ("values", "expected"), [((1, 10), (21, True)), ((1, 1), (12, True)), ((1, 6, 10), (17, False)), ((10, 9), (19, False))]
)
def test_an_ace_counts_11_where_it_can(values, expected):
    assert total(values) == expected


def test_outcomes_are_distributed_as_in_gymnasiums_blackjack():
    # Stick at 17 in both games; three outcome shares, 3000 games each, within 4 standard errors of the difference.
    games = 3000
    ours, env = Counter(), BlackjackEnv(image="tiny")
    env.reset(seed=0)
    for _ in range(games):
        _, info = env.reset()
        reward, ended = 0.0, False
        while not ended:
            count, _ = total(card[0] for card in info["Player Card"])
            _, reward, ended, _, info = env.step(HIT if count < 17 else STAND)
        ours[reward] += 1
    theirs, peer = Counter(), gym.make("Blackjack-v1", natural=False, sab=False)
    state, _ = peer.reset(seed=1)
    for _ in range(games):
        ended = False
        while not ended:
            state, reward, ended, _, _ = peer.step(1 if state[0] < 17 else 0)
        theirs[float(reward)] += 1
        state, _ = peer.reset()
    for outcome in (-1.0, 0.0, 1.0):
        a, b = ours[outcome] / games, theirs[outcome] / games
        assert abs(a - b) < 4 * ((a * (1 - a) + b * (1 - b)) / games) ** 0.5, outcome


def test_values_of_ten_are_shown_as_face_cards_four_times_in_thirteen():
    env = BlackjackEnv(image="tiny")
    env.reset(seed=0)
    cards = [card for _ in range(1500) for card in env.reset()[1]["Player Card"]]
    assert {rank for value, rank, _ in cards if value == 10} == set("JQK")
    assert abs(sum(value == 10 for value, _, _ in cards) / len(cards) - 4 / 13) < 4 * (4 / 13 * 9 / 13 / 3000) ** 0.5


SHARES = {value: (4 if value == 10 else 1) / 13 for value in range(1, 11)}


def added(hand: tuple[int, bool], value: int) -> tuple[int, bool]:
    """Add a card to a hand given as (hard total, has an ace)."""
    return hand[0] + value, hand[1] or value == 1


def best(hand: tuple[int, bool]) -> int:
    return hand[0] + 10 if hand[1] and hand[0] <= 11 else hand[0]


@cache
def dealer_ends(hand: tuple[int, bool]) -> dict[int, float]:
    """Distribution of the dealer's final total, 0 for bust."""
    if best(hand) >= 17:
        return {best(hand) if best(hand) <= 21 else 0: 1.0}
    ends: Counter = Counter()
    for value, share in SHARES.items():
        for end, chance in dealer_ends(added(hand, value)).items():
            ends[end] += share * chance
    return dict(ends)


def standing(hand: tuple[int, bool], upcard: int) -> float:
    ours = best(hand)
    return sum(chance * ((ours > end) - (ours < end)) for end, chance in dealer_ends((upcard, upcard == 1)).items())


@cache
def hitting(hand: tuple[int, bool], upcard: int) -> float:
    worth = 0.0
    for value, share in SHARES.items():
        after = added(hand, value)
        worth += share * (-1 if best(after) > 21 else max(standing(after, upcard), hitting(after, upcard)))
    return worth


def hand_of(count: int, soft: bool) -> list[tuple[int, str, str]]:
    values = [1, count - 11] if soft else [10, count - 10] if count > 11 else [2, count - 2]
    return [(value, "A23456789T"[value - 1], "H") for value in values]


@pytest.mark.parametrize("upcard", range(1, 11))
def test_the_expert_plays_best_against_the_visible_card(upcard):
    for soft, counts in ((False, range(5, 21)), (True, range(12, 21))):
        for count in counts:
            hand = (count - 10, True) if soft else (count, False)
            wanted = "stand" if standing(hand, upcard) > hitting(hand, upcard) else "hit"
            info = {"Player Card": hand_of(count, soft), "Dealer Card": [(upcard, "A23456789T"[upcard - 1], "S")]}
            assert expert(info, {})[1] == wanted, (count, soft, upcard)


def test_the_longest_game_has_twenty_turns():
    env = Stacked(image="full").stack("AA", "6K", "A" * 20)
    ends = [env.step(HIT)[2] for _ in range(20)]
    assert ends == [False] * 19 + [True]


@pytest.mark.parametrize("options", [{"player": ["HA", "S2"]}, {"player": ["HA"], "dealer": ["S2", "S3"]}, {"cards": []}])
def test_bad_hands_are_named(options):
    with pytest.raises(GtrTurboError):
        BlackjackEnv().reset(options=options)
