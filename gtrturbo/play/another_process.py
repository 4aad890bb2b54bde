"""The same episodes in another process, where texts hash to other numbers and sets have another order."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from gtrturbo.distributed.escapes import say
from gtrturbo.play.environment_checks import LOOKS
from gtrturbo.play.trial import Check, Episodes, play
from gtrturbo.tasks.loading import load_task

EPISODES_APART = 6
SECONDS_APART = 60
HASH_SEED = "PYTHONHASHSEED"
CODE = "import sys; from gtrturbo.play.another_process import tell; tell(sys.argv[1], sys.argv[2:])"
PROCESSES = "processes"
# Of each episode, turn by turn, the sha256 of each thing that is to be the same.
Digests = list[list[dict[str, str]]]


def another_process(task: str, options: Sequence[str], episodes: Episodes) -> Check:
    """Compare the first episodes with the same ones in a process of their own.

    Args:
        task, options: as the user wrote them: the other process loads the task itself.
        episodes: as this process played them.
    """
    seed = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), HASH_SEED: "2" if os.environ.get(HASH_SEED) == "1" else "1"}
    command = [sys.executable, "-c", CODE, task, *options]
    try:
        done = subprocess.run(command, env=os.environ | seed, capture_output=True, text=True, timeout=SECONDS_APART, check=False)
    except subprocess.TimeoutExpired:
        return Check(PROCESSES, None, f"not checked: another process does not play {EPISODES_APART} in {SECONDS_APART} s.")
    if done.returncode:
        return Check(PROCESSES, None, f"not checked: another process ends with {(done.stderr.split() or ['nothing'])[-1]!r}.")
    found: Digests = json.loads(done.stdout.splitlines()[-1])
    if told := _first_difference(digests(episodes[:EPISODES_APART]), found):
        return Check(
            PROCESSES,
            False,
            f"another process plays other episodes: {told}.",
            "draw from env.np_random alone; hash() of a text and the order of a set are others in every process.",
        )
    return Check(PROCESSES, True, f"another process plays the same {len(found)} episodes.")


def tell(task: str, options: Sequence[str]) -> None:
    """Play the first episodes and print what is the same in every process as the last line of stdout."""
    say("\n" + json.dumps(digests(play(load_task(task, options), num_envs=1, episodes=EPISODES_APART))))


def digests(episodes: Episodes) -> Digests:
    return [
        [{name: hashlib.sha256(repr(look(turn)).encode()).hexdigest() for name, look in LOOKS.items()} for turn in episode]
        for episode in episodes
    ]


def _first_difference(here: Digests, there: Digests) -> str:
    for number, (one, other) in enumerate(zip(here, there, strict=False)):
        for turn, (first, second) in enumerate(zip(one, other, strict=False)):
            for name in LOOKS:
                if first[name] != second[name]:
                    return f"{name} at turn {turn} of episode {number}"
        if len(one) != len(other):
            return f"the number of turns of episode {number}"
    return ""
