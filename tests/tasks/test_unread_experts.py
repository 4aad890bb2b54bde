"""An expert, or a random expert, whose replies its own task cannot read is a check that failed, with or without the other."""

from dataclasses import replace

import own_tasks
import pytest

from gtrturbo.play.reply_checks import round_trip, spans
from gtrturbo.play.trial import play


def checked(task):
    episodes = play(task, num_envs=1, episodes=6)
    return round_trip(task, episodes), spans(task, episodes)


def seldom(info, rng) -> str:
    """Write what cannot be read but with the numbers that a check itself draws."""
    action = ("back", "on")[rng.integers(2)]
    return f"<think>why not</think><answer>{action if rng.bit_generator.seed_seq.entropy == 0 else 'fly'}</answer>"


@pytest.mark.parametrize("random_expert", [lambda info, rng: "on", lambda info, rng: "<think></think><answer>fly</answer>"])
def test_a_random_expert_that_cannot_be_read_fails_where_it_is_the_only_one(random_expert):
    replies, found = checked(replace(own_tasks.TAGS, expert=None, random_expert=random_expert))
    assert replies.passed is False and "cannot be read" in replies.said
    assert found.passed is None and found.said == "not checked: no reply of its experts can be read."


def test_what_the_random_expert_said_in_play_is_looked_at_too():
    replies, _ = checked(replace(own_tasks.TAGS, random_expert=seldom))
    assert replies.passed is False and "'<think>why not</think><answer>fly</answer>' cannot be read" in replies.said


def test_a_random_expert_alone_is_said_to_be_it():
    replies, found = checked(own_tasks.ALONE)
    assert replies.passed and "the random expert's; there is no other" in replies.said and found.passed
    mute, unseen = checked(own_tasks.MUTE)
    assert mute.passed is None and unseen.said.startswith("not checked: the task has its own parser and no expert")
