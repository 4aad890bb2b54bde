"""The game that EZPoints and Points24 have in common: build a formula from the cards, one item per turn.

Rules as in RL4VLM (Zhai et al., 2024), `gym_cards`, with three mends: every draw is seeded, `info` holds copies, and the
formula is judged in exact fractions unless `arithmetic="original"` is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from gtrturbo.tasks.deals import panel_of
from gtrturbo.tasks.games.arithmetic import Arithmetic, equals
from gtrturbo.tasks.games.cards import Card, cards_of, shown_rank
from gtrturbo.tasks.games.solver import completion
from gtrturbo.tasks.options import IMAGE, Choice, Option, Switch, check_action, check_options, check_reset_keys

FORMULA_OPTIONS: dict[str, Option] = {
    "image": IMAGE,
    "face_cards_as_10": Switch(True),
    "arithmetic": Choice(("exact", "original")),
    "overlong": Choice(("ends", "cut")),
}
Overlong = Literal["ends", "cut"]
Deal = Callable[[np.random.Generator, int | None], tuple[Card, ...]]
Draw = Callable[[tuple[Card, ...], tuple[str, ...]], np.ndarray]


@dataclass(frozen=True)
class Rules:
    """What tells one formula game from the other.

    Attributes:
        name: as in its environment id.
        target: what the formula must be worth.
        hand: number of cards; each must be used, once.
        limit: a turn that finds more items than this is lost and ends the episode.
        signs: the items besides numbers, without `=`.
        full, tiny: draw a hand and a formula.
        tiny_shape: of the tiny picture, (height, width, 3).
    """

    name: str
    target: int
    hand: int
    limit: int
    signs: str
    full: Draw
    tiny: Draw
    tiny_shape: tuple[int, int, int]

    @property
    def operators(self) -> str:
        """What may stand between two numbers."""
        return "".join(sign for sign in self.signs if sign not in "()")

    def actions(self, face_cards_as_10: bool) -> tuple[str, ...]:
        """Return the items in the order of the action numbers."""
        numbers = range(1, 11 if face_cards_as_10 else 14)
        return (*(str(number) for number in numbers), *self.signs, "=")


class FormulaEnv(gym.Env):
    """Append items to a formula until `=` ends the game.

    Rewards: for `=` +10 if the formula is worth the target and uses every card, else -1; -1 for a number that the cards
    do not (any longer) have, which appends a blank and goes on; 0 for any other item. Where the formula already has more
    than `limit` items the action is ignored, the reward is -1 and the episode ends: nothing can win it any more.

    Args:
        rules: of EZPoints or Points24.
        deal: draws a hand, of the panel of a place where one is given.
        image: `full` is 300 x 300 pixels; `tiny` is a grid of glyphs in cells of 28 x 28.
        face_cards_as_10: jack, queen and king count 10, else 11, 12 and 13.
        arithmetic: `exact` judges in fractions; `original` as Python judges the joined items (see `arithmetic`).
        overlong: `ends` says that a formula that is too long has ended the episode (terminated), `cut` that it would have gone on
            (truncated), as the original environments do, whose training nevertheless takes both for an end.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        rules: Rules,
        deal: Deal,
        *,
        image: Literal["full", "tiny"],
        face_cards_as_10: bool,
        arithmetic: Arithmetic,
        overlong: Overlong,
        render_mode: str | None,
    ) -> None:
        given = {"image": image, "face_cards_as_10": face_cards_as_10, "arithmetic": arithmetic, "overlong": overlong}
        check_options(given, FORMULA_OPTIONS)
        self.overlong = overlong
        self.rules, self.deal, self.image, self.render_mode = rules, deal, image, render_mode
        self.face_cards_as_10 = face_cards_as_10
        self.arithmetic: Arithmetic = arithmetic
        self.actions = rules.actions(face_cards_as_10)
        self.action_space = gym.spaces.Discrete(len(self.actions))
        shape = (300, 300, 3) if image == "full" else rules.tiny_shape
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Deal a hand, or take it from `options={"cards": ["HA", "S7", …]}`.

        Raises: GtrTurboError: The options name other things than cards, or not as many as a hand has.
        """
        super().reset(seed=seed)
        check_reset_keys(options or {}, ("cards",))
        self.cards = cards_of(options["cards"], self.rules.hand) if options else self.deal(self.np_random, panel_of(seed))
        self.values = [card.value(self.face_cards_as_10) for card in self.cards]
        self.formula: list[str] = []
        self.used: list[int] = []
        return self.render(), self._info(won=False)

    def step(self, action: int):
        """Append an item or judge the formula; see the class for the rewards."""
        check_action(action, self.actions)
        if len(self.formula) > self.rules.limit:
            ends = self.overlong == "ends"
            return self.render(), -1.0, ends, not ends, self._info(won=False)
        item = self.actions[action]
        if item == "=":
            won = len(self.used) == self.rules.hand and equals(self.formula, self.rules.target, self.arithmetic)
            return self.render(), 10.0 if won else -1.0, True, False, self._info(won=won)
        if item.isdecimal() and self.used.count(int(item)) == self.values.count(int(item)):
            self.formula.append(" ")
            return self.render(), -1.0, False, False, self._info(won=False)
        self.formula.append(item)
        self.used.extend([int(item)] if item.isdecimal() else [])
        return self.render(), 0.0, False, False, self._info(won=False)

    def render(self) -> np.ndarray:
        """Return the picture of the present state."""
        draw = self.rules.full if self.image == "full" else self.rules.tiny
        return draw(self.cards, tuple(self.formula))

    def _info(self, *, won: bool) -> dict[str, Any]:
        return {
            "Cards": [card.name for card in self.cards],
            "Numbers": list(self.values),
            "Formula": list(self.formula),
            "won": won,
        }


def shown(info: Mapping[str, Any]) -> str:
    """Return the formula as text: its items with a space between, refused numbers left out."""
    return " ".join(item for item in info["Formula"] if item.strip())


def prompt(rules: Rules, info: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Ask for the next item; the formula is told, the cards are for the picture to tell."""
    items = ", ".join(rules.actions(options["face_cards_as_10"])[:-1])
    faces = "J, Q, K count as 10" if options["face_cards_as_10"] else "J, Q, K count as 11, 12, 13"
    ranks = ", ".join(['"rank"'] * rules.hand)
    return (
        f"Make a formula equal to {rules.target} with the {rules.hand} cards in the image, each used once. "
        f'{faces}. Current formula: "{shown(info)}". Choose the item to append: {items}, or = to end. '
        f'Reply with JSON only: {{"cards": [{ranks}], "formula": "current formula", '
        '"thoughts": "plan the formula", "action": "item"}'
    )


