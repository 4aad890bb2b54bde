"""gym:ID: environments that others wrote, by their id; what cannot be played is refused by name."""

import os

import gymnasium as gym
import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.trial import play
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import Ending, Past, View

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Odd(gym.Env):
    """Counts its steps; what it observes and draws is chosen when it is made."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, observed="text", actions=3, first=0, render_mode=None):
        self.observed, self.render_mode = observed, render_mode
        self.action_space = gym.spaces.Discrete(actions, start=first)
        self.observation_space = gym.spaces.Text(20)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = []
        return self._observation(), {"odd": object(), "seen": np.float32(0.5), "count": 0}

    def step(self, action):
        self.taken.append(action)
        return self._observation(), 1.0, len(self.taken) == 4, False, {"count": len(self.taken)}

    def render(self):
        return np.full((40, 80, 3), len(self.taken), np.uint8)

    def _observation(self):
        count = len(self.taken)
        both = {"inventory": "a key", "health": 0.123456, "place": np.array([1, count]), "frame": self.render()}
        return {"text": f"step {count}", "dict": both, "nested": {"outer": both, "map": np.zeros(100)}, "number": count}[
            self.observed
        ]


class Unseen(Odd):
    metadata = {"render_modes": ["human"]}  # noqa: RUF012

    def render(self):
        return None


gym.register("TestOdd-v0", Odd, max_episode_steps=6)
gym.register("TestUnseen-v0", Unseen)
gym.register("TestThreshold-v0", Odd, reward_threshold=3.0)


def asked(*options, name="gym:TestOdd-v0", turn=0):
    episode = play(load_task(name, options), num_envs=1, episodes=3)[2]  # The third is played by chance.
    return episode[turn].state


def words(state):
    return state.messages[0]["content"][-1]["text"]


@pytest.mark.parametrize(
    ("name", "wrong", "fix"),
    [
        ("gym:Pendulum-v1", "has continuous actions", "Discrete"),
        ("gym:CartPole", "no environment 'CartPole' for gym:CartPole", "CartPole-v1"),
        ("gym:Cartpole-v1", "no environment 'Cartpole-v1'", "CartPole-v1"),
        ("gym:", "no environment '' for gym:", "the closest are: CartPole-v0"),
        ("gym:TestUnseen-v0", "shows no frames: it observes str and draws human, not rgb_array", "rgb_array"),
        ("gym:no_such_module:X-v0", "there is no module no_such_module to take a task from", "PYTHONPATH"),
    ],
)
def test_what_cannot_be_played_is_refused_by_name(name, wrong, fix):
    with pytest.raises(GtrTurboError) as error:
        load_task(name)
    assert wrong in error.value.what and fix in error.value.fix and "\n" not in error.value.what


def test_missing_packages_are_said_in_one_sentence(monkeypatch):
    def lacking(*args, **kwargs):
        raise gym.error.DependencyNotInstalled("Box2D is not installed,\n run `pip install gymnasium[box2d]`")

    monkeypatch.setattr(gym, "make", lacking)
    with pytest.raises(GtrTurboError, match=r"^gym:TestOdd-v0 cannot be made: Box2D is not installed, run `pip install"):
        load_task("gym:TestOdd-v0")


def test_actions_have_names_in_the_order_of_their_numbers():
    task = load_task("gym:CartPole-v1", ["actions=left,right", "prompt=Balance the pole."])
    assert task.allowed({}) == ("left", "right") and task.given("right", {}) == 1
    assert task.read('{"thoughts": "", "action": "left"}', {}).action == "left"
    assert task.read('{"thoughts": "", "action": "up"}', {}) is None
    assert load_task("gym:CartPole-v1").read('{"thoughts": "", "action": 1}', {}).action == "1"
    text = words(asked("actions=left,right", "prompt=Balance the pole.", name="gym:CartPole-v1"))
    assert text.startswith("Balance the pole. The image shows the state.") and '"action": "left or right"' in text


@pytest.mark.parametrize("names", ["left", "left,right,up", "left,left", "left,"])
def test_names_that_are_not_one_for_each_action_are_refused(names):
    with pytest.raises(GtrTurboError, match="gym:CartPole-v1 has 2 actions"):
        load_task("gym:CartPole-v1", [f"actions={names}"])


def test_action_numbers_may_begin_elsewhere():
    gym.register("TestFirst-v0", lambda **how: Odd(first=5, **how))
    task = load_task("gym:TestFirst-v0") if gym.spec("TestFirst-v0") else None
    assert task is not None and task.allowed({}) == ("5", "6", "7") and task.given("7", {}) == 7


def test_text_and_dicts_that_are_observed_stand_in_the_prompt_without_pictures():
    gym.register("TestDict-v0", Odd, kwargs={"observed": "dict"})
    gym.register("TestNested-v0", Odd, kwargs={"observed": "nested"})
    gym.register("TestNumber-v0", Odd, kwargs={"observed": "number"})
    assert "You observe: step 1." in words(asked(turn=1))
    assert "You observe: inventory: a key; health: 0.1235; place: [1, 0]." in words(asked(name="gym:TestDict-v0"))
    assert "You observe: outer: (inventory: a key; health: 0.1235; place: [1, 0])." in words(asked(name="gym:TestNested-v0"))
    assert "You observe" not in words(asked(name="gym:TestNumber-v0"))
    assert "You observe" not in words(asked("observation=false"))


def test_frames_are_shrunk_and_the_last_ones_shown_oldest_first():
    assert asked("size=20").images[0].shape == (10, 20, 3)
    assert asked().images[0].shape == (40, 80, 3)
    shown = [[int(image[0, 0, 0]) for image in asked("frames=3", turn=turn).images] for turn in range(4)]
    assert shown == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]
    assert "The 3 images show the last states, the newest last." in words(asked("frames=3", turn=3))


def test_the_last_turns_are_told():
    task = load_task("gym:TestOdd-v0", ["history=2", "actions=a,b,c"])
    past = [Past({}, "", action, 0.5, []) for action in ("a", "b", None)]
    text = words(type("", (), {"messages": task.ask(View("step 3", {}, past, lambda: np.zeros((4, 4, 3), np.uint8))).messages}))
    assert "Your last turns, oldest first: b, reward 0.5; nothing, reward 0.5." in text


def test_what_is_no_json_is_left_out_of_what_is_known():
    assert asked().info == {"seen": 0.5, "count": 0, "observed": "step 0"}


def test_a_win_is_a_threshold_of_the_environment_or_of_the_user():
    assert not load_task("gym:TestThreshold-v0").won(Ending({}, 2.9, True))
    assert load_task("gym:TestThreshold-v0").won(Ending({}, 3.0, False))
    assert load_task("gym:TestThreshold-v0", ["win_return=2.5"]).won(Ending({}, 2.9, True))
    assert load_task("gym:TestOdd-v0").won(Ending({"success": True}, 0.0, True))
    with pytest.raises(GtrTurboError, match="win_return must be a number, got 'much'"):
        load_task("gym:TestOdd-v0", ["win_return=much"])


def test_a_file_says_all_of_it_and_the_command_line_counts(tmp_path):
    file = tmp_path / "lake.yaml"
    file.write_text(
        "prompt: Reach the flag.\nactions: [left, down, right, up]\nsize: 112\nmake: {map_name: 8x8, is_slippery: false}\n"
    )
    state = asked(f"file={file}", "size=64", name="gym:FrozenLake-v1")
    assert state.images[0].shape == (64, 64, 3) and words(state).startswith("Reach the flag.")
    task = load_task("gym:FrozenLake-v1", [f"file={file}"])
    assert task.make().unwrapped.nrow == 8 and task.allowed({}) == ("left", "down", "right", "up")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", "holds colour"),
        ("- a", "is no mapping"),
        ("size: many", "size in .* must be a whole number from 0 to 4096, got 'many'"),
        ("size: true", "size in .* must be a whole number from 0 to 4096, got True"),
        ("make: 3", "make in .* is 3"),
        ("a: [", "line 1: "),
        ("size: -1", "size in .* must be a whole number from 0 to 4096, got -1"),
        ("make: {no_such: 1}", "cannot be made"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(GtrTurboError, match=message):
        load_task("gym:TestOdd-v0", [f"file={file}"])
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_task("gym:TestOdd-v0", [f"file={tmp_path}/none.yaml"])


@pytest.mark.parametrize(
    ("content", "told"),
    [("horizon: 3\nhorizon: 4\n", "there twice"), ("horizon: 1:30\n", "another number in YAML"), ("[", "is no YAML|line 1")],
)
def test_a_file_that_reads_as_something_else_than_it_seems_is_refused(tmp_path, content, told):
    (tmp_path / "odd.yaml").write_text(content)
    with pytest.raises(GtrTurboError, match=told):
        load_task("gym:TestOdd-v0", [f"file={tmp_path}/odd.yaml"])


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(GtrTurboError, match="no regular file"):
        load_task("gym:TestOdd-v0", [f"file={tmp_path}/pipe.yaml"])
