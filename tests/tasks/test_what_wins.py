"""What counts as a win where turns cost: to reply nothing wins nothing, and what nobody or everybody wins is told."""

import gymnasium as gym
import pytest
from odd_environments import Plain

from gtrturbo.play.environment_checks import success
from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.play.trial import play
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class EachTurnCosts(Plain):
    """Ends by its rules after 8 turns that cost 1 each."""

    steps = 8

    def pays(self, action):
        return -1.0


class PaidAtFirst(EachTurnCosts):
    def pays(self, action):
        return 1.0 if self.count == 1 else 0.0


class SaysSo(EachTurnCosts):
    """Says who won at the end alone."""

    def told(self):
        return {"is_success": False} if self.count == self.steps else {}


gym.register("wins/Costs-v0", EachTurnCosts, reward_threshold=-20.0, max_episode_steps=30)
gym.register("wins/CostsMuch-v0", EachTurnCosts, max_episode_steps=30)
gym.register("wins/PaidAtFirst-v0", PaidAtFirst, max_episode_steps=30)
gym.register("wins/SaysSo-v0", SaysSo, max_episode_steps=30)


def won(task: Task, text: str, on_invalid_reply) -> bool:
    """Play one episode by the same reply at every turn."""
    asked = {"seed": 0, "episodes": range(1), "num_envs": 1, "on_invalid_reply": on_invalid_reply}
    [episode] = play_episodes(lambda states: [Response(text) for _ in states], task, **asked)
    return episode[-1].turn.won


@pytest.mark.parametrize("options", [["win_return=-9"], []])
@pytest.mark.parametrize("on_invalid_reply", ["end", "noop"])
def test_an_episode_in_which_nothing_was_played_is_not_won_where_turns_cost(options, on_invalid_reply):
    task = load_task("gym:wins/Costs-v0", options)
    assert not won(task, "", on_invalid_reply)  # Its return is 0.
    assert won(task, '{"thoughts": "", "action": "1"}', on_invalid_reply)  # -8, and its rules ended it.


def test_an_episode_that_is_cut_early_is_not_won_where_turns_cost():
    assert chance(load_task("gym:wins/Costs-v0", ["horizon=5"]), episodes=3, seed=0)["random"] == 0
    assert chance(load_task("gym:wins/Costs-v0"), episodes=3, seed=0)["random"] == 1


def test_an_episode_that_lasts_is_won_when_it_is_cut_where_turns_pay():
    # CartPole pays 1 a turn: 8 turns are a return of 8, and no action makes the pole fall before.
    assert chance(load_task("gym:CartPole-v1", ["horizon=8", "win_return=8"]), episodes=3, seed=0)["random"] == 1


@pytest.mark.parametrize("text", ['{"thoughts": "", "action": "1"}', ""])
def test_an_invalid_reply_that_ends_an_episode_is_not_its_rules(text):
    task = load_task("gym:wins/PaidAtFirst-v0")
    replies = iter(['{"thoughts": "", "action": "1"}'])
    asked = {"seed": 0, "episodes": range(1), "num_envs": 1, "on_invalid_reply": "end"}
    [episode] = play_episodes(lambda states: [Response(next(replies, text)) for _ in states], task, **asked)
    assert episode[-1].turn.won is bool(text) and episode[-1].turn.terminated


@pytest.mark.parametrize(
    ("name", "options", "passed", "said"),
    [
        ("wins/Costs-v0", [], False, "whatever is played wins: by chance 1.00 at random, 1.00 with always one action"),
        ("wins/Costs-v0", ["win_return=-5"], None, "from a return of -5, once its environment ends it (win_return)"),
        (
            "wins/CostsMuch-v0",
            [],
            False,
            "won from a return above 0, once its environment ends it, and every turn that was played cost 1",
        ),
        ("wins/SaysSo-v0", [], None, "by chance 0.00"),
        ("CartPole-v1", ["horizon=50"], False, "won from a return of 475 (reward_threshold"),
        ("CartPole-v1", ["horizon=50", "win_return=60"], None, "which 50 turns do not reach"),
    ],
)
def test_a_check_fails_where_everybody_or_nobody_wins(name, options, passed, said):
    task = load_task(f"gym:{name}", options)
    found = success(task, play(task, num_envs=1, episodes=4))
    assert found.passed is passed and said in found.said
    assert ("win_return" in found.fix) is (passed is False)
