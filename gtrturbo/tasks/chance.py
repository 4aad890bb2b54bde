"""What a policy that sees nothing achieves at a task."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import gymnasium as gym
import numpy as np

from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Info

Choose = Callable[[Sequence[str]], str]
MOST_TURNS = 1000
FEWEST_EPISODES = 20


def turn_limit(task: Task, env: gym.Env) -> int:
    """Return the number of turns after which an episode is cut: the task's or the environment's, whichever is less, else 1000."""
    return min(filter(None, (task.max_turns, own_limit(env))), default=MOST_TURNS)


def own_limit(env: gym.Env) -> int | None:
    """Return the number of turns after which Gymnasium cuts an environment's episodes; None where it does not."""
    return env.spec.max_episode_steps if env.spec else None


def fewer_episodes(task: Task, wanted: int) -> int:
    """Return how many episodes each policy plays: what is wanted, or fewer, but 20, to be no more turns than the task allows.

    The usual 400,000 are no bound below 1,000 episodes in any of the games.
    """
    with closing(task.open_blind()) as env:
        policies = 1 + len(task.allowed(_first_info(task, env, 0)))
        return min(wanted, max(FEWEST_EPISODES, task.chance_turns // (turn_limit(task, env) * policies)))


def chance(task: Task, *, episodes: int, seed: int, seconds: float = math.inf) -> dict[str, float] | None:
    """Play without a model.

    Args:
        task: what is played; where it can be made without pictures it is.
        episodes: deals per policy, the same deals for each.
        seed: of the deals and of the random actions.
        seconds: give up after so long.

    Returns: None where it took longer. Else `random`, success rate of uniformly random allowed actions, and `random_return`,
        their mean return; `constant`, success rate of the best single action (of the n-th that is allowed, where they change),
        `constant_return` its mean return and `constant_action` its number. Of actions with equal success the one with the highest
        return counts.
    """
    env = task.open_blind()
    seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]
    rng = np.random.default_rng(seed)
    deadline = time.monotonic() + seconds
    with closing(env):
        count = len(task.allowed(_first_info(task, env, seeds[0])))
        policies: list[Choose] = [lambda allowed: allowed[int(rng.integers(len(allowed)))]]
        policies += [lambda allowed, number=number: allowed[number % len(allowed)] for number in range(count)]
        played = [_play(task, env, seeds, choose, deadline) for choose in policies]
    if None in played:
        return None
    (wins, mean_return), *others = [each for each in played if each]
    constant, constant_return, negative = max((*each, -number) for number, each in enumerate(others))
    return {
        "random": wins,
        "random_return": mean_return,
        "constant": constant,
        "constant_return": constant_return,
        "constant_action": float(-negative),  # as it is read where it was kept: an evaluation is the same file either way
    }


def _first_info(task: Task, env: gym.Env, seed: int) -> Info:
    observation, info = env.reset(seed=seed)
    return task.know(env, observation, info)


def _play(task: Task, env: gym.Env, seeds: Sequence[int], choose: Choose, deadline: float) -> tuple[float, float] | None:
    """Return success rate and mean return over one episode per seed; None once it is too late."""
    wins, returns, limit = 0, [], turn_limit(task, env)
    for seed in seeds:
        if time.monotonic() > deadline:
            return None
        known, rewards = _first_info(task, env, seed), []
        for _ in range(limit):
            action = choose(task.allowed(known))
            observation, reward, terminated, truncated, info = env.step(task.given(action, known))
            known = task.know(env, observation, info)
            rewards.append(reward)
            if terminated or truncated:
                break
        returns.append(math.fsum(rewards))
        wins += task.is_won(known, returns[-1], by_rules=terminated)
    return wins / len(seeds), math.fsum(returns) / len(seeds)
