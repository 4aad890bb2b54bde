"""How much of a game's goal is reached: the goal-condition rate, computed from the PDDL of the game itself."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Node = str | list["Node"]
Fact = tuple[str, ...]
Binding = Mapping[str, str]
TOKEN = re.compile(r"[()]|[^\s()]+")
MOST_DEPTH = 100


def parse(text: str) -> Node:
    """Read one s-expression, in lower case as PDDL is, without its comments.

    Raises: ValueError: it is none, or nested more than 100 deep.
    """
    open_lists: list[list[Node]] = [[]]
    for token in TOKEN.findall(re.sub(r";[^\n]*", "", text).lower()):
        if token == "(":
            open_lists.append([])
        elif token == ")" and len(open_lists) > 1:
            closed = open_lists.pop()
            open_lists[-1].append(closed)
        else:
            open_lists[-1].append(token)
        if len(open_lists) > MOST_DEPTH:
            raise ValueError("lists are nested too deep")
    if len(open_lists) != 1 or len(open_lists[0]) != 1 or not isinstance(open_lists[0][0], list):
        raise ValueError("it is not one list in parentheses")
    return open_lists[0][0]


def part(tree: Node, name: str) -> Sequence[Node]:
    """Return what follows a name, such as `:goal`, in the list that begins with it; nothing where there is none."""
    found = (each for each in tree if isinstance(each, list) and each and each[0] == name)
    return next(found, [name])[1:]


def typed(names: Sequence[Node]) -> list[tuple[str, str]]:
    """Read `a b - kind c - other` as (name, type) pairs; what has no type is an `object`."""
    found: list[tuple[str, str]] = []
    waiting: list[str] = []
    words = iter([str(each) for each in names])
    for word in words:
        if word == "-":
            kind = next(words)
            found += [(each, kind) for each in waiting]
            waiting = []
        else:
            waiting.append(word)
    return found + [(each, "object") for each in waiting]


@dataclass(frozen=True)
class Goal:
    """A goal of one game, and what never changes in it.

    Attributes:
        tree: the formula.
        objects: names by type.
        facts: what the game begins with.
        changing: names of the predicates that some action changes.
    """

    tree: Node
    objects: Mapping[str, Sequence[str]]
    facts: frozenset[Fact]
    changing: frozenset[str]
    candidates: dict[int, list[dict[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, domain: str, problem: str) -> "Goal":
        """Read a game's goal.

        Raises: ValueError: domain or problem is no PDDL.
        """
        rules, game = parse(domain), parse(problem)
        objects: dict[str, list[str]] = {}
        above = dict(typed(part(rules, ":types")))
        for name, kind in typed(part(game, ":objects")):
            for each in _upwards(kind, above):
                objects.setdefault(each, []).append(name)
        facts = frozenset(tuple(map(str, each)) for each in part(game, ":init") if isinstance(each, list))
        changing = frozenset(name for each in rules if each[:1] == [":action"] for name in _predicates(_effect(each)))
        [tree] = part(game, ":goal")
        return cls(tree, objects, facts, changing)

    def rate(self, facts: Collection[Fact]) -> float:
        """Return the share of the goal's conditions that hold, in [0, 1].

        A condition is a literal that some action can change, or a whole `forall`, `or` or `imply`. Of `exists` the things count
        that are of the right kinds (what no action changes) and have most conditions met; where there are none, none is met.
        """
        met, conditions = self._count(self.tree, {}, facts)
        return met / conditions if conditions else 1.0

    def holds(self, tree: Node, binding: Binding, facts: Collection[Fact]) -> bool:
        """Tell whether a formula holds: PDDL's own meaning of it."""
        assert isinstance(tree, list)
        match tree[0]:
            case "and":
                return all(self.holds(each, binding, facts) for each in tree[1:])
            case "or":
                return any(self.holds(each, binding, facts) for each in tree[1:])
            case "not":
                return not self.holds(tree[1], binding, facts)
            case "imply":
                return not self.holds(tree[1], binding, facts) or self.holds(tree[2], binding, facts)
            case "exists":
                return any(self.holds(tree[2], each, facts) for each in self._bindings(tree[1], binding))
            case "forall":
                return all(self.holds(tree[2], each, facts) for each in self._bindings(tree[1], binding))
            case "=":
                return binding.get(str(tree[1]), tree[1]) == binding.get(str(tree[2]), tree[2])
        return tuple(binding.get(str(each), str(each)) for each in tree) in facts

    def _count(self, tree: Node, binding: Binding, facts: Collection[Fact]) -> tuple[int, int]:
        """Count the conditions that hold, and all."""
        assert isinstance(tree, list)
        if tree[0] == "and":
            counts = [self._count(each, binding, facts) for each in tree[1:]]
            return sum(met for met, _ in counts), sum(count for _, count in counts)
        if tree[0] == "exists":
            if id(tree) not in self.candidates and not binding:
                self.candidates[id(tree)] = list(self._fitting(tree, binding))
            bindings = self._fitting(tree, binding) if binding else self.candidates[id(tree)]
            counts = [self._count(tree[2], each, facts) for each in bindings]
            return max(counts, default=(0, self._conditions(tree[2])))
        changes = self._changes(tree)
        return (int(self.holds(tree, binding, facts)), 1) if changes else (0, 0)

    def _conditions(self, tree: Node) -> int:
        assert isinstance(tree, list)
        if tree[0] == "and":
            return sum(map(self._conditions, tree[1:]))
        return self._conditions(tree[2]) if tree[0] == "exists" else int(self._changes(tree))

    def _changes(self, tree: Node) -> bool:
        return not self.changing.isdisjoint(_predicates(tree))

    def _fitting(self, tree: Sequence[Node], binding: Binding) -> Iterator[dict[str, str]]:
        """Yield bindings of `exists` under which all holds that never changes; variable by variable, else there are too many."""
        body = tree[2]
        assert isinstance(body, list)
        parts = body[1:] if body[0] == "and" else [body]
        fixed = [each for each in parts if not self._changes(each)]
        yield from self._bound(typed(tree[1]), fixed, dict(binding))  # type: ignore[arg-type]

    def _bound(
        self, names: Sequence[tuple[str, str]], fixed: Sequence[Node], binding: dict[str, str]
    ) -> Iterator[dict[str, str]]:
        if not names:
            yield binding
            return
        [(name, kind), *others] = names
        later = {each for each, _ in others}
        for value in self.objects.get(kind, ()):
            bound = {**binding, name: value}
            ready = [each for each in fixed if name in _words(each) and later.isdisjoint(_words(each))]
            if all(self.holds(each, bound, self.facts) for each in ready):
                yield from self._bound(others, fixed, bound)

    def _bindings(self, names: Node, binding: Binding) -> Iterator[dict[str, str]]:
        pairs = typed(names)  # type: ignore[arg-type]
        for values in itertools.product(*(self.objects.get(kind, ()) for _, kind in pairs)):
            yield {**binding, **dict(zip((name for name, _ in pairs), values, strict=True))}


def _upwards(kind: str, above: Mapping[str, str]) -> Iterator[str]:
    """Yield a type and those that it is one of, up to `object`; types in a circle once."""
    seen: set[str] = set()
    while kind not in seen:
        seen.add(kind)
        yield kind
        kind = above.get(kind, "object")


def _effect(action: Node) -> Node:
    """Return what follows `:effect` in an action."""
    return action[action.index(":effect") + 1] if ":effect" in action else []


def _predicates(tree: Node) -> set[str]:
    """Return the names of the predicates of a formula or an effect."""
    if not isinstance(tree, list) or not tree:
        return set()
    if isinstance(tree[0], list):
        return set().union(*map(_predicates, tree))
    if tree[0] in ("forall", "exists"):
        return _predicates(tree[2])
    if tree[0] in ("and", "or", "not", "when", "imply"):
        return set().union(*map(_predicates, tree[1:]))
    return set() if tree[0] in ("=", "increase", "decrease", "assign") else {str(tree[0])}


def _words(tree: Node) -> set[str]:
    return {tree} if isinstance(tree, str) else set().union(*map(_words, tree)) if tree else set()
