"""A rollout or evaluation that was killed goes on where it was, and ends with the bytes of one that was not."""

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from gtrturbo.config import EvalConfig
from gtrturbo.play.policy_agent import PolicyAgent
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file


class Killed(BaseException):
    pass


@pytest.fixture
def asked(monkeypatch):
    """States that replies were asked for, as (episode, turn); `kill_at` a number of calls raises instead."""
    calls: list[list[tuple[int, int]]] = []
    agent = PolicyAgent.__call__

    def counted(self, states):
        if len(calls) == counted.kill_at:
            raise Killed
        calls.append([(state.episode, state.turn) for state in states])
        return agent(self, states)

    counted.kill_at = None
    counted.calls = calls
    monkeypatch.setattr(PolicyAgent, "__call__", counted)
    return counted


@pytest.fixture(scope="module")
def whole(turns_config, tmp_path_factory) -> str:
    """The id of the rollout that nobody killed."""
    return execute(replace(turns_config, out=tmp_path_factory.mktemp("whole") / "turns", num_envs=3)).id


@pytest.mark.parametrize("rounds", [0, 3, 12])
def test_a_killed_rollout_plays_no_finished_episode_again_and_ends_with_the_same_bytes(
    turns, turns_config, whole, tmp_path, asked, rounds
):
    config = replace(turns_config, out=tmp_path / "turns", num_envs=3)
    lengths = {episode: 0 for episode in range(8)}
    for turn in read_turns(turns):
        lengths[turn.episode] += 1
    asked.kill_at = rounds
    with pytest.raises(Killed):
        execute(config)
    assert not config.out.exists()
    before = {state for call in asked.calls for state in call}
    finished = {episode for episode, length in lengths.items() if (episode, length - 1) in before}
    asked.calls.clear()
    asked.kill_at = None
    assert execute(config).id == whole
    after = [state for call in asked.calls for state in call]
    assert {episode for episode, _ in after} == set(lengths) - finished
    assert len(after) == sum(length for episode, length in lengths.items() if episode not in finished)
    assert len(finished) >= rounds // 6  # Some were: the test says something.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["turns"]


def test_a_rollout_that_was_killed_by_the_kernel_in_the_middle_of_a_write_goes_on(turns_config, tmp_path):
    config = replace(turns_config, out=tmp_path / "turns", num_envs=3, episodes=5)
    code = f"""
import os, signal
from pathlib import Path, PosixPath
from gtrturbo.config import RolloutConfig
from gtrturbo.play.policy_agent import PolicyAgent
from gtrturbo.stages import execute
agent, calls = PolicyAgent.__call__, []
def dying(self, states):
    calls.append(states)
    if len(calls) > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return agent(self, states)
PolicyAgent.__call__ = dying
execute(RolloutConfig(**{asdict(config)}))
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    journal = tmp_path / ".turns.journal" / "0.jsonl"
    assert journal.stat().st_size > 0 and not config.out.exists()
    with journal.open("ab") as file:  # As if the kernel had stopped it in the middle of a write.
        file.write(b'{"turns":[{"episode":4,')
    resumed = execute(config)
    assert resumed.id == execute(replace(config, out=tmp_path / "whole")).id
    assert not journal.parent.exists() and not (tmp_path / ".turns.partial").exists()


def test_what_is_left_of_another_rollout_is_not_taken(turns, turns_config, tmp_path, asked):
    config = replace(turns_config, out=tmp_path / "turns")
    asked.kill_at = 9
    with pytest.raises(Killed):
        execute(replace(config, seed=9))
    assert (tmp_path / ".turns.journal" / "0.jsonl").exists()
    asked.calls.clear()
    asked.kill_at = None
    assert execute(config).id == sha256_file(turns / "stage.json")
    assert len({state for call in asked.calls for state in call}) == len(read_turns(turns))


def test_a_killed_evaluation_goes_on_too(warm, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    task = {"task": "numberline", "env": ("image=tiny",), "episodes": 4, "num_envs": 2, "max_new_tokens": 48}
    config = EvalConfig(out=tmp_path / "eval", checkpoint=warm, **task)
    whole = execute(replace(config, out=tmp_path / "whole")).id
    total = len(asked.calls)
    asked.calls.clear()
    asked.kill_at = total - 1
    with pytest.raises(Killed):
        execute(config)
    asked.calls.clear()
    asked.kill_at = None
    assert execute(config).id == whole
    assert 0 < len(asked.calls) < total
