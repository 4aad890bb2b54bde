"""The interface that everything else uses."""

import json
import subprocess
import sys

import numpy as np
import pytest
from games import prompt_text
from gymnasium.utils.env_checker import check_env

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import Ending


def play_expert(task, env, seed: int):
    """Let the expert play one episode; every reply must parse, read truly and be one line."""
    _, info = env.reset(seed=seed)
    for turn in range(1, task.max_turns + 1):
        text = task.expert_reply(info)
        reply = task.read(text, {})
        assert reply is not None and task.perception_correct(reply, info) and "\n" not in text
        assert text == json.dumps(reply.fields)
        _, reward, terminated, truncated, info = env.step(task.actions.index(reply.action))
        if terminated or truncated:
            return reward, info, turn
    raise AssertionError("the episode did not end")


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("image", ["full", "tiny"])
@pytest.mark.filterwarnings("error::UserWarning")
def test_gymnasiums_checker_is_content(name, image):
    task = load_task(name, [f"image={image}"])
    check_env(task.make().unwrapped)


@pytest.mark.parametrize(
    ("name", "options", "episodes"),
    [
        ("numberline", [], 40),
        ("numberline", ["line=30", "horizon=30"], 20),
        ("ezpoints", [], 60),
        ("ezpoints", ["face_cards_as_10=false", "arithmetic=original"], 40),
        ("points24", ["solvable_only=true"], 60),
        ("points24", ["solvable_only=true", "face_cards_as_10=false"], 30),
    ],
)
def test_the_expert_wins_every_solvable_game(name, options, episodes):
    task = load_task(name, ["image=tiny", *options])
    env = task.make()
    for seed in range(episodes):
        reward, info, turns = play_expert(task, env, seed)
        assert task.won(Ending(info, 0.0, True)) and reward > 0 and turns <= task.max_turns


def test_the_blackjack_expert_ends_every_game_and_wins_its_share():
    # Best play wins 43 % of the games (and draws 9 %).
    task = load_task("blackjack", ["image=tiny"])
    env = task.make()
    wins = sum(task.won(Ending(play_expert(task, env, seed)[1], 0.0, True)) for seed in range(600))
    assert abs(wins / 600 - 0.43) < 0.08


def test_the_expert_recovers_where_it_can():
    task = load_task("points24", ["image=tiny"])
    env = task.make()
    _, info = env.reset(seed=0, options={"cards": ["HA", "S5", "D5", "C5"]})
    for item in ("9", "(", "5"):
        *_, info = env.step(task.actions.index(item))
    while not info["won"]:
        reply = task.read(task.expert_reply(info), {})
        _, _, ended, _, info = env.step(task.actions.index(reply.action))
        assert info["won"] or not ended


def test_the_expert_gives_an_unsolvable_hand_up():
    task = load_task("points24")
    _, info = task.make().reset(seed=0, options={"cards": ["HA", "SA", "DA", "CA"]})
    assert json.loads(task.expert_reply(info))["action"] == "="


@pytest.mark.parametrize(("name", "sizes"), [("ezpoints", 2), ("points24", 4)])
def test_a_novice_uses_each_card_once_with_a_sign_between(name, sizes):
    task, rng, signs = load_task(name, ["image=tiny"]), np.random.default_rng(0), set()
    env = task.make()
    for seed in range(40):
        _, info = env.reset(seed=seed)
        for turn in range(2 * sizes):
            reply = task.read(task.random_expert_reply(info, rng), {})
            assert reply is not None
            assert task.perception_correct(reply, info)
            assert reply.action.isdecimal() == (turn % 2 == 0)
            signs |= {reply.action} if turn % 2 and turn < 2 * sizes - 1 else set()
            _, _, ended, cut, info = env.step(task.actions.index(reply.action))
        assert ended and not cut
        assert sorted(int(item) for item in info["Formula"] if item.isdecimal()) == sorted(info["Numbers"])
    assert signs == ({"+", "*"} if name == "ezpoints" else set("+-*/"))


def test_blackjack_truth_and_expert_ignore_the_hidden_card():
    task = load_task("blackjack")
    env = task.make()
    infos = [env.reset(options={"player": ["HT", "S5"], "dealer": ["D6", hidden]})[1] for hidden in ("C9", "HA")]
    assert task.truth(infos[0]) == task.truth(infos[1]) == {"player total": 15, "dealer card": "6"}
    assert task.expert_reply(infos[0]) == task.expert_reply(infos[1])
    assert prompt_text(task, infos[0]) == prompt_text(task, infos[1])


def test_truth_is_what_the_picture_shows():
    env = load_task("points24").make()
    _, info = env.reset(options={"cards": ["HT", "SA", "DK", "C7"]})
    for action in (9, 9, 10):  # 10, a second 10 for the king, +
        *_, info = env.step(action)
    assert load_task("points24").truth(info) == {"cards": ["10", "A", "K", "7"], "formula": "10 10 +"}
    assert load_task("numberline").truth({"Target": 4, "Current": 0}) == {"current number": 0, "target number": 4}