def truth(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranks and the formula on the picture."""
    return {"cards": [shown_rank(name[1]) for name in info["Cards"]], "formula": shown(info)}


def expert(rules: Rules, info: Mapping[str, Any], options: Mapping[str, Any], operators: Sequence[str] = ()) -> tuple[str, str]:
    """Return true thoughts and the next item of a shortest way to win, with the first of `operators` that has one.

    Where nothing that can be appended wins, `=` is advised: it costs the same -1 that any longer way would end with. Under the
    original rules formulas that join digits or signs could still win, which are not looked for.

    Args:
        operators: sets of signs that are tried one after another; if none is given, all that the game has.
    """
    tried = operators or (rules.operators,)
    formula, values = tuple(info["Formula"]), tuple(sorted(info["Numbers"]))
    ways = (
        completion(formula, values, rules.target, limit=rules.limit, operators=each, arithmetic=options["arithmetic"])
        for each in tried
    )
    rest = next((way for way in ways if way is not None), None)
    if rest is None:
        alone = "" if rules.operators in tried else f" with {' and '.join(tried[-1])} alone"
        plain = "" if options["arithmetic"] == "exact" else " without joined digits or signs"
        return f"no formula{alone}{plain} makes {rules.target} from here so end with =", "="
    whole = " ".join(item for item in (*formula, *rest) if item.strip())
    if not rest:
        return f"{whole} is {rules.target} so end with =", "="
    return f"{whole} is {rules.target} so the next item is {rest[0]}", rest[0]


def random_expert(rules: Rules, info: Mapping[str, Any], rng: np.random.Generator, operators: str = "") -> tuple[str, str]:
    """Return a plan that uses each card once, operators and order left to chance, and its next item; brackets are not used.

    The formula so far must be a random expert's own: numbers of the hand with a sign between.
    """
    formula = list(info["Formula"])
    left = list(info["Numbers"])
    for item in formula:
        if item.isdecimal():
            left.remove(int(item))
    signs = list(operators or rules.operators)
    rest: list[str] = []
    for number in rng.permutation(left):
        rest += [str(rng.choice(signs)), str(number)]
    if not (formula and formula[-1].isdecimal()):
        rest = rest[1:]  # The next item is a number.
    whole = " ".join([*formula, *rest])
    if not rest:
        return f"{whole} so end with =", "="
    return f"{whole} so the next item is {rest[0]}", rest[0]
