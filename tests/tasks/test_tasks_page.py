"""docs/tasks.md is what its command writes."""

import pytest

from docs import tasks
from gtrturbo.config.games import FAMILIES, GAME_IDS, HOUSES, WORLDS
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.view import View

TEXT = tasks.PAGE.read_text(encoding="utf-8")


def test_every_built_in_task_has_a_section_and_a_picture():
    shown = {each.name.partition(":")[0] for each in tasks.SHOWN}
    assert shown == {*GAME_IDS, *WORLDS, *HOUSES, *FAMILIES}
    assert TEXT.startswith(tasks.HEAD.replace("{episodes}", str(tasks.EPISODES)))
    assert [each.name for each in tasks.SHOWN if f"## {each.name}\n\n{each.what}\n" not in TEXT] == []
    assert len(list(tasks.PICTURES.glob("task-*.png"))) == len(tasks.SHOWN) == TEXT.count("](pictures/task-")


@pytest.mark.parametrize("shown", [each for each in tasks.SHOWN if not each.package], ids=lambda each: each.name)
def test_prompts_and_replies_are_todays(shown):
    task = load_task(shown.name, shown.options)
    env = task.make()
    observation, info = env.reset(seed=0)
    known = task.know(env, observation, info)
    prompt = task.ask(View(observation, known, render=env.render))
    assert f"> {prompt.messages[0]['content'][-1]['text']}\n" in TEXT
    assert task.expert is None or task.expert_reply(known) in TEXT
