"""check-task plays a task of the user's own in another process, too, where texts have other hashes."""

import subprocess

import pytest

from gtrturbo.play.another_process import another_process, digests
from gtrturbo.play.trial import play
from gtrturbo.tasks.loading import load_task

TASK = """
import gymnasium as gym
import numpy as np
from gtrturbo.tasks import Task, ask

class Deals(gym.Env):
    action_space, observation_space = gym.spaces.Discrete(2), gym.spaces.Discrete(1 << 62)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {{"deal": {deal}}}

    def step(self, action):
        return 0, 1.0, True, False, {{}}

print("a greeting")
TASK = Task(name="deals", make=Deals, actions=("a", "b"), prompt=lambda view: ask("?", np.zeros((4, 4, 3), np.uint8)))
"""


@pytest.mark.parametrize(
    ("deal", "passed", "said"),
    [
        ("hash(f'deal{seed}') % 1000", False, "another process plays other episodes: what is known at turn 0 of episode 0"),
        ("int(self.np_random.integers(1000))", True, "another process plays the same 6 episodes"),
    ],
)
def test_what_hangs_on_the_process_is_found_in_another(deal, passed, said, tmp_path):
    (tmp_path / "deals.py").write_text(TASK.format(deal=deal))
    name = f"{tmp_path / 'deals.py'}:TASK"
    found = another_process(name, (), play(load_task(name), num_envs=1, episodes=6))
    assert found.passed is passed and said in found.said


@pytest.mark.parametrize("told", ["fails", "takes long"])
def test_a_process_that_does_not_play_is_told_and_fails_nothing(told, monkeypatch):
    def run(command, timeout, **how):
        if told == "takes long":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nValueError: no")

    monkeypatch.setattr(subprocess, "run", run)
    found = another_process("numberline", (), [])
    assert found.passed is None and found.said.startswith("not checked: another process")
    assert digests([]) == []
