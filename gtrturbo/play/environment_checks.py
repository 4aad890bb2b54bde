"""What is checked of a task's environment: seeds, rewards, ends, and how far one comes without a model."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.passive_env_checker import env_reset_passive_checker, env_step_passive_checker

from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.config.games import has_own_cost, invalid_reply_cost
from gtrturbo.play.action_checks import not_taken
from gtrturbo.play.episodes import Played
from gtrturbo.play.replay_checks import replayed
from gtrturbo.play.trial import Check, Episodes, identity, play, player, states
from gtrturbo.plugins import line_of
from gtrturbo.tasks.chance import MOST_TURNS, chance, own_limit, turn_limit
from gtrturbo.tasks.environment import telling
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import WON, WonByReturn, described, is_picture, won_by_info

CHANCE_SECONDS = 30.0
WIN_RETURN = "--env win_return=RETURN of gym:ID, `won` of a task of your own"
MOST_CONSTANT = 20  # Actions of which it is looked whether one goes on for ever.
CHANCE_TURNS = 4000  # Episodes by chance: about so many, over all policies.


def environment(task: Task) -> Check:
    """Let Gymnasium's own passive checks look at a reset and a step."""
    name = "environment"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = task.open()
        try:
            observation, info = _passively(task, "reset(seed=0)", lambda: env_reset_passive_checker(env.env, seed=0))
            known, drawn = task.know(env, observation, info), env.render()
            allowed = task.allowed(known)
            space = getattr(env, "action_space", None)
            if task.act is None and isinstance(space, gym.spaces.Discrete) and len(allowed) > space.n:
                said = f"there are {len(allowed)} actions for the environment's {space.n}."
                return Check(name, False, said, "name as many as there are, or say with act what the environment is given.")
            if wrong := not_taken(task, space, allowed[0], known):
                return Check(name, False, wrong, "let act return what the action space holds, or mend the action space.")
            given = task.given(allowed[0], known)
            _passively(task, f"step({given!r})", lambda: env_step_passive_checker(env.env, given))
            for panel in task.panels:
                env.reset(seed=int(task.panel(panel)[0]))
        except AssertionError as error:
            return Check(name, False, _sentence(error), "see gymnasium.Env on what reset and step return.")
        finally:
            env.close()
    told = {_sentence(warning.message) for warning in caught if "gymnasium" in warning.filename}
    if is_picture(observation) and is_picture(drawn) and observation.shape != drawn.shape:
        told.add(f"it observes {described(observation)} and draws {described(drawn)}: see below of what size is shown.")
    return Check(name, True, " ".join(["resets and steps as Gymnasium wants it.", *sorted(told)]))


def _passively(task: Task, call: str, look: Callable[[], Any]) -> Any:
    """Let a check of Gymnasium's call the environment; what that itself raises is none of the check's assertions.

    Raises:
        AssertionError: the check's.
        GtrTurboError: the environment raises anything.
    """
    with telling(task.name, f"fails at {call}"):
        try:
            return look()
        except AssertionError as error:
            if line_of(error):
                raise
            found = error
    raise found


def _sentence(message: Any) -> str:
    text = str(message).replace("\x1b[33m", "").replace("\x1b[0m", "").removeprefix("WARN: ").strip()
    return text if text.endswith(".") else text + "."


def seeding(task: Task, alone: Episodes) -> Check:
    """Compare episodes that one environment played one after another with the same ones in an environment each."""
    apart = play(task, num_envs=len(alone), episodes=len(alone))
    for first, second in zip(alone, apart, strict=True):
        if different := _difference(first, second):
            return Check(
                "seeding",
                False,
                f"the same seed gives other episodes: {different} of episode {first[0].state.episode}.",
                "draw from env.np_random alone, which reset(seed=…) sets, and let reset begin anew.",
            )
    return Check("seeding", True, f"the same seed gives the same pictures, infos and rewards in {len(alone)} episodes.")


def _difference(first: Sequence[Played], second: Sequence[Played]) -> str:
    for one, other in zip(first, second, strict=False):
        for name, look in LOOKS.items():
            if look(one) != look(other):
                return f"{name} at turn {one.state.turn}"
    return "the number of turns" if len(first) != len(second) else ""


