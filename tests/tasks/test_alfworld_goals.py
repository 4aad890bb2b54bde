"""How much of a game's goal is reached, against PDDL's own meaning and counts by hand."""

import itertools
from random import Random

import pytest

from gtrturbo.tasks.alf.goals import Goal, parse, typed
from gtrturbo.tasks.alf.written import KINDS, written_game

RULES = """(define (domain small) (:types thing furniture - object kind)
  (:action do :parameters (?t - thing ?f - furniture) :precondition ()
    :effect (and (inside ?t ?f) (when (hot ?t) (not (hot ?t))) (forall (?g - furniture) (not (ajar ?g))))))"""
THINGS = (
    "(define (problem p) (:objects a b c - thing s t - furniture cup - kind) (:init (kindof a cup) (kindof b cup) (isa s cup))"
)


def goal(text):
    return Goal.of(RULES, f"{THINGS} (:goal {text}))")


def rate(text, *facts):
    return goal(text).rate({tuple(fact.split()) for fact in facts})


def test_an_expression_is_read_in_lower_case_without_comments():
    assert parse("(And (Hot ?X) ; not this )\n ())") == ["and", ["hot", "?x"], []]
    for damaged in ("", "(a", "a)", "(a))", "(a) (b)", "a", "(" * 200 + ")" * 200):
        with pytest.raises(ValueError, match=r"one list|too deep"):
            parse(damaged)
    assert typed(["a", "b", "-", "x", "c"]) == [("a", "x"), ("b", "x"), ("c", "object")]


def test_what_an_effect_names_changes_and_the_rest_does_not():
    found = goal("(and)")
    assert found.changing == {"inside", "hot", "ajar"}
    assert list(found.objects["object"]) == ["a", "b", "c", "s", "t", "cup"]


def test_of_a_thing_of_the_right_kind_each_condition_that_can_change_counts():
    text = "(exists (?t - thing ?f - furniture) (and (kindof ?t cup) (isa ?f cup) (hot ?t) (inside ?t ?f)))"
    assert rate(text) == 0
    assert rate(text, "hot c", "inside c s") == 0  # c is no cup.
    assert rate(text, "hot a") == 0.5
    assert rate(text, "hot a", "inside b s") == 0.5  # Not the same cup.
    assert rate(text, "hot a", "inside a t") == 0.5  # Not the right furniture.
    assert rate(text, "hot a", "inside a s") == 1


def test_two_things_are_two():
    text = (
        "(exists (?t - thing ?f - furniture) (and (kindof ?t cup) (isa ?f cup) (inside ?t ?f) "
        "(exists (?u - thing) (and (not (= ?t ?u)) (kindof ?u cup) (inside ?u ?f)))))"
    )
    assert rate(text) == 0
    assert rate(text, "inside a s") == 0.5
    assert rate(text, "inside a s", "inside b t") == 0.5
    assert rate(text, "inside a s", "inside b s") == 1


def test_parts_that_stand_beside_each_other_count_each():
    text = "(and (exists (?t - thing) (hot ?t)) (forall (?g - furniture) (not (ajar ?g))) (or (hot a) (hot b)) (kindof a cup))"
    assert rate(text, "ajar s") == 0
    assert rate(text) == pytest.approx(1 / 3)
    assert rate(text, "hot c") == pytest.approx(2 / 3)
    assert rate(text, "hot a") == 1


def test_a_goal_without_a_thing_that_fits_is_never_met():
    assert rate("(exists (?t - thing) (and (isa ?t nothing) (hot ?t)))", "hot a") == 0
    assert rate("(imply (hot a) (hot b))") == rate("(imply (hot a) (hot b))", "hot b") == 1
    assert rate("(imply (hot a) (hot b))", "hot a") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_a_written_game_is_that_of_all_choices_of_things_one_by_one(kind):
    """Every choice of things for the goal's names, those of the wrong kind left out, and the literals of each counted."""
    game = written_game(f"train/{kind}/1")
    found = Goal.of(game["pddl_domain"], game["pddl_problem"])
    _, names, body = found.tree
    names, literals = typed(names), body[1:]
    changing = [each for each in literals if each[0] in ("inside", "hot", "cold", "clean", "lit", "at", "holds")]
    choices = []
    for values in itertools.product(*(found.objects[type_] for _, type_ in names)):
        chosen = dict(zip((name for name, _ in names), values, strict=True))
        written = lambda literal, chosen=chosen: tuple(chosen.get(word, word) for word in literal)  # noqa: E731
        fixed = [each for each in literals if each not in changing and each[0] != "not"]
        if all(written(each) in found.facts for each in fixed) and (
            kind != "pick_two_obj_and_place" or len({*values}) == len(values)
        ):
            choices.append([written(each) for each in changing])
    rng, possible = Random(0), sorted({fact for choice in choices for fact in choice})
    assert choices and found.rate(found.facts) == 0
    rates = set()
    for _ in range(60):
        facts = set(rng.sample(possible, rng.randint(0, min(4, len(possible)))))
        expected = max(sum(fact in facts for fact in choice) / len(choice) for choice in choices)
        assert found.rate(facts) == pytest.approx(expected)
        assert found.holds(found.tree, {}, facts | found.facts) is (expected == 1)
        rates.add(expected)
    assert {0, 1} < rates or kind == "pick_and_place_simple"
