"""gym:ID with environments that are odd in one way each: what is recorded of them is true, and what is wrong is said."""

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import odd_environments
import pytest
from own_tasks import show
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.environment_checks import environment, rewards, success
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.reply_checks import worded
from gtrturbo.play.trial import play
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.deals import episode_seed
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Ending, ask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def loaded(name: str, *options: str) -> Task:
    return load_task(f"gym:odd_environments:odd/{name}-v0", options)


def own(name: str) -> Task:
    """Bring the same environment as a task of one's own, with frames."""
    make = lambda: getattr(odd_environments, name)(render_mode="rgb_array")  # noqa: E731
    return Task(name="mine", make=make, prompt=show, actions=("a", "b"), max_turns=5)


def played(task: Task):
    [episode] = play(task, num_envs=1, episodes=1)
    return episode


def words(state) -> str:
    return state.messages[0]["content"][-1]["text"]


# What is recorded


@pytest.mark.parametrize("task", [loaded("OneFrame", "frames=2"), own("OneFrame"), own("OneObservation")], ids=lambda t: t.name)
def test_each_turn_keeps_the_picture_that_was_shown_though_all_are_drawn_into_one(task):
    # The n-th picture, from 1, is all of the value 10 n, and where two are shown the one before comes first.
    shown = [[int(image[0, 0, 0]) for image in turn.state.images] for turn in played(task)]
    assert [each[-1] for each in shown] == [10, 20, 30]
    assert [each[0] for each in shown] == ([10, 10, 20] if len(shown[-1]) == 2 else [10, 20, 30])


def test_frames_in_dicts_are_kept_too():
    task = replace(own("OneDict"), prompt=lambda view: ask("?", view.observation["frame"]), known=lambda *_: {})
    assert [int(turn.state.images[0][0, 0, 0]) for turn in played(task)] == [10, 20, 30]


def test_numbers_of_actions_are_those_of_the_environment():
    task = loaded("FromOne")
    assert task.allowed({}) == ("1", "2", "3")
    [episode] = play_episodes(
        lambda states: [Response('{"thoughts": "", "action": "2"}') for _ in states],
        replace(task, max_turns=1),
        seed=0,
        episodes=range(1),
        num_envs=1,
        on_invalid_reply="end",
    )
    assert episode[0].after.info["given"] == 2


def test_ten_tenths_are_a_win_from_1_and_nine_are_none():
    won = lambda *options: played(loaded("Tenths", "win_return=1", *options))[-1].turn.won  # noqa: E731
    assert won() and not won("horizon=9")
    assert chance(loaded("Tenths", "win_return=1"), episodes=2, seed=0)["random"] == 1.0
    summed = replace(own("Tenths"), max_turns=10, won=lambda end: end.total >= 1)  # 0.1 ten times, one after another: 0.999…
    assert played(summed)[-1].turn.won


def test_an_info_that_says_who_won_counts_more_than_a_threshold_and_less_than_what_was_asked_for():
    won = lambda info, total, *options: loaded("Telling", *options).won(Ending(info, total, True))  # noqa: E731
    assert won({"won": True}, 0.0) and not won({"won": False}, 5.0)
    assert won({}, 2.0) and not won({}, 1.9)
    assert won({"won": False}, 5.0, "win_return=4") and not won({"won": True}, 3.0, "win_return=4")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_return_that_wins_is_finite(value, tmp_path):
    with pytest.raises(GtrTurboError, match=f"win_return must be a number, got {value}"):
        loaded("Tenths", f"win_return={value}")
    (tmp_path / "a.yml").write_text(f"win_return: .{value}\n")
    with pytest.raises(GtrTurboError, match=f"win_return in .* must be a number, got {value}"):
        loaded("Tenths", f"file={tmp_path / 'a.yml'}")


def test_what_is_given_beside_a_file_counts_where_it_is_the_default_too(tmp_path):
    file = tmp_path / "a.yml"
    file.write_text("size: 16\nframes: 2\nobservation: false\nhistory: 2\nhorizon: 2\nprompt: Look.\nactions: [one, two]\n")
    last = played(loaded("Plain", f"file={file}"))[-1].state
    assert last.turn == 1 and len(last.images) == 2 and last.images[0].shape[0] == 16 and "Your last turns" in words(last)
    given = ("size=0", "frames=1", "history=0", "horizon=0", "prompt=", "actions=")
    last = played(loaded("Plain", f"file={file}", *given))[-1].state
    assert last.turn == 2 and len(last.images) == 1 and last.images[0].shape[0] == 32 and "Your last turns" not in words(last)
    assert words(last).startswith("You play odd/Plain-v0.") and '"0 or 1"' in words(last)


def test_what_an_info_calls_observed_is_in_no_prompt():
    first = played(loaded("Telling"))[0].state
    assert "the goal" not in words(first) and first.info["observed"] == "the goal"


