"""Play a task by script, here or in a process of its own, and digest what was seen and done.

python tests/tasks/played.py NAME NUM_ENVS [KEY=VALUE …]
"""

import hashlib
import sys

from gtrturbo.play.episodes import Response, play_episodes
from gtrturbo.tasks.loading import load_task


def digest(name, options, num_envs):
    """Hash the turns and pictures of eight episodes: half the expert's, half by chance."""
    task, found = load_task(name, options), []

    def agent(states):
        return [Response(task.expert_reply(each.info) if task.expert and each.episode % 2 else "") for each in states]

    for episode in play_episodes(agent, task, seed=3, episodes=range(8), num_envs=num_envs, on_invalid_reply="random"):
        for each in episode:
            pictures = [hashlib.sha256(image.tobytes()).hexdigest() for image in each.state.images]
            found.append(repr((each.state.episode, each.state.turn, each.turn, pictures)))
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


if __name__ == "__main__":
    print(digest(sys.argv[1], sys.argv[3:], int(sys.argv[2])))
