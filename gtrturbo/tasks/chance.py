"""What a policy that sees nothing achieves at a task."""

from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np

from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Ending, Info

Choose = Callable[[Sequence[str]], str]
MOST_TURNS = 1000


def turn_limit(task: Task, env: gym.Env) -> int:
    """Return the number of turns after which an episode is cut: the task's, else the environment's, else 1000."""
    own = env.spec.max_episode_steps if env.spec else None
    return task.max_turns or own or MOST_TURNS


def chance(task: Task, *, episodes: int, seed: int) -> dict[str, float]:
    """Play without a model.

    Args:
        task: what is played; where it can be made without pictures it is.
        episodes: deals per policy, the same deals for each.
        seed: of the deals and of the random actions.

    Returns: `random`, success rate of uniformly random allowed actions, and `random_return`, their mean return; `constant`,
        success rate of the best single action (of the n-th that is allowed, where they change), `constant_return` its mean
        return and `constant_action` its number. Of actions with equal success the one with the highest return counts.
    """
    env = task.blind() if task.blind else task.make()
    seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]
    rng = np.random.default_rng(seed)
    wins, mean_return = _play(task, env, seeds, lambda allowed: allowed[int(rng.integers(len(allowed)))])
    count = len(task.allowed(_first_info(task, env, seeds[0])))
    constants = [
        (*_play(task, env, seeds, lambda allowed, number=number: allowed[number % len(allowed)]), -number)
        for number in range(count)
    ]
    constant, constant_return, negative = max(constants)
    env.close()
    return {
        "random": wins,
        "random_return": mean_return,
        "constant": constant,
        "constant_return": constant_return,
        "constant_action": -negative,
    }


def _first_info(task: Task, env: gym.Env, seed: int) -> Info:
    observation, info = env.reset(seed=seed)
    return task.know(env, observation, info)


def _play(task: Task, env: gym.Env, seeds: Sequence[int], choose: Choose) -> tuple[float, float]:
    """Return success rate and mean return over one episode per seed."""
    wins, rewards, limit = 0, 0.0, turn_limit(task, env)
    for seed in seeds:
        known, total = _first_info(task, env, seed), 0.0
        for _ in range(limit):
            action = choose(task.allowed(known))
            observation, reward, terminated, truncated, info = env.step(task.given(action, known))
            known, total = task.know(env, observation, info), total + float(reward)
            if terminated or truncated:
                break
        wins += task.won(Ending(known, total, terminated))
        rewards += total
    return wins / len(seeds), rewards / len(seeds)
