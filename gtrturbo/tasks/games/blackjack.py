"""Blackjack: draw cards up to 21 and beat the dealer.

Rules as in RL4VLM (Zhai et al., 2024), `gym_cards/Blackjack-v0`, which are those of Gymnasium's Blackjack-v1 (Sutton and
Barto, 2018, example 5.1) without a bonus for naturals.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from gtrturbo.tasks.games.cards import Card, cards_of, random_card, shown_rank
from gtrturbo.tasks.games.drawing import BLACK, CELL, GREEN, RED, WHITE, card_back, card_face, font, grid, paste_card
from gtrturbo.tasks.options import IMAGE, Option, check_action, check_options, check_reset_keys

DECISIONS = ("stand", "hit")
BLACKJACK_OPTIONS: dict[str, Option] = {"image": IMAGE}
MAX_TURNS = 20  # twenty-one aces count 21: nineteen hits on two aces, and one turn more
CARD_WIDTH, CARD_HEIGHT = 70, 98


def total(values: Iterable[int]) -> tuple[int, bool]:
    """Count a hand: its total, and whether an ace in it counts 11 (a soft hand)."""
    hand = list(values)
    soft = 1 in hand and sum(hand) + 10 <= 21
    return sum(hand) + 10 * soft, soft


class BlackjackEnv(gym.Env):
    """Stand or hit, against a dealer of whom one card is seen.

    Actions: 0 is `stand`: the dealer draws until 17 or more, and the higher total that is not above 21 wins; 1 is `hit`:
    draw a card, and lose above 21.
    Rewards: +1 for a win, 0 for a draw, -1 for a loss, at the end of the episode; 0 before. Only a win counts as won.
    The deck is endless: the thirteen ranks are equally likely, and jack, queen and king count 10. `info` holds the cards
    as `(value, rank, suit)`, the dealer's hidden second card included, which nothing that plays may look at.

    Args:
        image: `full` is 300 x 300 pixels; `tiny` is 168 x 112, glyphs in cells of 28 x 28 and no suits.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, image: Literal["full", "tiny"] = "full", render_mode: str | None = None) -> None:
        check_options({"image": image}, BLACKJACK_OPTIONS)
        self.image, self.render_mode = image, render_mode
        self.action_space = gym.spaces.Discrete(len(DECISIONS))
        shape = (300, 300, 3) if image == "full" else (4 * CELL, 6 * CELL, 3)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Deal two cards each, or take them from `options={"player": ["HT", "S5"], "dealer": ["D6", "C9"]}`.

        The dealer's first card is the one that is seen.

        Raises: GtrTurboError: The options are incomplete, or not two cards each.
        """
        super().reset(seed=seed)
        check_reset_keys(options or {}, ("player", "dealer"))
        if options:
            self.dealer, self.player = (list(cards_of(options[side], 2)) for side in ("dealer", "player"))
        else:
            self.dealer, self.player = ([self._card(), self._card()] for _ in range(2))
        return self.render(), self._info(won=False)

    def step(self, action: int):
        """Draw a card, or let the dealer play; see the class for the rewards."""
        check_action(action, DECISIONS)
        if action == 1:
            self.player.append(self._card())
            bust = self._total(self.player) > 21
            return self.render(), -1.0 if bust else 0.0, bust, False, self._info(won=False)
        while self._total(self.dealer) < 17:
            self.dealer.append(self._card())
        ours, theirs = self._total(self.player), self._total(self.dealer)
        reward = 1.0 if theirs > 21 or ours > theirs else 0.0 if ours == theirs else -1.0
        return self.render(), reward, True, False, self._info(won=reward > 0)

    def render(self) -> np.ndarray:
        """Return the picture of the present state; the dealer's second card stays face down."""
        return (_full if self.image == "full" else _tiny)(self.dealer[0], self.player)

    def _card(self) -> Card:
        card = random_card(self.np_random)
        # A ten is shown as a face card, as in the original: the weights stay 4/13 for value 10.
        return Card(card.suit, "JQK"[self.np_random.integers(3)]) if card.value() == 10 else card

    def _total(self, hand: list[Card]) -> int:
        return total(card.value() for card in hand)[0]

    def _info(self, *, won: bool) -> dict[str, Any]:
        hands = {"Dealer Card": self.dealer, "Player Card": self.player}
        return {
            **{name: [(card.value(), card.rank, card.suit) for card in hand] for name, hand in hands.items()},
            "won": won,
        }


