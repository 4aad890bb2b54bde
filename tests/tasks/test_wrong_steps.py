"""What a step returns that is none: ends that are neither true nor false, rewards that no file can hold, frames of no pixels."""

import gymnasium as gym
import numpy as np
import pytest
from odd_environments import Plain

from gtrturbo.errors import GtrTurboError
from gtrturbo.play.trial import play
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Ends(Plain):
    """Ends by whatever it is told to."""

    value = False

    def step(self, action):
        observation, reward, _, cut, info = super().step(action)
        return observation, reward, self.value, cut, info


class PaysNothing(Plain):
    """Pays what is no number for an action that chance alone chooses."""

    def pays(self, action):
        return float("nan") if action == 1 else 0.0


class Vanishing(Plain):
    """Draws frames without pixels after its first."""

    def render(self):
        return super().render() if self.count == 0 else np.zeros((0, 32, 3), np.uint8)


for each in (Ends, PaysNothing, Vanishing):
    gym.register(f"wrong/{each.__name__}-v0", each, max_episode_steps=5)


@pytest.mark.parametrize("value", ["no", np.array([True, False]), None, 2, float("nan")])
def test_an_end_that_is_neither_true_nor_false_is_refused(value, monkeypatch):
    monkeypatch.setattr(Ends, "value", value)
    env = load_task("gym:wrong/Ends-v0").open()
    env.reset(seed=0)
    with pytest.raises(GtrTurboError, match=r"step of gym:wrong/Ends-v0 returns .* for terminated") as error:
        env.step(0)
    assert error.value.fix == "return True or False."


@pytest.mark.parametrize("value", [np.bool_(True), np.array([True]), 1, np.int64(1)])
def test_an_end_may_be_any_true_of_numpys(value, monkeypatch):
    monkeypatch.setattr(Ends, "value", value)
    env = load_task("gym:wrong/Ends-v0").open()
    env.reset(seed=0)
    assert env.step(0)[2] is True


def test_a_reward_that_is_no_finite_number_is_refused_where_chance_alone_meets_it():
    with pytest.raises(GtrTurboError, match=r"gym:wrong/PaysNothing-v0 pays nan at step\(1\)"):
        chance(load_task("gym:wrong/PaysNothing-v0"), episodes=4, seed=0)


def test_a_frame_without_pixels_is_no_picture(monkeypatch):
    with pytest.raises(GtrTurboError, match=r"the environment draws uint8 \[0, 32, 3\]"):
        play(load_task("gym:wrong/Vanishing-v0"), num_envs=1, episodes=1)
    monkeypatch.setattr(Vanishing, "render", lambda self: np.zeros((32, 0, 3), np.uint8))
    with pytest.raises(GtrTurboError, match=r"draws uint8 \[32, 0, 3\], not bytes"):
        load_task("gym:wrong/Vanishing-v0")
