"""What was played, played again: in an environment of its own, and in the one that draws nothing."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from gtrturbo.play.episodes import Played
from gtrturbo.play.trial import Check, Episodes
from gtrturbo.tasks.chance import turn_limit
from gtrturbo.tasks.environment import PlayedEnv
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import Info


@dataclass(frozen=True)
class Replayed:
    """What an episode's actions come to: what is known at first and after each, what each pays, and whether it ends or is cut."""

    known: list[Info]
    rewards: list[float]
    ends: list[tuple[bool, bool]]


def replayed(task: Task, episode: Sequence[Played], env: PlayedEnv) -> Replayed:
    """Play an episode's actions again in an environment, and close it."""
    with closing(env):
        observation, info = env.reset(seed=episode[0].turn.seed)
        found = Replayed([task.know(env, observation, info)], [], [])
        for played in episode:
            if played.turn.executed is not None:
                given = task.given(played.turn.executed, played.state.info)
                observation, reward, terminated, truncated, info = env.step(given)
                found.known.append(task.know(env, observation, info))
                found.rewards.append(reward)
                found.ends.append((terminated, truncated))
        return found


def _limit(task: Task, env: PlayedEnv) -> int:
    with closing(env):
        return turn_limit(task, env)


def blind(task: Task, episodes: Episodes) -> Check:
    """Play the same actions in the environment that draws nothing, of which chance levels and panels are."""
    fix = "let blind make an environment of the same rules and seeds, or leave it out."
    cut, cut_blind = _limit(task, task.open()), _limit(task, task.open_blind())
    if cut != cut_blind:
        return Check("blind", False, f"episodes are cut after {cut} turns, and in `blind` after {cut_blind}.", fix)
    for episode in episodes:
        drawn, plain = replayed(task, episode, task.open()), replayed(task, episode, task.open_blind())
        looks = {
            "what is known": (drawn.known[1:], plain.known[1:]),
            "the reward": (drawn.rewards, plain.rewards),
            "the end": (drawn.ends, plain.ends),
        }
        number = episode[0].state.episode
        if drawn.known[0] != plain.known[0]:
            said = f"an episode begins otherwise in `blind`: what is known in episode {number}."
            return Check("blind", False, said, fix)
        for turn in range(len(drawn.rewards)):
            for name, (one, other) in looks.items():
                if one[turn] != other[turn]:
                    said = f"the same actions give otherwise in `blind`: {name} after turn {turn} of episode {number}."
                    return Check("blind", False, said, fix)
    return Check("blind", True, f"the same actions give the same infos, rewards and ends in {len(episodes)} episodes.")