def _full(upcard: Card, player: Sequence[Card]) -> np.ndarray:
    picture = Image.new("RGB", (300, 300), GREEN)
    draw = ImageDraw.Draw(picture)
    for y, name in ((5, "Dealer"), (130, "Player")):
        draw.text((5, y), name, fill=WHITE, font=font(18))
    paste_card(picture, card_face(upcard, CARD_WIDTH, CARD_HEIGHT), 5, 25)
    paste_card(picture, card_back(CARD_WIDTH, CARD_HEIGHT), 78, 25)
    for (x, y), card in zip(_places(len(player)), player, strict=True):
        paste_card(picture, card_face(card, CARD_WIDTH, CARD_HEIGHT), x, y)
    return np.array(picture)


def _places(count: int) -> list[tuple[int, int]]:
    """Return where each of the player's cards lies, all corners with rank and suit in sight.

    Up to four cards lie side by side, up to eight in two rows of which the lower covers half of the upper; of more cards
    each covers part of the one before.
    """
    columns = max(4, (count + 1) // 2)
    step = min(74, (295 - CARD_WIDTH) // (columns - 1))
    return [(5 + step * (at % columns), 150 + 52 * (at // columns)) for at in range(count)]


def _tiny(upcard: Card, player: Sequence[Card]) -> np.ndarray:
    """Lay out the dealer's card in red, a card's back, then the player's cards in black, row by row."""
    glyphs = {(0, 0): (shown_rank(upcard.rank), RED), (1, 0): ("#", RED)}
    for at, card in enumerate(player, start=2):
        glyphs[at % 6, at // 6] = (shown_rank(card.rank), BLACK)
    return grid(6, 4, glyphs)


def prompt(info: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Ask for a decision; the cards are for the picture to tell."""
    return (
        "You play Blackjack. The image shows one card of the dealer and your cards. J, Q, K count as 10, an ace as 11 "
        "unless that makes more than 21. Get closer to 21 than the dealer but not above: hit draws a card, stand ends. "
        'Reply with JSON only: {"player total": number, "dealer card": "rank", '
        '"thoughts": "compare the two", "action": "stand" or "hit"}'
    )


def truth(info: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the picture tells: the player's total and the rank of the dealer's visible card."""
    player = total(card[0] for card in info["Player Card"])[0]
    return {"player total": player, "dealer card": shown_rank(info["Dealer Card"][0][1])}


def expert(info: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str]:
    """Return true thoughts and the best action for the cards in sight."""
    player, soft = total(card[0] for card in info["Player Card"])
    upcard, rank = info["Dealer Card"][0][0], shown_rank(info["Dealer Card"][0][1])
    action = "stand" if player >= _enough(upcard, soft) else "hit"
    return _thoughts(player, soft, rank, action), action


def random_expert(info: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
    """Return true thoughts and an action that is left to chance."""
    player, soft = total(card[0] for card in info["Player Card"])
    action = DECISIONS[rng.integers(len(DECISIONS))]
    return _thoughts(player, soft, shown_rank(info["Dealer Card"][0][1]), action), action


def _thoughts(player: int, soft: bool, rank: str, action: str) -> str:
    return f"{'soft' if soft else 'hard'} {player} against {rank} so {action}"


def _enough(upcard: int, soft: bool) -> int:
    """Return the total from which standing wins most: the basic strategy for an endless deck and no doubling."""
    if soft:
        return 19 if upcard in (1, 9, 10) else 18
    if upcard in (2, 3):
        return 13
    return 12 if upcard in (4, 5, 6) else 17
