"""Panels: fixed lists of episodes, the same on every machine, and the hash that says so."""

import hashlib
import json
from contextlib import closing

from gtrturbo.tasks.task import Task


def panel_id(task: Task, name: str, *, code: str = "") -> str:
    """Return the sha256 of a panel: of the task, the seeds of its episodes, and how each of them begins.

    So it is another one where another version of an environment, or of what draws random numbers, deals otherwise. How an episode
    begins is what is known of its first state; of an environment that tells nothing it is the seed alone.

    Args:
        code: sha256 of the user's own code that the environment is made of, which then counts, too; see `environment_code`.

    Raises: GtrTurboError: there is no such panel.
    """
    seeds = task.panel(name)
    digest = hashlib.sha256(json.dumps([task.name, name, *filter(None, [code])]).encode())
    with closing(task.open_blind()) as env:
        for seed in seeds:
            observation, info = env.reset(seed=seed)
            digest.update(json.dumps([seed, task.know(env, observation, info)], sort_keys=True).encode())
    return digest.hexdigest()
