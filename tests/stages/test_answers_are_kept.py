"""A teacher on a server whose work breaks off: what it answered and was proved is not asked for again."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from fake_server import Fake, serving

from gtrturbo.config import DistillConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import proving, wire
from gtrturbo.stages import execute, teachers

EVERY = 4  # answers to a look
LAST = 16  # request that is answered


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


@pytest.fixture
def config(warm, tmp_path, monkeypatch) -> DistillConfig:
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)
    monkeypatch.setattr(proving, "EVERY", EVERY)
    monkeypatch.setattr(teachers, "REQUESTS_AT_ONCE", 1)
    few = RolloutConfig(out=tmp_path / "turns", expert=True, task="numberline", env=("image=tiny",), episodes=5, num_envs=5)
    play = {"max_new_tokens": 32, "temperature": 0.6, "device": "cpu"}
    return DistillConfig(out=tmp_path / "demos", rollouts=execute(few).out, teacher=warm, mode="thoughts", **play)


def replies_to(fake) -> list[tuple[str, float, int]]:
    return [(str(body["messages"]), body["temperature"], body["seed"]) for body in fake.requests]


def breaks_off(monkeypatch) -> None:
    """The server answers so many requests, and then none."""
    right, count = Fake.reply, itertools.count(1)

    def reply(self, body, policy):
        if next(count) == LAST:
            self.failures = [503] * 10_000
        return right(self, body, policy)

    monkeypatch.setattr(Fake, "reply", reply)


def test_corrections_that_were_proved_are_kept_before_the_part_is_back(config, served, tmp_path, monkeypatch):
    with serving(served) as fake:
        breaks_off(monkeypatch)
        with pytest.raises(GtrTurboError, match="answered 503"):
            execute(replace(config, mode="correct", engine=f"vllm:{fake.url}"))
    assert len((tmp_path / ".demos.journal" / "0.jsonl").read_bytes().splitlines()) >= EVERY


def test_thoughts_of_the_others_are_kept_where_one_server_turns_out_to_be_another_checkpoint(
    config, served, init, tmp_path, monkeypatch
):
    right, other, count = Fake.reply, load_policy(init, device="cpu"), itertools.count(1)
    with serving(served) as wrong, serving(served) as fake:

        def reply(self, body, policy):
            answer = right(self, body, policy)
            if self is wrong and next(count) == LAST:
                self.policy = other
            return answer

        monkeypatch.setattr(Fake, "reply", reply)
        with pytest.raises(GtrTurboError, match=f"another took its place.*: {wrong.url} .*does not serve"):
            execute(replace(config, engine=f"vllm:{wrong.url},{fake.url}", retries=0))
    kept = (tmp_path / ".demos.journal" / "0.jsonl").read_bytes().splitlines()
    assert len(kept) >= EVERY and all(b"on server 2" in line for line in kept)


def test_thoughts_that_were_proved_are_kept_before_the_part_is_back(config, served, tmp_path, monkeypatch):
    config = replace(config, retries=0)
    with monkeypatch.context() as broken, serving(served) as fake:
        breaks_off(broken)
        with pytest.raises(GtrTurboError, match="answered 503"):
            execute(replace(config, engine=f"vllm:{fake.url}"))
        first = replies_to(fake)
    log = tmp_path / ".demos.journal" / "0.jsonl"
    kept = len(log.read_bytes().splitlines())
    assert kept >= EVERY
    with serving(served) as fake:
        resumed = execute(replace(config, engine=f"vllm:{fake.url}"))
        second = replies_to(fake)
    with serving(served) as fake:
        whole = execute(replace(config, engine=f"vllm:{fake.url}", out=tmp_path / "whole"))
        alone = replies_to(fake)
    demos = [Path(each.out / "demos.jsonl").read_bytes() for each in (resumed, whole)]
    assert demos[0] == demos[1] and not log.parent.exists()
    asked = set(alone) & set(first)
    assert len(asked - set(second)) >= kept - 1  # A state of a kept one may be asked about by a probe.
    assert len(second) <= len(alone) - kept + len(alone) // EVERY
