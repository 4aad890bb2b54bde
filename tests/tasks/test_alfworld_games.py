"""The written games: which there are, what they are made of, and where the real ones are found."""

import json
import subprocess
import sys

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.alf.goals import Goal
from gtrturbo.tasks.alf.library import SPLITS, chosen_kinds, games_version, library
from gtrturbo.tasks.alf.textworld_engine import alfworld_names, evaluated, written_names_of
from gtrturbo.tasks.alf.written import CLOSABLE, KINDS, THINGS, kind_of, written_game, written_names

ALL = [name for split in SPLITS for name in written_names(split)]


def test_there_are_120_games_of_six_types_and_each_is_another_one():
    assert len(ALL) == len(set(ALL)) == 120
    counts = {split: {kind: sum(kind_of(name) == kind for name in written_names(split)) for kind in KINDS} for split in SPLITS}
    assert counts == {"train": dict.fromkeys(KINDS, 12), "seen": dict.fromkeys(KINDS, 4), "unseen": dict.fromkeys(KINDS, 4)}
    texts = [written_game(name)["pddl_problem"] for name in ALL]
    assert len(set(texts)) == 120


def furniture(name):
    found = Goal.of(*(written_game(name)[part] for part in ("pddl_domain", "pddl_problem")))
    return tuple(found.objects["furniture"])


def test_seen_games_are_in_rooms_of_train_and_unseen_ones_are_not():
    rooms = {split: {furniture(name) for name in written_names(split)} for split in SPLITS}
    assert rooms["seen"] <= rooms["train"]
    assert not rooms["unseen"] & rooms["train"]


@pytest.mark.parametrize("name", ALL[::7])
def test_no_goal_is_reached_at_the_start_and_everything_it_needs_is_there(name):
    game = written_game(name)
    found = Goal.of(game["pddl_domain"], game["pddl_problem"])
    assert found.rate(found.facts) == 0
    assert {fact[1] for fact in found.facts if fact[0] == "closable"} == {
        piece for piece in furniture(name) if piece.rpartition("_")[0] in CLOSABLE
    }
    needed = {"heat": "heats", "cool": "cools", "clean": "cleans", "look": "shines"}
    for word, predicate in needed.items():
        if word in kind_of(name).split("_"):
            assert any(fact[0] == predicate for fact in found.facts)
    [wanted] = {
        thing for things in THINGS.values() for thing in things if f" {thing} " in f" {game['grammar'].split('task is to: ')[1]} "
    }
    count = sum(fact[0] == "kindof" and fact[2] == f"a{wanted}" for fact in found.facts)
    assert count == (2 if kind_of(name) == "pick_two_obj_and_place" else 1)


def test_a_game_is_the_same_in_another_process():
    code = "from gtrturbo.tasks.alf.library import library; print(library('unseen', 'written').sha256)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.strip() == library("unseen", "written").sha256


def test_what_is_not_possible_is_refused_with_what_is():
    with pytest.raises(GtrTurboError, match="'pick_heat' is no task type of ALFWorld") as error:
        chosen_kinds("pick_heat")
    assert error.value.fix.startswith("the closest is pick_heat_then_place_in_recep; they are: pick_and_place_simple, ")
    assert chosen_kinds("pick_two_obj_and_place, look_at_obj_in_light") == ("look_at_obj_in_light", "pick_two_obj_and_place")
    with pytest.raises(ValueError, match="elsewhere"):
        kind_of("elsewhere")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Lay games where ALFWorld's download lays them: two versions, one kind of task that no engine plays, one unsolvable game."""

    def lay(folder, solvable=True):
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / "traj_data.json").write_text("{}")
        (place / "game.tw-pddl").write_text(json.dumps({"solvable": solvable, "pddl_problem": folder}))

    lay("json_2.1.0/train/pick_heat_then_place_in_recep-Egg-None-Shelf-1/trial_1")
    lay("json_2.1.1/train/pick_two_obj_and_place-Mug-None-Desk-308/trial_2")
    lay("json_2.1.1/train/pick_two_obj_and_place-Mug-None-Desk-308/trial_1", solvable=False)
    lay("json_2.1.1/train/pick_and_place_with_movable_recep-Mug-Bowl-Desk-308/trial_1")
    lay("json_2.1.1/train/look_at_obj_in_light-AppleSliced-None-DeskLamp-3/trial_1")
    lay("json_2.1.1/valid_seen/pick_heat_then_place_in_recep-Egg-None-Shelf-1/trial_1")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    return tmp_path


def test_real_games_are_those_of_the_newest_version_that_an_engine_plays(data):
    found = library("train")
    assert found.names == tuple(f"json_2.1.1/train/pick_two_obj_and_place-Mug-None-Desk-308/trial_{each}" for each in (1, 2))
    assert games_version(found) == "json_2.1.1, 2 games"
    assert found.game(0).name == found.game(1).name == found.names[1]  # The first cannot be won.
    assert library("seen").names[0].endswith("Egg-None-Shelf-1/trial_1")
    before = found.sha256
    (data / found.names[1] / "game.tw-pddl").write_text('{"solvable": true}')
    assert library("train").sha256 != before
    assert library("train", "written").root is None


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is damaged"), ("[]", "holds no game"), ("[" * 99999, "is damaged"), ("\xff", "")]
)
def test_a_damaged_game_is_named(data, content, said):
    file = data / library("seen").names[0] / "game.tw-pddl"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(GtrTurboError, match=f"game.tw-pddl is damaged.*{said}|{said}"):
        library("seen").game(0)


def test_missing_games_are_told_with_the_line_that_brings_them(data, monkeypatch):
    with pytest.raises(GtrTurboError, match="holds no games of the split unseen") as error:
        library("unseen")
    assert error.value.fix.startswith("run: alfworld-download")
    with pytest.raises(GtrTurboError, match="holds no games of these types of the split seen"):
        library("seen", kinds=("look_at_obj_in_light",))
    monkeypatch.delenv("ALFWORLD_DATA")
    with pytest.raises(GtrTurboError, match="ALFWORLD_DATA is not set"):
        library("train", "data")
    assert library("train").root is None


def test_names_are_those_that_players_know():
    ids = ["mug_bar__minus_1", "mug_bar__plus_2", "sink_bar_1_bar_sinkbasin", "sink_bar_1", "agent1", "loc_bar__minus_3"]
    named = alfworld_names(ids)  # Ids in their order count downwards: Demangler takes the numbers from the end of its list.
    assert named == {
        "mug_bar__minus_1": "mug 2",
        "mug_bar__plus_2": "mug 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "sink_bar_1": "sink 1",
        "agent1": "agent1",
        "loc_bar__minus_3": "loc 1",
    }
    assert written_names_of(["mug_1", "me"]) == {"mug_1": "mug 1", "me": "me"}


def test_words_of_a_grammar_are_joined_and_nothing_is_run():
    class Thing:
        name, indefinite, id = "mug 1", "a", "mug_1"

    names = {"o": Thing()}
    assert evaluated("o.indefinite + ' ' + o.name", names) == "a mug 1"
    assert evaluated(" o.name or o.id ", names) == "mug 1"
    assert evaluated("o", names) is names["o"]
    for outside in (
        "__import__('os').getcwd()",
        "o.__class__",
        "open('x')",
        "[o for o in o]",
        "o.name * 9",
        "1",
        "x.name",
        "(" * 500,
    ):
        with pytest.raises(GtrTurboError, match="a game's grammar holds"):
            evaluated(outside, names)
