"""The written games: problems of the household, drawn from their names alone, so that they are the same everywhere.

`train` and `seen` play in the same rooms with other things in other places, `unseen` in rooms that `train` has none of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gtrturbo.tasks.alf.household import DOMAIN, GRAMMAR

GAMES_PER_TYPE = {"train": 12, "seen": 4, "unseen": 4}
ROOMS_OF = {"train": (1, 2, 3), "seen": (1, 2, 3), "unseen": (4, 5)}

# By room: which furniture it may have, and how many pieces of it at most. What heats, cools and cleans is always there.
FURNITURE: Mapping[str, Mapping[str, int]] = {
    "kitchen": {"counter": 2, "cabinet": 2, "drawer": 2, "table": 1, "fridge": 1, "microwave": 1, "sink": 1},
    "bathroom": {"shelf": 2, "cabinet": 2, "drawer": 1, "toilet": 1, "sink": 1},
    "bedroom": {"desk": 1, "shelf": 2, "drawer": 2, "bed": 1, "dresser": 1},
    "study": {"desk": 2, "shelf": 2, "drawer": 2, "sofa": 1, "safe": 1},
}
ALWAYS = ("fridge", "microwave", "sink", "desk")
CLOSABLE = ("cabinet", "drawer", "fridge", "microwave", "safe")
WORKS = {"fridge": "cools", "microwave": "heats", "sink": "cleans"}
THINGS: Mapping[str, Sequence[str]] = {
    "kitchen": ("apple", "bread", "cup", "egg", "mug", "plate", "potato", "tomato"),
    "bathroom": ("bottle", "candle", "cloth", "soap", "towel"),
    "bedroom": ("book", "clock", "key", "pen", "pillow", "watch"),
    "study": ("book", "laptop", "newspaper", "pen", "statue", "vase"),
}
LAMP = "lamp"


@dataclass(frozen=True)
class Kind:
    """One of ALFWorld's six task types: its rooms, its goal in PDDL and in words, and how many of a kind must be moved."""

    rooms: tuple[str, ...]
    goal: str
    words: str
    things: int = 1


def _placed(state: str) -> str:
    return f"(exists (?t - thing ?f - furniture) (and (kindof ?t {{thing}}) (isa ?f {{sort}}) {state}(inside ?t ?f)))"


KINDS = {
    "pick_and_place_simple": Kind(tuple(FURNITURE), _placed(""), "put a {thing} in or on a {sort}"),
    "look_at_obj_in_light": Kind(
        ("bedroom", "study"),
        "(exists (?l - thing ?g - furniture ?s - spot ?t - thing ?a - agent) (and (shines ?l ?g) (stands ?g ?s) "
        "(kindof ?t {thing}) (lit ?l) (at ?a ?s) (holds ?a ?t)))",
        "look at a {thing} in the light of a lamp",
    ),
    "pick_clean_then_place_in_recep": Kind(
        ("kitchen", "bathroom"), _placed("(clean ?t) "), "put a clean {thing} in or on a {sort}"
    ),
    "pick_heat_then_place_in_recep": Kind(("kitchen",), _placed("(hot ?t) "), "put a hot {thing} in or on a {sort}"),
    "pick_cool_then_place_in_recep": Kind(("kitchen",), _placed("(cold ?t) "), "put a cold {thing} in or on a {sort}"),
    "pick_two_obj_and_place": Kind(
        tuple(FURNITURE),
        "(exists (?t - thing ?u - thing ?f - furniture) (and (not (= ?t ?u)) (kindof ?t {thing}) (kindof ?u {thing}) "
        "(isa ?f {sort}) (inside ?t ?f) (inside ?u ?f)))",
        "put two of the kind {thing} in or on a {sort}",
        things=2,
    ),
}


def written_names(split: str, kinds: Sequence[str] = tuple(KINDS)) -> tuple[str, ...]:
    """List the games of a split, by type and then by number."""
    return tuple(f"{split}/{kind}/{number}" for kind in kinds for number in range(GAMES_PER_TYPE[split]))


def kind_of(name: str) -> str:
    """Return the type of a game: the first of the six whose name begins a folder of its path.

    Raises: ValueError: there is none.
    """
    for part in name.replace("\\", "/").split("/"):
        for kind in KINDS:
            if part == kind or part.startswith(f"{kind}-"):
                return kind
    raise ValueError(name)