def test_a_rendered_frame_is_shown_and_not_symbols_of_its_form():
    assert played(loaded("Symbols"))[0].state.images[0].shape == (32, 32, 3)
    assert "it observes uint8 [5, 5, 3] and draws uint8 [32, 32, 3]" in environment(loaded("Symbols")).said
    assert "observes" not in environment(loaded("OneFrame")).said


CAT = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"where": (3, np.array([0.5, 0.25], np.float32))}, "where: [3, [0.5, 0.25]]"),
        ({"log": ((1, 2), (3,)), "on": np.bool_(True)}, "log: [[1, 2], [3]]; on: True"),
        ({"views": (CAT, CAT), "n": 1}, "n: 1"),
        ({"list": list(range(65)), "n": 1}, "n: 1"),
        ({"names": {"b", "a"}, "none": ()}, "names: [a, b]; none: []"),
        (("go north", 3, CAT), "[go north, 3]"),
        (np.array("go north"), "go north"),
        ("a\ud800b", "a?b"),
        ({"thing": object(), "raw": b"x", "n": 1}, "n: 1"),
    ],
)
def test_observations_are_put_into_words_all_the_way_down(value, told, monkeypatch):
    monkeypatch.setattr(odd_environments.Observed, "value", value)
    assert f"You observe: {told}. Reply" in words(played(loaded("Observed"))[0].state)


def test_rewards_in_arrays_of_one_are_numbers():
    assert [turn.turn.reward for turn in played(loaded("ArrayPaid"))] == [1.0, 1.0, 1.0]


def test_a_mask_says_which_actions_there_are():
    task = loaded("Masked", "actions=a,b,c")
    assert task.allowed({"action_mask": [1, 0, 1]}) == ("a", "c") and task.allowed({"action_mask": [0, 0, 0]}) == ("a", "b", "c")
    episode = played(task)
    assert '"a or c"' in words(episode[0].state) and '"a"' in words(episode[1].state)
    assert task.read('{"thoughts": "", "action": "b"}', episode[0].state.info) is None
    assert all(turn.turn.executed in ("a", "c") for each in play(task, num_envs=2) for turn in each)
    assert chance(task, episodes=3, seed=0) is not None


def test_names_of_actions_are_texts_and_stay_whole(tmp_path):
    (tmp_path / "a.yml").write_text("actions: ['go, then \"stop\"', right]\n")
    task = loaded("Plain", f"file={tmp_path / 'a.yml'}")
    assert task.allowed({}) == ('go, then "stop"', "right")
    assert r'"action": "go, then \"stop\" or right"' in words(played(task)[0].state)
    (tmp_path / "b.yml").write_text("actions: [no, yes]\n")
    with pytest.raises(GtrTurboError, match=r"actions in .*b\.yml hold False, which is no text"):
        loaded("Plain", f"file={tmp_path / 'b.yml'}")


def test_a_check_tells_a_threshold_that_decides_and_whether_it_is_within_reach():
    def said(task):
        return success(task, play(task, num_envs=1, episodes=3)).said

    assert "won from a return of 100 (reward_threshold, a mark for the mean of many" in said(loaded("Observed"))
    assert "which 20 turns do not reach that pay 1 at most" in said(loaded("Observed"))  # 20 times 1 is less than 100.
    assert "won from a return of 20 (win_return)." in said(loaded("Observed", "win_return=20"))
    assert "won from" not in said(loaded("Telling")) and "won from" not in said(loaded("Plain"))


def test_a_check_tells_what_an_invalid_reply_should_cost_where_a_wrong_move_costs_more(monkeypatch):
    def said(task):
        return rewards(task, play(task, num_envs=1, episodes=6)).said

    assert "invalid" not in said(loaded("Plain"))  # It pays 0 or 1, and 1 is what an invalid reply costs.
    monkeypatch.setattr(odd_environments.Plain, "pays", lambda self, action: -100.0 if action == self.goal else -1.0)
    assert "A turn pays -100 to -1, and an invalid reply costs 1" in said(loaded("Plain"))
    assert "--format-invalid -99 (run --set ppo-step.format-invalid=-99)." in said(loaded("Plain"))


def test_a_check_of_many_actions_tries_some_of_them(monkeypatch):
    monkeypatch.setattr(odd_environments.Plain, "actions", 3000)
    monkeypatch.setattr(odd_environments.Plain, "told", lambda self: {"count": self.count})
    task = loaded("Plain")
    episodes = play(task, num_envs=1, episodes=3)
    assert sum(1 for _ in worded(task, episodes)) == 4000  # Of 4 states times 3000.
    monkeypatch.setattr("gtrturbo.play.environment_checks.CHANCE_SECONDS", 0.0)
    assert "by chance 3001 policies were not played in 0 s" in success(task, episodes).said


# Seeds


