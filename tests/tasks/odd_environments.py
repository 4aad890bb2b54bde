"""Environments as people bring them, each odd in one way; imported for gym:odd_environments:ID."""

from collections import OrderedDict

import gymnasium as gym
import numpy as np


class Plain(gym.Env):
    """Three steps, each a wider bar; pays 1 for one action of two, which the seed chooses."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    actions, first, steps = 2, 0, 3

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.action_space = gym.spaces.Discrete(self.actions, start=self.first)
        self.observation_space = gym.spaces.Discrete(64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.given = 0, -1
        self.goal = int(self.np_random.integers(self.actions)) + self.first
        return self.observed(), self.told()

    def step(self, action):
        self.count, self.given = self.count + 1, action
        return self.observed(), self.pays(action), self.count >= self.steps, False, self.told()

    def observed(self):
        return self.count

    def told(self):
        return {}

    def pays(self, action):
        return float(action == self.goal)

    def render(self):
        return np.full((32, 32, 3), 10 * (self.count + 1), np.uint8)


class OneFrame(Plain):
    def __init__(self, **how):
        super().__init__(**how)
        self.frame = np.zeros((32, 32, 3), np.uint8)

    def render(self):
        self.frame[:] = 10 * (self.count + 1)
        return self.frame


class OneObservation(OneFrame):
    def observed(self):
        return OneFrame.render(self)


class OneDict(OneFrame):
    """Observes its frame in a dict of a kind of its own, and draws another."""

    def observed(self):
        return OrderedDict(frame=OneFrame.render(self))


class FromOne(Plain):
    actions, first = 3, 1

    def told(self):
        return {"given": int(self.given)}


class Tenths(Plain):
    steps = 10

    def pays(self, action):
        return 0.1


class Lost(Plain):
    def step(self, action):
        raise RuntimeError("the simulator lost\nits connection")


class NoLevel(Plain):
    def reset(self, *, seed=None, options=None):
        raise ValueError("a level must be chosen")


class NoRoms(Plain):
    def __init__(self, **how):
        raise AssertionError("set ROM to the folder")


class Unseeing(Plain):
    def render(self):
        raise AttributeError("no viewer")


class NoSeed(Plain):
    def reset(self):
        return 0, {}


class OldStep(Plain):
    def step(self, action):
        return self.observed(), 1.0, True, {}


class OldReset(Plain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Masked(Plain):
    actions = 3

    def told(self):
        return {"action_mask": np.array([1, 0, self.count < 1], np.int8)}

    def step(self, action):
        if not self.told()["action_mask"][action]:
            raise ValueError("masked")
        return super().step(action)


class OldSeed(Plain):
    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return super().reset(seed=seed)


class Nobody(Plain):
    def pays(self, action):
        return None


class ArrayPaid(Plain):
    def pays(self, action):
        return np.array([1.0])


class Symbols(Plain):
    def observed(self):
        return np.full((5, 5, 3), self.count, np.uint8)


class Telling(Plain):
    def told(self):
        return {"observed": "the goal", "won": self.count == 3}


class Grey(Plain):
    def render(self):
        return np.zeros((32, 32), np.uint8)


class Observed(Plain):
    """Observes what it is told to."""

    value = 0

    def observed(self):
        return self.value


class Strict(Plain):
    def render(self):
        return super().render() if self.render_mode == "rgb_array" else None


def factory(render_mode=None):
    return gym.wrappers.TransformReward(Strict(render_mode=render_mode), float)


for each in [Plain, *Plain.__subclasses__(), OneObservation, OneDict]:
    more = {"reward_threshold": 2.0} if each is Telling else {"reward_threshold": 100.0} if each is Observed else {}
    gym.register(f"odd/{each.__name__}-v0", each, max_episode_steps=20, **more)
gym.register("odd/Factory-v0", factory, max_episode_steps=20)
