"""Sokoban: distances and deadlocks against a search of moves, levels of the difficulty that is stated, rewards event by event."""

from collections import deque

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import Ending, View
from gtrturbo.tasks.worlds.levels import distances, draw_level, level_of, moved, next_push, pushes_left
from gtrturbo.tasks.worlds.moves import MOVES


def searched(level):
    """Count the fewest pushes that solve a level move by move: a push costs 1, a step 0. None where nothing solves it."""
    waiting, best = deque([(0, level)]), {level: 0}
    while waiting:
        cost, state = waiting.popleft()
        if cost > best[state]:
            continue
        if state.solved:
            return cost
        for move in MOVES:
            after = moved(state, move)
            price = cost + (after.boxes != state.boxes)
            if price < best.get(after, 1_000):
                best[after] = price
                (waiting.append if price > cost else waiting.appendleft)((price, after))
    return None


def wandered(level, rng, moves):
    for _ in range(moves):
        level = moved(level, list(MOVES)[rng.integers(4)])
    return level


@pytest.mark.parametrize(("size", "boxes"), [(5, 1), (6, 1), (6, 2)])
def test_pushes_left_and_deadlocks_are_those_of_a_search_of_moves(size, boxes):
    rng, kinds = np.random.default_rng(size + boxes), set()
    for _ in range(25):
        level = wandered(draw_level(rng, size=size, boxes=boxes, fewest=1, most=6), rng, moves=25)
        expected = searched(level)
        assert pushes_left(level) == expected
        kinds.add(expected is None)
    assert kinds == {True, False}


@pytest.mark.parametrize(("boxes", "fewest", "most"), [(1, 2, 2), (2, 3, 5)])
def test_levels_have_the_difficulty_that_is_asked_for(boxes, fewest, most):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(15):
        level = draw_level(rng, size=6, boxes=boxes, fewest=fewest, most=most)
        assert fewest <= searched(level) <= most
        assert len(level.boxes) == len(level.room.targets) == boxes and level.player in level.room.floor - level.boxes
        seen.add(pushes_left(level))
    assert len(seen) >= min(2, most - fewest + 1)


def test_the_expert_pushes_no_more_often_than_is_needed():
    task = load_task("sokoban", ["boxes=2", "most_pushes=6"])
    env = task.blind()
    for seed in range(25):
        known = env.reset(seed=seed)[1]
        needed, pushes, before = known["pushes left"], 0, level_of(known["level"])
        while not known["won"]:
            reply = task.read(task.expert_reply(known), known)
            assert reply is not None and task.perception_correct(reply, known)
            known = env.step(task.given(reply.action, known))[4]
            pushes += level_of(known["level"]).boxes != before.boxes
            before = level_of(known["level"])
        assert pushes == needed


LEVEL = ["#####", "#@$.#", "#   #", "#   #", "#####"]


def started(level):
    env = load_task("sokoban", ["size=5"]).blind().unwrapped
    env.reset(seed=0, options={"level": level})
    return env


def test_rewards_event_by_event():
    env = started(LEVEL)
    assert env.step(0)[1:4] == (0.0, False, False)  # a wall is in the way
    assert env.step(2)[1:4] == (1.0, True, False)  # the box goes onto the target
    assert env.level.lines[1] == "# @*#" and env.level.solved
    env = started(["#####", "#@$ #", "# . #", "#   #", "#####"])
    *_, info = env.step(2)  # the box stands in the corner
    assert info["deadlock"] and not info["won"]
    assert started(["#####", "#@$ #", "# . #", "#   #", "#####"]).step(2)[1:4] == (-1.0, True, False)
    env = started(["#####", "#@* #", "# $.#", "#   #", "#####"])
    assert env.step(2)[1:4] == (-2.0, True, False)  # off its target, and never back: the corner


def test_a_box_is_not_pushed_into_a_wall_or_another_box():
    two = level_of(["######", "#@$$ #", "#  ..#", "#    #", "#    #", "######"])
    assert moved(two, "right") == two
    assert moved(level_of(["#####", "# @$#", "#  .#", "#   #", "#####"]), "right").player == (1, 2)


def test_a_level_is_written_and_read_back():
    for seed in range(10):
        level = draw_level(np.random.default_rng(seed), size=7, boxes=3, fewest=1, most=8)
        assert level_of(level.lines) == level


def test_a_lost_level_has_no_push_and_the_expert_still_replies():
    task = load_task("sokoban", ["size=5"])
    lost = {"level": ["#####", "# @$#", "# . #", "#   #", "#####"]}
    assert next_push(level_of(lost["level"])) is None
    assert task.read(task.expert_reply(lost), lost) is not None


def test_gymnasiums_checker_is_content_and_only_a_solved_level_is_won():
    task = load_task("sokoban", ["size=5"])
    check_env(task.make().unwrapped, skip_render_check=True)
    assert not task.won(Ending({"won": False}, 1.0, True)) and task.won(Ending({"won": True}, 0.0, True))


def test_every_kind_of_cell_looks_otherwise():
    env = load_task("sokoban", ["size=6"]).make().unwrapped
    env.reset(seed=0, options={"level": ["######", "#@$.*#", "# +  #", "#    #", "#    #", "######"]})
    picture = env.render()
    kinds = {(row, column): picture[50 * row : 50 * row + 50, 50 * column : 50 * column + 50].tobytes() for row, column in
             [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]}  # fmt: skip
    assert len(set(kinds.values())) == len(kinds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["size=4"], "from 5 to 9"),
        (["fewest_pushes=5"], "most_pushes is 4, fewer than fewest_pushes, 5"),
        (["size=5", "boxes=1", "fewest_pushes=39", "most_pushes=40"], "takes 39 to 40 pushes"),
    ],
)
def test_levels_that_cannot_be_are_refused(options, message):
    with pytest.raises(GtrTurboError, match=message):
        load_task("sokoban", options).blind().reset(seed=0)


@pytest.mark.parametrize(("look", "pictures"), [("picture", 1), ("text", 0), ("both", 1)])
def test_a_room_is_shown_as_a_picture_as_lines_or_both(look, pictures):
    task = load_task("sokoban", [f"look={look}", "size=5"])
    env = task.make()
    lines = ["#####", "#@$.#", "#####", "#####", "#####"]
    observation, info = env.reset(options={"level": lines})
    prompt = task.prompt(View(observation, task.know(env, observation, info), (), env.render))
    text = prompt.messages[0]["content"][-1]["text"]
    assert len(prompt.images) == pictures and text.endswith("\n" + "\n".join(lines)) == (look != "picture")
    assert ("blue disc" in text) == (look != "text")
    env.close()


def test_levels_that_are_hardly_to_be_found_are_refused_soon(monkeypatch):
    searched = []
    monkeypatch.setattr("gtrturbo.tasks.worlds.levels.MOST_SEARCHED", 500)
    monkeypatch.setattr("gtrturbo.tasks.worlds.levels.distances", lambda room: searched.append(distances(room)) or searched[-1])
    with pytest.raises(GtrTurboError, match="no room of 6 by 6 with 1 boxes was found that takes 40 to 40 pushes"):
        draw_level(np.random.default_rng(0), size=6, boxes=1, fewest=40, most=40)
    assert sum(map(len, searched[:-1])) <= 500 < sum(map(len, searched))
