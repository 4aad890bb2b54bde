"""The rules of the written games: a domain in PDDL, and the words in which TextWorld tells what happens.

Predicates of the goal that no action changes are what a thing or a piece of furniture is; the others are what is to be done.
"""

HOUSEHOLD_VERSION = "1"
GOAL_MARK = "Your task is to: "  # Before the goal in the first observation, as in ALFWorld's own games.

DOMAIN = """(define (domain household)
  (:requirements :adl :typing)
  (:types agent spot furniture thing sort kind)
  (:predicates
    (at ?a - agent ?s - spot)
    (stands ?f - furniture ?s - spot)
    (isa ?f - furniture ?sort - sort)
    (closable ?f - furniture)
    (ajar ?f - furniture)
    (heats ?f - furniture)
    (cools ?f - furniture)
    (cleans ?f - furniture)
    (kindof ?t - thing ?kind - kind)
    (inside ?t - thing ?f - furniture)
    (portable ?t - thing)
    (shines ?t - thing ?f - furniture)
    (lit ?t - thing)
    (hot ?t - thing)
    (cold ?t - thing)
    (clean ?t - thing)
    (holds ?a - agent ?t - thing)
    (laden ?a - agent)
    (looked ?a - agent))
  (:action look
    :parameters (?a - agent)
    :precondition ()
    :effect (looked ?a))
  (:action inventory
    :parameters (?a - agent)
    :precondition ()
    :effect (looked ?a))
  (:action walk
    :parameters (?a - agent ?from - spot ?s - spot ?f - furniture)
    :precondition (and (at ?a ?from) (stands ?f ?s) (not (= ?from ?s)))
    :effect (and (not (at ?a ?from)) (at ?a ?s)))
  (:action openup
    :parameters (?a - agent ?s - spot ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (closable ?f) (not (ajar ?f)))
    :effect (ajar ?f))
  (:action shut
    :parameters (?a - agent ?s - spot ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (closable ?f) (ajar ?f))
    :effect (not (ajar ?f)))
  (:action take
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (inside ?t ?f) (portable ?t) (not (laden ?a))
                       (or (not (closable ?f)) (ajar ?f)))
    :effect (and (not (inside ?t ?f)) (holds ?a ?t) (laden ?a)))
  (:action put
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (holds ?a ?t) (or (not (closable ?f)) (ajar ?f)))
    :effect (and (inside ?t ?f) (not (holds ?a ?t)) (not (laden ?a))))
  (:action heat
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (heats ?f) (holds ?a ?t))
    :effect (and (hot ?t) (not (cold ?t))))
  (:action cool
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (cools ?f) (holds ?a ?t))
    :effect (and (cold ?t) (not (hot ?t))))
  (:action wash
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (cleans ?f) (holds ?a ?t))
    :effect (clean ?t))
  (:action light
    :parameters (?a - agent ?s - spot ?t - thing ?f - furniture)
    :precondition (and (at ?a ?s) (stands ?f ?s) (shines ?t ?f) (not (lit ?t)))
    :effect (lit ?t)))
"""

# GOAL stands for the goal in words.
GRAMMAR = '''grammar :: """
{
  "intro": [{"rhs": "The room has #furniture#.\\n\\nYour task is to: GOAL."}],
  "furniture": [{"rhs": "[{f.indefinite + ' ' + f.name | stands(f:furniture, s:spot)}]"}],
  "contents": [
    {"condition": "closable(f:furniture) & ajar(f:furniture)", "rhs": "#inside#"},
    {"condition": "closable(f:furniture)", "rhs": "The {f.name} is closed."},
    {"rhs": "#inside#"}
  ],
  "inside": [{"rhs": "In or on the {f.name} you see [{x.indefinite + ' ' + x.name | inside(x:thing, f:furniture)}]."}],
  "hands": [{"rhs": "You hold [{x.indefinite + ' ' + x.name | holds(a:agent, x:thing)}]."}],
  "list_empty": [{"rhs": "nothing"}],
  "list_separator": [{"rhs": ", "}],
  "list_last_separator": [{"rhs": ", and "}]
}
""";
action look { template :: "look"; feedback :: "#lookhere#";
  grammar :: """
  {"lookhere": [
    {"condition": "at(a:agent, s:spot) & stands(f:furniture, s:spot)",
     "rhs": "[{#standing(f)# | at(a:agent, s:spot) & stands(f:furniture, s:spot)}]"},
    {"rhs": "You stand at the door. The room has #furniture#."}],
   "standing(f)": [{"rhs": "You stand by the {f.name}. #contents#"}]}
  """; }
action inventory { template :: "inventory"; feedback :: "#hands#"; }
action walk { template :: "go to {f}"; feedback :: "You stand by the {f.name}. #contents#"; }
action openup { template :: "open {f}"; feedback :: "You open the {f.name}. #contents#"; }
action shut { template :: "close {f}"; feedback :: "You close the {f.name}."; }
action take { template :: "take {t} from {f}"; feedback :: "You take the {t.name}."; }
action put { template :: "move {t} to {f}"; feedback :: "You put the {t.name} down. #contents#"; }
action heat { template :: "heat {t} with {f}"; feedback :: "The {t.name} is hot."; }
action cool { template :: "cool {t} with {f}"; feedback :: "The {t.name} is cold."; }
action wash { template :: "clean {t} with {f}"; feedback :: "The {t.name} is clean."; }
action light { template :: "use {t}"; feedback :: "The {t.name} is on."; }
'''
