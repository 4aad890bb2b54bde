"""A policy that cannot be read is told of once, while it plays, and not at the end of its hours."""

from dataclasses import replace

import pytest

from gtrturbo.config import EvalConfig
from gtrturbo.play.recording import MANY_TURNS, Mute
from gtrturbo.stages import execute
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


def test_of_few_replies_it_is_told_at_their_end(episodes, capsys):
    mute = Mute(load_task("numberline"))
    mute.hear(episodes[0])
    assert capsys.readouterr().err == ""
    mute.end(episodes[0])
    mute.end(episodes[0])
    assert capsys.readouterr().err.count("none of the 5 replies can be read as one of numberline") == 1


def test_an_evaluation_none_of_whose_replies_can_be_read_says_so(init, tmp_path, capsys):
    """A model that knows nothing writes nothing that parses."""
    asked = {"task": "numberline", "env": ("image=tiny", "horizon=2"), "episodes": 2, "max_new_tokens": 2}
    metrics = execute(EvalConfig(out=tmp_path / "e", checkpoint=init, chance_episodes=0, **asked)).metrics
    assert metrics["illegal_rate"] == 1
    assert "replies can be read as one of numberline" in capsys.readouterr().err