def written_game(name: str) -> dict[str, str]:
    """Write a game by its name: `pddl_domain`, `grammar` and `pddl_problem`, as TextWorld takes them."""
    split, kind_name, number = name.split("/")
    kind, rng = KINDS[kind_name], Random(f"household game {name}")
    room = kind.rooms[int(number) % len(kind.rooms)]
    pieces = _pieces(room, rng.choice(ROOMS_OF[split]))
    sorts = sorted({_sort(piece) for piece in pieces})
    thing = rng.choice(THINGS[room])
    target = rng.choice([sort for sort in sorts if WORKS.get(sort) is None or kind.goal == KINDS["pick_and_place_simple"].goal])
    places = _places(room, kind, thing, target, pieces, rng)
    goal = kind.goal.format(thing=f"a{thing}", sort=f"a{target}")
    words = kind.words.format(thing=thing, sort=target)
    return {
        "pddl_domain": DOMAIN,
        "grammar": GRAMMAR.replace("GOAL", words),
        "pddl_problem": _problem(room, pieces, places, goal),
    }


def _sort(name: str) -> str:
    """Return what a piece or a thing is, by its name with a number."""
    return name.rpartition("_")[0]


def _pieces(room: str, number: int) -> list[str]:
    """Furnish a room: at least one of what is always there, of everything else what is drawn, four pieces and more."""
    rng = Random(f"household room {room} {number}")
    most = FURNITURE[room]
    counts = {sort: rng.randint(1 if sort in ALWAYS else 0, most[sort]) for sort in most}
    for sort in rng.sample(sorted(most), len(most)):
        if sum(counts.values()) >= 4 and sum(map(bool, counts.values())) >= 3:
            break
        counts[sort] = max(1, counts[sort])
    return [f"{sort}_{count + 1}" for sort in most for count in range(counts[sort])]


def _places(room: str, kind: Kind, thing: str, target: str, pieces: Sequence[str], rng: Random) -> dict[str, str]:
    """Lay the things that are to be moved anywhere but at their end, two to four others anywhere, and a lamp where one is."""
    away = [piece for piece in pieces if _sort(piece) != target]
    places = {f"{thing}_{count + 1}": rng.choice(away) for count in range(kind.things)}
    others = [other for other in THINGS[room] if other != thing]
    for other in rng.sample(others, rng.randint(2, 4)):
        places[f"{other}_1"] = rng.choice(list(pieces))
    if room in KINDS["look_at_obj_in_light"].rooms:
        places[f"{LAMP}_1"] = rng.choice([piece for piece in pieces if _sort(piece) == "desk"])
    return places


def _problem(room: str, pieces: Sequence[str], places: Mapping[str, str], goal: str) -> str:
    """Write the problem. Sorts and kinds are objects named with an a before, apart from the pieces' and things' own names."""
    objects = ["me - agent", "door - spot", *(f"by_{piece} - spot {piece} - furniture" for piece in pieces)]
    objects += [f"{thing} - thing" for thing in places]
    objects += [f"a{sort} - sort" for sort in sorted(set(map(_sort, pieces)))]
    objects += [f"a{kind} - kind" for kind in sorted(set(map(_sort, places)))]
    facts = ["(at me door)"]
    for piece in pieces:
        sort = _sort(piece)
        facts += [f"(stands {piece} by_{piece})", f"(isa {piece} a{sort})"]
        facts += [f"(closable {piece})"] if sort in CLOSABLE else []
        facts += [f"({WORKS[sort]} {piece})"] if sort in WORKS else []
    for thing, piece in places.items():
        facts += [f"(kindof {thing} a{_sort(thing)})", f"(inside {thing} {piece})"]
        facts += [f"(shines {thing} {piece})"] if _sort(thing) == LAMP else [f"(portable {thing})"]
    lines = [f"(define (problem {room})", "  (:domain household)", "  (:objects", *(f"    {each}" for each in objects), "  )"]
    return "\n".join([*lines, "  (:init", *(f"    {fact}" for fact in facts), "  )", f"  (:goal {goal}))", ""])