@pytest.mark.parametrize(
    ("cards", "formula", "true"),
    [
        (["10", "A", "K", "7"], "10 +", True),
        (["T", "a", "K", 7], "10+", True),
        ([10, "A", "K", "7"], " 10  + ", True),
        (["A", "10", "K", "7"], "10 +", False),
        (["10", "A", "K"], "10 +", False),
        (["10", "1", "K", "7"], "10 +", False),
        (["10", "A", "K", "7"], "10", False),
        ("10 A K 7", "10 +", False),
        ([10.0, "A", "K", "7"], "10 +", False),
        ([True, "A", "K", "7"], "10 +", False),
    ],
)
def test_reading_is_judged_field_by_field(cards, formula, true):
    task = load_task("points24")
    info = {"Cards": ["HT", "SA", "DK", "C7"], "Numbers": [10, 1, 10, 7], "Formula": ["10", "+", " "], "won": False}
    reply = task.read(json.dumps({"cards": cards, "formula": formula, "thoughts": "", "action": "7"}), {})
    assert task.perception_correct(reply, info) is true


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_short_and_name_the_fields_and_actions(name):
    task = load_task(name)
    _, info = task.make().reset(seed=0)
    prompt = prompt_text(task, info)
    assert len(prompt.split()) <= 90
    fields = [*task.truth(info), "thoughts", "action"]
    places = [prompt.rindex(f'"{field}": ') for field in fields]
    assert places == sorted(places)
    assert all(action in prompt for action in task.actions)


def test_numberline_prompt_tells_no_numbers_of_the_state():
    task = load_task("numberline")
    env = task.make()
    prompts = {prompt_text(task, env.reset(seed=seed)[1]) for seed in range(20)}
    assert len(prompts) == 1


def test_card_prompts_tell_the_formula_and_not_the_cards():
    task = load_task("points24")
    env = task.make()
    _, info = env.reset(seed=0)
    _, other = env.reset(seed=1)
    assert prompt_text(task, info) == prompt_text(task, other)
    assert '"10 * ("' in prompt_text(task, {**info, "Formula": ["10", " ", "*", "("]})


def test_options_are_read():
    task = load_task("numberline", ["image=tiny", "line=9"])
    assert task.options == {"image": "tiny", "line": 9, "horizon": 10}
    assert task.make().observation_space.shape == (56, 112, 3)
    assert load_task("gtrturbo/Points24-v0", ["solvable_only=true"]).options["solvable_only"] is True
    assert load_task("points24", ["deals=train", "deals=held-out"]).options["deals"] == "held-out"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chess", [], "numberline, ezpoints, blackjack, points24"),
        ("numberline", ["size=3"], "image, line, horizon"),
        ("numberline", ["line"], "key=value"),
        ("numberline", ["line=1"], "from 2 to 99, got 1"),
        ("numberline", ["line=many"], "got 'many'"),
        ("numberline", ["image=huge"], "full or tiny, got 'huge'"),
        ("points24", ["solvable_only=yes"], "true or false, got 'yes'"),
        ("points24", ["family=products"], "family must be any or signs or sums, got 'products'"),
        ("points24", ["deals=test"], "deals must be all or train or held-out, got 'test'"),
        ("ezpoints", ["deals=train"], "image, face_cards_as_10, arithmetic, overlong"),
        ("ezpoints", ["solvable_only=true"], "image, face_cards_as_10, arithmetic"),
    ],
)
def test_wrong_tasks_and_options_are_named(name, options, message):
    with pytest.raises(GtrTurboError, match=message):
        load_task(name, options)


def test_chance_on_numberline_is_what_was_measured():
    # Random moves on 0..5 in ten turns succeed in 60 %, one move over and over in half of the 30 pairs.
    got = chance(load_task("numberline"), episodes=400, seed=0)
    assert abs(got["random"] - 0.6) < 0.1 and abs(got["constant"] - 0.5) < 0.1
    assert got["random_return"] > got["constant_return"] and got["constant_action"] in (0, 1)


def test_chance_is_reproducible():
    task = load_task("blackjack")
    assert chance(task, episodes=30, seed=5) == chance(task, episodes=30, seed=5)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("image", ["full", "tiny"])
def test_a_seed_fixes_cards_and_pixels(name, image):
    task = load_task(name, [f"image={image}"])
    runs = []
    for _ in range(2):
        env = task.make()
        observation, info = env.reset(seed=7)
        later, *_, last = env.step(1)
        runs.append((observation.tobytes(), info, later.tobytes(), last))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", TASKS)
def test_seeds_differ(name):
    env = load_task(name, ["image=tiny"]).make()
    assert len({str(env.reset(seed=seed)[1]) for seed in range(20)}) > 8


def test_the_global_generators_change_nothing():
    np.random.seed(0)
    env = load_task("points24").make()
    first = env.reset(seed=3)[1]
    np.random.seed(1)
    assert env.reset(seed=3)[1] == first


def test_importing_the_package_registers_the_games():
    code = (
        "import gymnasium as gym, sys; gym.make('gtrturbo.tasks:gtrturbo/NumberLine-v0'); import gtrturbo.tasks as envs; "
        "envs.register_envs(); gym.make('gtrturbo/Points24-v0'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