LOOKS: dict[str, Callable[[Played], Any]] = {
    "what is known": lambda played: played.state.info,
    "the pictures": lambda played: [(image.shape, image.tobytes()) for image in played.state.images],
    "the prompt": lambda played: played.state.messages,
    "the reward": lambda played: played.turn.reward,
    "the end": lambda played: (played.turn.terminated, played.turn.truncated),
}


def starts(task: Task, episodes: Episodes) -> Check:
    """Say whether episodes of different seeds begin differently."""
    begun = [episode[0].state for episode in episodes]
    looks = [b"".join(image.tobytes() for image in state.images) for state in begun]
    count = len({(identity(state), look) for state, look in zip(begun, looks, strict=True)})
    if count > 1:
        return Check("starts", None, f"{len(episodes)} seeds begin in {count} different ways.")
    return Check(
        "starts", None, "every seed begins alike: evaluate at a temperature above 0, or one episode is played again and again."
    )


def rewards(task: Task, episodes: Episodes) -> Check:
    """Play the same actions in an environment of our own and add up what it pays."""
    returns = []
    for episode in episodes:
        paid = undiscounted(replayed(task, episode, task.open()).rewards)
        total = undiscounted(played.turn.reward for played in episode)
        if not math.isfinite(total):
            return Check("rewards", False, f"episode {episode[0].state.episode} pays {total}.", "let every reward be finite.")
        if not math.isclose(total, paid, abs_tol=1e-9):
            return Check("rewards", False, f"the same actions pay {total:g} and then {paid:g}.", "see seeding.")
        returns.append(total)
    said = f"an episode pays {min(returns):g} to {max(returns):g}, the sum of its turns' rewards."
    return Check(
        "rewards", True, said + _cost_of_invalid(task, [played.turn.reward for episode in episodes for played in episode])
    )


def _cost_of_invalid(task: Task, paid: Sequence[float]) -> str:
    """Say what an invalid reply should cost where a wrong move costs more than it does by default."""
    wide, costs = max(paid) - min(paid), invalid_reply_cost(task.name)
    if has_own_cost(task.name) or wide <= costs:
        return ""
    said = f" A turn pays {min(paid):g} to {max(paid):g}, and an invalid reply costs {costs:g}, less than a wrong move may:"
    return f"{said} train with --format-invalid -{wide:g} (run --set ppo-step.format-invalid=-{wide:g})."


def endings(task: Task, episodes: Episodes) -> Check:
    """Count how episodes end: by their rules (terminated) or cut (truncated), never both and never before the last turn."""
    with closing(task.open()) as env:
        limit, own = turn_limit(task, env), own_limit(env)
    ends = [[(played.turn.terminated, played.turn.truncated) for played in episode] for episode in episodes]
    if any(any(map(any, end[:-1])) or sum(end[-1]) != 1 for end in ends):
        return Check("endings", False, "an episode goes on after its end, or ends in two ways.", "see gymnasium.Env.step.")
    cut = [end for end in ends if end[-1][1]]
    said = f"{len(ends) - len(cut)} episodes ended by their rules, {len(cut)} were cut;"
    if not task.max_turns and not own:
        return _unlimited(task, said, any(len(end) == limit for end in cut))
    said = f"{said} the limit is {limit} turns."
    if limit == 1 or not all(len(end) == limit and end[-1][0] for end in ends):
        return Check("endings", True, said)
    said = f"{said} Each ended by its rules just at the limit."
    fix = "terminated is for what ends by the rules; let it be truncated, and the value of its last state counts."
    if own == limit:
        return Check("endings", False, said, fix)
    return Check("endings", None, f"{said} If nothing but the count of turns ends one, say truncated.")


def _unlimited(task: Task, said: str, reached: bool) -> Check:
    """Look for an episode that does not end by itself: one of those that were played, or one of always the same action."""
    fix = "set max_turns, or give the environment a limit: an untrained model may well play so."
    if reached:
        return Check("endings", False, f"{said} no limit is set, and one went on for {MOST_TURNS} turns.", fix)
    if action := next(_goes_on(task), None):
        return Check("endings", False, f"{said} no limit is set, and nothing but {action!r} goes on for {MOST_TURNS} turns.", fix)
    return Check("endings", True, f"{said} no limit is set, and none needed one.")


