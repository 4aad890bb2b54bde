"""Write docs/tasks.md, a picture, prompt and expert's reply of each built-in task: `python -m docs.tasks [TASK …]`.

A task whose package is not installed keeps the section that the page has of it, and so does one that is not named where some are.
"""

import importlib.util
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gtrturbo.config.games import invalid_reply_cost, turn_rewards
from gtrturbo.tasks.chance import chance, turn_limit
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.panels import panel_id
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.view import View
from gtrturbo.tasks.worlds.web_experts import EXPERTS

PAGE = Path(__file__).with_name("tasks.md")
PICTURES = Path(__file__).with_name("pictures")
EPISODES = 100


@dataclass(frozen=True)
class Shown:
    """One task of the page: its options there, what it is, the package that it needs, and episodes by which chance is told."""

    name: str
    what: str
    options: tuple[str, ...] = ()
    package: str = ""
    episodes: int = EPISODES


SHOWN = (
    Shown("numberline", "Walk from one number to another."),
    Shown(
        "ezpoints", "Make 12 from two cards, an item a turn. A formula that is too long ends the episode; `overlong=cut` cuts it."
    ),
    Shown("blackjack", "Stand or hit."),
    Shown(
        "points24",
        "Make 24 from four cards, an item a turn. `deals=train` never deals the hands of the panels, of which some have a "
        "solution (`solvable`) and some have none (`unsolvable`). `overlong=cut` cuts a formula that is too long instead of "
        "ending the episode, as the original environment says of itself.",
    ),
    Shown(
        "frozenlake",
        "Gymnasium's own environment, on a lake drawn for each episode; `lake=4x4` and `lake=8x8` are its fixed "
        "ones, `slippery=true` lets moves slip, `reads=place` asks less of a reply, `look=text` shows "
        "lines instead of a picture. The expert plans by value iteration.",
    ),
    Shown(
        "sokoban",
        "Push boxes onto targets. A level's shortest solution has `fewest_pushes` to `most_pushes` pushes, exactly; a state that "
        "nothing solves any more ends the episode. The expert takes a solution with the fewest pushes. VAGEN's size is 6. "
        "`look=text` shows the room as lines instead of a picture.",
    ),
    Shown(
        "minigrid:MiniGrid-DoorKey-5x5-v0",
        "Any environment of the package MiniGrid whose id begins with `MiniGrid-`, untouched (`pip install "
        "'gtrturbo[minigrid]'`); one of BabyAI is `gym:minigrid:BabyAI-…`, without an expert. The expert plans breadth first "
        "over the whole grid where the mission is to reach a goal, to fetch or go to a thing, or to open the door, and plans "
        "are found; other missions have none. `look=text` shows the grid as lines instead of a picture.",
        package="minigrid",
    ),
    Shown(
        "alfworld",
        "Household tasks of six types in TextWorld's engine (`pip install 'gtrturbo[alfworld]'`: a C compiler and cmake "
        "build two of its parts). What may be done changes with the state, and an action is taken whole: `shelf 1` is not "
        "`shelf 10`. What is told stands in the prompt, in a picture (`look=picture`), or in both.\n\n"
        "120 games are written here. Where ALFWORLD_DATA names the folder of `alfworld-download` the real ones are "
        "played, but for `games=written`. Episodes are dealt from `train`; the panels `seen` (its rooms) and `unseen` "
        "(others) play each game of theirs once. An evaluation tells success by type, too. The expert is the engine's "
        "planner, which knows the whole state.\n\n"
        "`make test-alfworld` plays all of it: the expert wins 120 of the 120, 20 of each type, in 3 to 10 turns; random play 1 "
        "of 60 in 40 turns; the tiny model goes through every stage, and after 60 supervised steps and an update wins none of "
        "the 24 of `unseen` in 8 turns.\n\n"
        "A turn pays 50 for a win and what the share of the goal's conditions that hold has risen by; `pays=level` is the "
        "original's, which pays that share every turn, so that idling pays. The cost of an invalid reply is the paper's. "
        "Its λ here is 0.2, where the default is 0.5: `ppo-step --thought-coef 0.2`, or `--set ppo-step.thought-coef=0.2` "
        "of a run. THOR's engine: [alfworld-thor.md](alfworld-thor.md).",
        ("look=both", "games=written"),
        package="textworld",
        episodes=10,
    ),
    Shown(
        "miniwob:enter-text",
        "A page of the package MiniWoB, untouched but for its clock and what moves by itself, in a real Chromium that shows "
        "nothing on a screen "
        "(`pip install 'gtrturbo[miniwob]'`; `apt-get install chromium chromium-driver`). Every page but flights can be played; "
        "those with a scripted expert are "
        + ", ".join(f"`{page}`" for page in EXPERTS)
        + ". A click is at a pixel or, unless `elements=false`, on an element of the "
        "prompt's list. Pages pay without their discount for time, and a win is the whole reward. `seconds` lets the page's own "
        "clock end an episode. A browser that dies, or does not answer for `patience` seconds, is replaced: its episode is cut, "
        "the others go on. Each episode that is played has a browser of about 200 MB, so `--num-envs 4` is plenty. "
        "Pictures follow the machine's fonts: with others a panel deals the same, but its sha256 is another. "
        "`make test-miniwob` installs all and plays 50 episodes by every expert, of which each must win 45.",
        package="miniwob",
        episodes=20,
    ),
    Shown(
        "gym:CliffWalking-v1",
        "Any environment of Gymnasium's registry with frames and a discrete action space. `prompt`, `actions`, `size` (pixels of "
        "the longer side), `frames` (the last ones, an image each), `history` (the last turns in words), `observation`, "
        "`horizon` and `win_return` say how it is shown and played; `file` is a YAML file with any of these and `make`, the "
        "environment's own arguments, and what is given beside it counts. There is no expert and no truth.\n\n"
        "The picture is what the environment observes where that is bytes `[height, width, 3]` and of the size that it renders,"
        " else what it renders. Texts that it observes, and the texts and numbers of a dict or tuple, stand in the prompt. An "
        "`action_mask` in its info, or in a dict that it observes, says which actions there are. An episode is won from a "
        "return of `win_return`, to a millionth; without it as the info says (`won`, `is_success`, `success`); without that "
        "from the environment's own `reward_threshold`, which is meant for the mean of many episodes; and else by a return "
        "above 0 where the environment's rules ended the episode: one that is cut is lost then. A `win_return` or "
        "`reward_threshold` of 0 or below wins only where they ended it, too. `gym:MODULE:ID` imports a "
        "module first; the sha256 of your own files, of every module that it imports and of what beside them they name, is part "
        "of the version and of the panel's, of a folder with all folders in it (but not hidden ones, nor artifacts and runs of "
        "gtrturbo); not what is read by a name that is put together.",
        (
            "prompt=Walk to the cookie, and not off the cliff.",
            "actions=up,right,down,left",
            "size=320",
            "horizon=60",
            "win_return=-20",
        ),
    ),
)
HEAD = """# The built-in tasks

<!-- Written by `python -m docs.tasks`; do not edit. -->

`gtrturbo play --task NAME --expert` shows a task turn by turn, `gtrturbo check-task NAME` checks it. `--env KEY=VALUE` sets an
option; `image=tiny` draws small pictures. One of your own: [your-own-task.md](your-own-task.md).

**Panels.** `gtrturbo eval --panel NAME` plays a fixed list of 200 episodes (`gtrturbo run --set eval.panel=NAME`). Its sha256 is
of the task, the seeds and how each episode begins, and stands in the evaluation's manifest; `compare` refuses to pair others. A
panel's seeds are 2³² and above, those of all other episodes below; `gym:ID`, whose environments need not take such, has the last
200 below, with which no other episode is seeded. Where a task has enough deals, a fifth of them, by a hash of
their content, is dealt to panels alone: `held-out`. A `fixed` panel has no deals to itself, as where there are too few.

**Versions.** A manifest names the environment and the version of the package that holds it; with another one it is another game,
and is refused as such.

**An invalid reply** costs by default what the best turn of the task pays more than its worst, so that no reply is better left
unread: `ppo-step --format-invalid`. What `gym:ID` and a task of your own pay is not known, and there it costs 1, which may be
less than a wrong move: `check-task` says what turns paid, and what to give. The tiny model's preset says 1 for NumberLine, 3 for
Blackjack and 10 for EZPoints, which is what their results were measured with. With 2 on NumberLine the quick start's run ended at
0.845 instead of 0.820, and 58 % of the replies of its last rollout were illegal. The paper's value on Points24 is 2, with 3 for a
valid one (`--format-valid 3`).

**Chance** is the success rate of random actions, and of the best single action, by {episodes} episodes each here, by 20 in
a browser, by 10 in ALFWorld. `eval` plays up to 1,000 episodes a policy, and no more than 400,000 turns (1,000 in a browser,
20,000 in ALFWorld, but 20 episodes a policy) or 600 seconds in all, once: it keeps the numbers in `~/.cache/gtrturbo/chance`.
`--chance-episodes 0` leaves them out.
"""


