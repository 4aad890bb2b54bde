"""What check-task says of ends, of the environment that draws nothing, and of prompts that alone tell states apart."""

from dataclasses import replace

import gymnasium as gym
import own_tasks
import pytest
from odd_environments import Plain

from gtrturbo.play.environment_checks import endings, starts
from gtrturbo.play.replay_checks import blind
from gtrturbo.play.trial import different, play
from gtrturbo.runs.check_task import checks
from gtrturbo.tasks import Task, View, ask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def lasts(steps: int, **more) -> Task:
    """A task that always ends by its rules after so many steps."""
    shown = {"prompt": lambda view: ask("?", view.picture), "actions": ("0", "1"), "expert": lambda info: ("", "0")}
    return Task(name="lasts", **shown | {"make": type("Lasts", (Plain,), {"steps": steps})} | more)


def ends(task: Task, episodes: int = 3):
    return endings(task, play(task, num_envs=1, episodes=episodes))


def test_a_limit_of_a_thousand_turns_is_a_limit():
    assert ends(lasts(3, max_turns=1000)).passed and ends(lasts(3, max_turns=1000)).said.endswith("the limit is 1000 turns.")


def test_an_environment_that_always_ends_needs_no_limit():
    found = ends(lasts(3))
    assert found.passed and found.said == "3 episodes ended by their rules, 0 were cut; no limit is set, and none needed one."


def test_an_environment_that_one_action_keeps_going_needs_a_limit():
    found = ends(own_tasks.ENDLESS, 24)
    assert found.passed is False and found.said.endswith("no limit is set, and nothing but 'back' goes on for 1000 turns.")
    assert found.fix.startswith("set max_turns")


@pytest.mark.parametrize("steps", [1, 3])
def test_games_that_take_as_long_as_the_limit_are_told(steps):
    found = ends(lasts(steps, max_turns=steps))
    assert found.passed is (True if steps == 1 else None)
    assert ("just at the limit" in found.said) is (steps > 1)


def test_ends_by_the_rules_just_where_gymnasium_cuts_fail():
    gym.register("ends/Three-v0", Plain, max_episode_steps=3)
    found = ends(lasts(3, make=lambda: gym.make("ends/Three-v0", render_mode="rgb_array")))
    assert found.passed is False and "let it be truncated" in found.fix


class Easy(own_tasks.Corridor):
    def step(self, action):
        place, _, done, cut, info = super().step(action)
        return place, 1.0, done, cut, info


class Longer(own_tasks.Corridor):
    def step(self, action):
        place, reward, _, cut, info = super().step(action)
        return place, reward, False, cut, info


class Elsewhere(own_tasks.Corridor):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed and seed + 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Easy, "the same actions give otherwise in `blind`: the reward after turn "),
        (Longer, "the same actions give otherwise in `blind`: the end after turn "),
        (Elsewhere, "an episode begins otherwise in `blind`: what is known in episode "),
    ],
)
def test_an_environment_that_draws_nothing_and_plays_otherwise_is_told(make, told):
    task = replace(own_tasks.WALK, blind=make)
    found = blind(task, play(task, num_envs=1))
    assert found.passed is False and found.said.startswith(told)
    assert next(each.name for each in checks(task)[0] if each.passed is False) == "blind"


def test_one_that_is_cut_after_another_number_of_turns_is_told():
    spec = gym.envs.registration.EnvSpec("blind/Walk-v0", entry_point=own_tasks.Corridor, max_episode_steps=5)
    task = replace(own_tasks.WALK, blind=lambda: gym.make(spec))
    found = blind(task, play(task, num_envs=1, episodes=1))
    assert found.passed is False and found.said == "episodes are cut after 6 turns, and in `blind` after 5."


def test_one_of_the_same_rules_passes():
    task = replace(own_tasks.WALK, blind=lambda: own_tasks.Corridor(draws=False))
    assert "blind" in [each.name for each in checks(task)[0] if each.passed]
    assert "blind" not in [each.name for each in checks(own_tasks.WALK)[0]]


def says(view: View):
    return ask(f"You stand at {view.observation}.")


def test_states_that_the_prompts_text_alone_tells_apart_are_different():
    task = replace(own_tasks.ALONE, prompt=says, known=lambda env, observation, info: {"won": info["won"]})
    episodes = play(task, num_envs=1)
    assert starts(task, episodes).said == "24 seeds begin in 3 different ways."
    assert len(list(different(episodes))) == 3