def test_an_environment_that_takes_32_bits_plays_its_panel_whose_seeds_nothing_else_is_played_with():
    seeds = loaded("OldSeed").panel("fixed")
    [episode] = play_episodes(
        lambda states: [Response("") for _ in states],
        loaded("OldSeed"),
        seed=0,
        episodes=range(1),
        num_envs=1,
        on_invalid_reply="end",
        deals=seeds,
    )
    assert episode[0].turn.seed == seeds[0] and len(set(seeds)) == 200
    assert max(seeds) < 2**32 and min(seeds) > max(map(episode_seed, (*seeds, *range(2**32 - 500, 2**32), 2**40 - 1)))
    assert episode_seed(7) == episode_seed(2**32 + 7) == 7  # As ever.


def test_a_check_tries_a_seed_of_each_panel():
    task = replace(own("OldSeed"), panels={"large": (2**32,)})
    with pytest.raises(GtrTurboError, match=r"mine fails at reset\(seed=4294967296\).*Seed must be between"):
        environment(task)


# What an environment raises

HERE = re.escape(odd_environments.__file__)


@pytest.mark.parametrize(
    ("name", "told", "line"),
    [
        ("Lost", rf"fails at step\(\d\): {HERE} line \d+ raises RuntimeError: the simulator lost its connection\.", "raise Run"),
        ("NoLevel", rf"fails at reset\(seed=\d+\): {HERE} line \d+ raises ValueError: a level must be chosen\.", "raise Val"),
        ("NoRoms", rf"cannot be made: {HERE} line \d+ raises AssertionError: set ROM to the folder\.", "raise Ass"),
        ("Unseeing", rf"fails at render\(\): {HERE} line \d+ raises AttributeError: no viewer\.", "raise Att"),
        ("NoSeed", r"fails at reset\(seed=\d+\): TypeError: .*unexpected keyword argument 'seed'", "--debug"),
        ("OldStep", r"step of .* returns int, float, bool, dict|expected 5, got 4", ""),
        ("OldReset", r"reset of .* returns int", "return an observation and an info"),
        ("Nobody", "pays None, which is no number", "number as its reward"),
    ],
)
@pytest.mark.parametrize("made", ["by its id", "by a task"])
def test_what_an_environment_raises_is_a_sentence_with_its_own_line(name, told, line, made):
    with pytest.raises(GtrTurboError, match=told) as error:
        play(loaded(name) if made == "by its id" else own(name), num_envs=1)
    assert line in error.value.fix and "\n" not in error.value.what
    assert error.value.what.startswith(("gym:odd_environments:odd/", "mine ", "reset of", "step of"))


@pytest.mark.parametrize("name", ["Lost", "NoLevel", "NoRoms", "Unseeing", "NoSeed", "Nobody"])
def test_a_check_ends_with_a_sentence_and_not_as_a_fault_of_this_package(name):
    result = CliRunner().invoke(app, ["check-task", f"gym:odd_environments:odd/{name}-v0"])
    assert result.exit_code == 1 and "fault of gtrturbo" not in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("broken_one", "import gymnasium\nraise RuntimeError('boom')\n", r"broken_one\.py line 2 raises RuntimeError: boom"),
        ("broken_two", "def x(:\n", r"broken_two\.py line 1 is no Python"),
        ("", "", "'' is neither a module"),
        (".relative", "", r"'\.relative' is neither a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_by_its_line(tmp_path, monkeypatch, name, text, told):
    monkeypatch.syspath_prepend(tmp_path)
    if text:
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(GtrTurboError, match=told):
        load_task(f"gym:{name}:X-v0")


def test_an_action_that_an_environment_does_not_take_is_told():
    make = lambda: gym.make("CliffWalking-v1", render_mode="rgb_array")  # noqa: E731
    task = Task(name="cliff", make=make, prompt=show, actions=("up", "down"), act=lambda action, info: action)
    with pytest.raises(GtrTurboError, match=r"cliff fails at step\('(up|down)'\): .*KeyError: '(up|down)'"):
        play(task, num_envs=1)


def test_helpers_of_a_task_are_told_by_their_lines(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_mine.py").write_text("def shown(view):\n    return view.info['nowhere']\n")
    (tmp_path / "mine_too.py").write_text(
        "from own_tasks import WALK\nfrom dataclasses import replace\nfrom helper_of_mine import shown\n"
        "TASK = replace(WALK, prompt=shown)\n"
    )
    result = CliRunner().invoke(app, ["play", "--task", f"{tmp_path / 'mine_too.py'}:TASK", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "helper_of_mine.py line 2 raises KeyError: 'nowhere'" in result.stderr


@pytest.mark.parametrize("turns", [-3, 2.5])
def test_a_task_has_a_number_of_turns(turns):
    with pytest.raises(GtrTurboError, match=f"max_turns of mine is {turns}"):
        replace(own("Plain"), max_turns=turns)


def test_what_is_no_frame_is_named():
    with pytest.raises(GtrTurboError, match=r"it observes int and draws uint8 \[32, 32\], not bytes \(uint8\) \[height"):
        loaded("Grey")
    assert played(loaded("Factory"))[0].state.images[0].shape == (32, 32, 3)