def page(anew: Sequence[str] = ()) -> str:
    """Return the page's text, and write its pictures; all sections anew if none is named."""
    sections = (_section(shown) if not anew or shown.name in anew else _kept(shown.name) for shown in SHOWN)
    return HEAD.replace("{episodes}", str(EPISODES)) + "".join(sections)


def _section(shown: Shown) -> str:
    if shown.package and importlib.util.find_spec(shown.package) is None:
        return _kept(shown.name)
    task = load_task(shown.name, shown.options)
    with closing(task.open()) as env:
        observation, info = env.reset(seed=0)
        known = task.know(env, observation, info)
        prompt = task.ask(View(observation, known, render=env.render))
        limit = turn_limit(task, env)
    file = PICTURES / f"task-{re.sub(r'[^a-z0-9]+', '-', shown.name.lower())}.png"
    Image.fromarray(prompt.images[-1]).save(file, optimize=True)
    said = "\n".join(f"> {part['text']}" for message in prompt.messages for part in message["content"] if part["type"] == "text")
    reply = f"```json\n{task.expert_reply(known)}\n```\n" if task.expert else ""
    picture = f"![{shown.name}](pictures/{file.name})"
    return f"\n## {shown.name}\n\n{shown.what}\n\n{picture}\n\n{said}\n\n{reply}\n{_facts(shown, task, limit)}"


def _facts(shown: Shown, task: Task, limit: int) -> str:
    levels = chance(task, episodes=shown.episodes, seed=0)
    assert levels is not None
    paid = turn_rewards(shown.name)
    rows: dict[str, Any] = {
        "options": ", ".join(f"`{name}={value}`" for name, value in task.options.items() if value not in ("", None)),
        "a turn pays": f"{paid[0]:g} to {paid[1]:g}" if paid else "what the environment pays",
        "an invalid reply costs": f"{invalid_reply_cost(shown.name):g}",
        "turns at most": limit,
        "chance": f"random {levels['random']:.2f}, one action {levels['constant']:.2f}",
    } | {f"panel `{name}`": f"`{panel_id(task, name)[:12]}…`" for name in task.panels}
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _kept(name: str) -> str:
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    found = re.search(rf"\n## {re.escape(name)}\n.*?(?=\n## |\Z)", text, re.DOTALL)
    return found[0] if found else ""


if __name__ == "__main__":
    PAGE.write_text(page(sys.argv[1:]), encoding="utf-8")