def _goes_on(task: Task) -> Iterator[str]:
    """Yield the first allowed action of those that alone, as long as they are allowed, end no episode."""
    with closing(task.open_blind()) as env:
        for number in range(min(MOST_CONSTANT, len(task.allowed(task.know(env, *env.reset(seed=0)))))):
            known = task.know(env, *env.reset(seed=0))
            for _ in range(MOST_TURNS):
                allowed = task.allowed(known)
                action = allowed[number % len(allowed)]
                observation, _, terminated, truncated, info = env.step(task.given(action, known))
                known = task.know(env, observation, info)
                if terminated or truncated:
                    break
            else:
                yield action


def success(task: Task, episodes: Episodes) -> Check:
    """Play without a model, and compare the expert."""
    turns = max(1, max(map(len, episodes)))
    policies = 1 + len(task.allowed(next(states(episodes)).info))
    count = min(100, max(8, min(CHANCE_TURNS, task.chance_turns) // (turns * policies)))
    levels = chance(task, episodes=count, seed=0, seconds=CHANCE_SECONDS)
    if levels is None:
        return Check("success", None, f"by chance {policies} policies were not played in {CHANCE_SECONDS:g} s.")
    said = f"by chance {levels['random']:.2f} at random, {levels['constant']:.2f} with always one action ({count} episodes each)"
    by_return, out_of_reach = _by_return(task, episodes)
    if out_of_reach:
        return Check("success", False, f"{said}.{by_return}", f"say what wins: {WIN_RETURN}.")
    if min(levels["random"], levels["constant"]) == 1:
        return Check("success", False, f"whatever is played wins: {said}.{by_return}", f"say what wins: {WIN_RETURN}.")
    won = [episode[-1].turn.won for episode in episodes if player(task, episode[0].state.episode) == "expert"]
    if not won:
        return Check("success", None, f"{said}.{by_return}")
    rate = float(np.mean(won))
    if rate <= levels["random"] < 1:
        return Check("success", False, f"the expert wins {rate:.2f}, no more than {said}.", "mend the expert, or `won`.")
    return Check("success", True, f"the expert wins {rate:.2f} of {len(won)}; {said}.{by_return}")


def _by_return(task: Task, episodes: Episodes) -> tuple[str, bool]:
    """Tell from which return an episode is won where that decides it, and whether what turns pay here cannot amount to it.

    A return that was asked for counts as within reach: who asks may know of turns that pay more than those that were seen.
    """
    by, most = task.won, max(played.turn.reward for episode in episodes for played in episode)
    if by is won_by_info and not _says_who_won(task, episodes):
        return _above_zero(episodes, most)
    if not isinstance(by, WonByReturn) or (by.info_first and _says_who_won(task, episodes)):
        return "", False
    with closing(task.open()) as env:
        limit = turn_limit(task, env)
    meant = ", a mark for the mean of many episodes; --env win_return=… sets another" if by.info_first else ""
    short = 0 < most * limit < by.least
    never = f", which {limit} turns do not reach that pay {most:g} at most, as all did here" if short else ""
    rules = ", once its environment ends it" if by.least <= 0 else ""
    return f" An episode is won from a return of {by.least:g}{rules} ({by.named}{meant}){never}.", short and by.info_first


def _above_zero(episodes: Episodes, most: float) -> tuple[str, bool]:
    """Tell what a win by a return above 0 leaves out: turns that all cost, and episodes that were cut with such a return."""
    rule = " An episode is won from a return above 0, once its environment ends it"
    if most < 0:
        return f"{rule}, and every turn that was played cost {-most:g} or more.", True
    cut = [episode for episode in episodes if episode[-1].turn.truncated]
    paid = sum(undiscounted(played.turn.reward for played in episode) > 0 for episode in cut)
    lost = f"{paid} of the {len(cut)} that were cut had such a return, and count as lost; to let them win: {WIN_RETURN}"
    return (f"{rule}: {lost}." if paid else ""), False


def _says_who_won(task: Task, episodes: Episodes) -> bool:
    """Tell whether what is known of a state, or of an episode's end, says itself whether it was won."""
    before = (state.info for state in states(episodes))
    after = (replayed(task, episode, task.open()).known[-1] for episode in episodes)
    return any(name in info for info in (*before, *after) for name in WON)
