"""TextWorld's own engine for games in PDDL, kept from touching what is not its own.

It reads expressions of a game's grammar with Python's `eval`: here they are read as what they are, names joined to texts.
Its translator overwrites `sys.argv`; its planner is a library that is copied for each environment and must not be unloaded.

Source: Côté et al., "TextWorld" (2018); Shridhar et al., "ALFWorld" (2021).
"""

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from gtrturbo.errors import GtrTurboError, said_by
from gtrturbo.tasks.alf.goals import Goal
from gtrturbo.tasks.alf.scenes import HouseGame, Scene

BAR = "_bar_"  # Between an object's name and its place, in ALFWorld's ids.
VOWELS = "aeiou"
MODULES = ("", ".envs.pddl", ".envs.pddl.logic", ".envs.pddl.textgen")
MENDED, MOST_TEXTS, MOST_GAMES = "gtrturbo_mended", 4096, 128
LARGE = 10_000  # Letters of a problem: what is made of a larger one is kept only until it is begun.
_WAITING: list[Any] = []  # Engines that were closed: each holds a copy of the planner, and to unload one ends in a crash.


class TextWorldEngine:
    """Plays games in PDDL with TextWorld; the expert is its planner, Fast Downward, which knows the whole state.

    Args:
        plans: whether the expert is asked, which takes half of the time.
    """

    def __init__(self, *, plans: bool = True) -> None:
        self._plans = plans
        self._inner: Any = None
        self._plan: tuple[str, ...] = ()
        self._goal: Goal | None = None

    def start(self, game: HouseGame) -> Scene:
        """Begin a game.

        Raises: GtrTurboError: it cannot be read; names it.
        """
        self._inner = self._inner or (_WAITING.pop() if _WAITING else _made())
        with _arguments_kept():
            try:
                self._goal = Goal.of(game.content["pddl_domain"], game.content["pddl_problem"])
                self._inner.load(dict(game.content))
                _name(self._inner, written=not game.folder)
                self._inner.request_infos.policy_commands = self._plans
                state = self._inner.reset()
            except GtrTurboError:
                raise
            except (Exception, SystemExit) as error:  # Whatever its parsers say of what is no game; the translator exits.
                raise GtrTurboError(
                    f"the game {game.name} cannot be read: {type(error).__name__} {said_by(error)}.", "download it again."
                ) from None
        return self._scene(state)

    def act(self, command: str) -> Scene:
        """Do one of the scene's commands. Where it is what the expert planned, the rest of the plan still holds."""
        as_planned, rest = self._plan[:1] == (command,), self._plan[1:]
        self._inner.request_infos.policy_commands = self._plans and not (as_planned and rest)
        with _arguments_kept():
            state, _, _ = self._inner.step(command)
        return self._scene(state, rest if as_planned else ())

    def close(self) -> None:
        """Leave the engine to the next one that is started."""
        if self._inner is not None:
            _WAITING.append(self._inner)
            self._inner = None

    def _scene(self, state: Mapping[str, Any], planned: Sequence[str] = ()) -> Scene:
        assert self._goal is not None
        won = bool(state["won"])
        if self._inner.request_infos.policy_commands:
            planned = state["policy_commands"] or ()
        self._plan = () if won else tuple(planned)
        facts = {(fact.name, *fact.names) for fact in state["_facts"]}
        commands = tuple(state["admissible_commands"])
        plan = self._plan if set(self._plan[:1]).issubset(commands) else ()
        return Scene(" ".join(state["feedback"].split()), commands, won, self._goal.rate(facts), plan)


def _made() -> Any:
    textworld, pddl, logic, words = (importlib.import_module(f"textworld{each}") for each in MODULES)
    _mend(words, logic, importlib.import_module("fast_downward"))
    return pddl.PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True, policy_commands=True))


def _mend(words: Any, logic: Any, planner: Any) -> None:
    """Let a grammar run no code, and parse and translate each text once: otherwise nine tenths of the time are spent on that."""
    if hasattr(words, MENDED):
        return
    setattr(words, MENDED, True)
    parsed = lru_cache(maxsize=MOST_TEXTS)(words._parse_and_convert)
    words._parse_and_convert = lambda *text, **how: deepcopy(parsed(*text, **how))  # Its symbols are written into.
    words.Rule = SimpleNamespace(parse_conjunctive_query=lru_cache(maxsize=MOST_TEXTS)(words.Rule.parse_conjunctive_query))
    words.copy_context = lambda context: {
        **context,
        "variables": dict(context["variables"]),
        "mapping": dict(context["mapping"]),
    }
    words.EvalSymbol.derive = lambda symbol, context=None: [
        words.TerminalSymbol(evaluated(symbol.expression, (context or symbol.context)["variables"]))
    ]
    logic.GameLogic = lru_cache(maxsize=MOST_GAMES)(logic.GameLogic)
    few, many = (lru_cache(maxsize=most)(planner.pddl2sas) for most in (2, 2 * MOST_GAMES))
    planner.pddl2sas = lambda domain, problem, **how: (few if len(problem) > LARGE else many)(domain, problem, **how)


@contextmanager
def _arguments_kept() -> Iterator[None]:
    """Put `sys.argv` back, which the translator overwrites."""
    before = sys.argv
    try:
        yield
    finally:
        sys.argv = before


def evaluated(expression: str, variables: Mapping[str, Any]) -> Any:
    """Evaluate what a grammar puts between braces: a variable, its attribute, a text, `+` of two, or `or` of some.

    Raises: GtrTurboError: it is something else, which a game's words have no need of.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, variables)
    except (SyntaxError, KeyError, AttributeError, TypeError, RecursionError, ValueError):
        raise GtrTurboError(
            f"a game's grammar holds {expression.strip()!r}, which is more than names joined to texts.", "take it away."
        ) from None


def _value(node: ast.expr, variables: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return variables[name]
        case ast.Attribute(value=ast.Name(id=name), attr="name" | "id" | "type" | "definite" | "indefinite" as attribute):
            return getattr(variables[name], attribute)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, variables) + _value(right, variables)
        case ast.BoolOp(op=ast.Or(), values=values):
            return next(filter(None, (_value(each, variables) for each in values)), "")
    raise ValueError


def _name(inner: Any, *, written: bool) -> None:
    """Give every entity the name that players know it by."""
    entities = inner._entity_infos
    names = written_names_of(entities) if written else alfworld_names(entities)
    for key, entity in entities.items():
        entity.name = names[key]
        if written:
            entity.indefinite = "an" if names[key][:1] in VOWELS else "a"


def written_names_of(ids: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Name the entities of a written game: `mug_1` is the mug 1."""
    return {each: each.replace("_", " ") for each in ids}


def alfworld_names(ids: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Name the entities of one of ALFWorld's games as its players know them: `Mug_bar__minus_00_dot_59…` is a mug with a number.

    Those of a kind are numbered from the last id to the first, and a sink's basin is of another kind than the sink, as in
    ALFWorld's `Demangler`. What has no place is called by its id.
    """
    kinds: dict[str, list[str]] = {}
    for each in sorted(ids):
        name, bar, _ = each.partition(BAR)
        if bar:
            kinds.setdefault(name + ("basin" if "basin" in each else ""), []).append(each)
    numbered = {each: f"{kind} {len(found) - place}" for kind, found in kinds.items() for place, each in enumerate(found)}
    return {each: numbered.get(each, _plain(each)) for each in ids}


def _plain(name: str) -> str:
    for word, mark in (("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        name = name.replace(word, mark)
    return name
