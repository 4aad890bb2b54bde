"""A policy that cannot be read is told of once, while it plays, and not at the end of its hours."""

from dataclasses import replace

import pytest

from gtrturbo.play.recording import MANY_TURNS, Mute
from gtrturbo.store.turns import read_turns
from gtrturbo.tasks.loading import load_task


@pytest.fixture
def episodes(turns):
    read = [replace(turn, legal=False) for turn in read_turns(turns)]
    return [read[start : start + 5] for start in range(0, len(read), 5)]


def test_it_is_told_once_when_many_replies_could_not_be_read(episodes, capsys):
    mute = Mute(load_task("numberline"))
    for _ in range(3):
        for episode in episodes:
            mute.hear(episode)
    said = capsys.readouterr().err
    assert said.count("none of the first") == 1
    assert f"none of the first {-(-MANY_TURNS // 5) * 5} replies can be read as one of numberline" in said


def test_one_reply_that_can_be_read_is_enough_for_silence(episodes, capsys):
    mute = Mute(load_task("numberline"))
    first, *others = episodes
    mute.hear([replace(first[0], legal=True), *first[1:]])
    for episode in others * 3:
        mute.hear(episode)
    assert capsys.readouterr().err == ""
