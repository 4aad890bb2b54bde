"""Several servers of one checkpoint share the episodes of a rollout; what one of them loses is played by the others."""

import itertools
import socket
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_server import Fake, serving

from gtrturbo.config import RolloutConfig
from gtrturbo.config.addresses import servers_of
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play import failures, proving, servers, wire
from gtrturbo.play.episodes import Response, Stretch
from gtrturbo.play.recording import read_turns
from gtrturbo.play.server_agent import ServerPolicy
from gtrturbo.play.server_player import ask_server
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(wire.time, "sleep", lambda _: None)


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


@pytest.fixture
def config(warm, tmp_path) -> RolloutConfig:
    play = {"episodes": 6, "max_new_tokens": 32, "temperature": 0.9, "num_envs": 4, "probe": False}
    return RolloutConfig(out=tmp_path / "turns", checkpoint=warm, **TASK, **play)


@pytest.fixture
def two(served):
    with ExitStack() as ending:
        yield [ending.enter_context(serving(served, seconds=0.01)) for _ in range(2)]


def play(config, fakes, **settings):
    engine = "vllm:" + ",".join(fake.url for fake in fakes)
    return execute(replace(config, engine=engine, overwrite=True, **settings)).out


def said(out):
    """The turns but for who spoke, and that."""
    turns = read_turns(out)
    return [replace(turn, agent=None) for turn in turns], [turn.agent for turn in turns]


@pytest.fixture
def alone(config, served):
    """What one server plays."""
    with serving(served) as fake:
        return said(play(config, [fake]))[0]


def test_servers_share_the_episodes_and_each_row_says_who_spoke(config, two, alone):
    turns, agents = said(play(config, two))
    assert turns == alone
    counts = [agents.count(f"served on server {number}") for number in (1, 2)]
    assert counts == [len(fake.requests) for fake in two] and min(counts) > 1 and sum(counts) == len(turns)


def test_an_adapter_is_loaded_on_each_and_each_is_proved(config, two, lora_warm):
    metrics = read_manifest(play(config, two, checkpoint=lora_warm, probe=True)).metrics
    assert [len(fake.loads) for fake in two] == [1, 1]
    # Of each server the same four states at two temperatures, with the same seeds.
    assert metrics["probe_tokens"] % 2 == 0 and 0 < metrics["probe_gap_mean"] < 1e-5
    with serving(load_policy(lora_warm, device="cpu")) as fake:
        assert (
            read_manifest(play(config, [fake], checkpoint=lora_warm, probe=True)).metrics["probe_tokens"] * 2
            == (metrics["probe_tokens"])
        )


def test_a_server_of_another_checkpoint_among_them_is_refused_by_its_address(config, served, init):
    with (
        serving(served) as right,
        serving(load_policy(init, device="cpu")) as wrong,
        pytest.raises(GtrTurboError, match="does not serve") as told,
    ):
        play(config, [right, wrong], probe=True)
    assert str(told.value).startswith(wrong.url)
    assert not config.out.exists()


@pytest.mark.parametrize("status", [503, 500])
def test_what_a_lost_server_was_asked_goes_to_the_others_and_nothing_is_played_twice(config, two, alone, capsys, status):
    two[0].failures = [0, 0] + [status] * 1000
    turns, agents = said(play(config, two))
    assert turns == alone and agents.count("served on server 1") == 2
    assert [len(fake.requests) for fake in two] == [2, len(turns) - 2]
    assert f"{two[0].url}/v1/chat/completions answered {status}" in "".join(capsys.readouterr().err.split("\n"))


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refused the request"), (404, "refused"), (308, "sends the request on to"), (400, "refused the request")],
)
@pytest.mark.parametrize("probe", [False, True])
def test_a_server_that_refuses_whoever_asks_is_done_without(config, two, alone, capsys, monkeypatch, status, told, probe):
    monkeypatch.setattr(proving, "EVERY", 2)
    monkeypatch.setattr(two[0], "failures", [0] * (8 if probe else 2) + [status] * 10_000)
    turns, agents = said(play(config, two, probe=probe))
    assert turns == alone and agents.count("served on server 2") > 0
    heard = "".join(capsys.readouterr().err.split("\n"))
    assert heard.count(told) == 1 and f"({status})" in heard and "the other servers." in heard


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("probe", [False, True])
def test_a_server_that_refuses_from_the_start_is_done_without(config, two, alone, capsys, status, probe):
    two[0].failures = [status] * 10_000
    turns, agents = said(play(config, two, probe=probe))
    assert turns == alone and set(agents) == {"served on server 2"}


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_of_all_of_them_ends_the_stage_at_once(config, two, status):
    for fake, first in zip(two, ([0, 0], [0]), strict=True):
        fake.failures = first + [status] * 10_000
    with pytest.raises(GtrTurboError, match=rf"refused the request \({status}\)"):
        play(config, two, num_envs=2)
    assert sum(fake.tries for fake in two) < 12


def test_a_server_that_is_gone_is_done_without_and_told_once(config, served, two, alone, capsys):
    gone, chat = [], Fake.chat
    with serving(served) as third:

        def leaving(self, body):
            if self is third and not gone:
                gone.append(self)
                third.stop()
            return chat(self, body)

        Fake.chat = leaving
        try:
            turns, _ = said(play(config, [third, *two]))
        finally:
            Fake.chat = chat
    assert turns == alone and len(third.requests) <= 4 < len(two[0].requests) + len(two[1].requests)
    assert capsys.readouterr().err.count("Its episodes go to the other servers.") == 1


def test_a_server_that_answers_again_is_asked_again_and_proved_again(config, served, two, init, monkeypatch):
    monkeypatch.setattr(servers, "LOOKED_AT_AGAIN", 0.0)
    chat = servers.Server.chat
    asked = []

    def away(self, *given, **named):
        if self.base_url == two[0].url and named["temperature"] == 0.9:
            asked.append(1)
            if len(asked) == 8:  # After the four of the probe.
                self.failures += 1
                two[0].policy = load_policy(init, device="cpu")
                raise failures.AwayError(self.base_url, failures.TriedInVainError("cannot be reached."))
        return chat(self, *given, **named)

    monkeypatch.setattr(servers.Server, "chat", away)
    with pytest.raises(GtrTurboError, match=f"{two[0].url} .*does not serve"):
        play(config, two, probe=True, episodes=12)


@pytest.mark.parametrize("number", [1, 2])
def test_what_the_others_played_is_kept_where_one_turns_out_to_be_another_checkpoint(
    config, two, alone, init, monkeypatch, number
):
    monkeypatch.setattr(proving, "EVERY", 2)
    right, other, wrong = Fake.reply, load_policy(init, device="cpu"), two[number - 1]

    def reply(self, body, policy):
        answer = right(self, body, policy)
        if self is wrong and len(kept()) >= 4:
            self.policy = other
        return answer

    def kept():
        return [line for file in config.out.parent.glob(".turns*/*.jsonl") for line in file.read_bytes().splitlines()]

    monkeypatch.setattr(Fake, "reply", reply)
    episodes = {"episodes": 12, "num_envs": 1, "env": (*TASK["env"], "horizon=1")}
    with pytest.raises(GtrTurboError, match=rf"another took its place.*: {wrong.url} .*does not serve"):
        play(config, two, probe=True, **episodes)
    assert kept() and not [line for line in kept() if f"on server {number}".encode() in line]
    monkeypatch.undo()
    wrong.policy = two[2 - number].policy
    out = play(config, two, probe=True, **episodes)
    with serving(wrong.policy) as fake:
        assert said(out)[0] == said(play(config, [fake], out=config.out.parent / "alone", **episodes))[0]


def test_what_a_server_said_last_that_is_gone_at_the_end_is_asked_of_the_others(config, two, alone, init, monkeypatch, capsys):
    """Another model takes a server's place in silence, and has gone before that is found."""
    right, asked = Fake.reply, itertools.count()

    def reply(self, body, policy):
        answer = right(self, body, policy)
        if self is two[0] and body["temperature"] == 0.9 and next(asked) == 5:  # After the four of the proof and a turn.
            self.policy = load_policy(init, device="cpu")
        return answer

    monkeypatch.setattr(Fake, "reply", reply)
    at_end = ServerPolicy.prove_again

    def gone(policy):
        if two[0].policy is not two[1].policy:
            two[0].failures = [503] * 10_000
        return at_end(policy)

    monkeypatch.setattr(ServerPolicy, "prove_again", gone)
    turns, agents = said(play(config, two, probe=True))
    assert turns == alone and set(agents) == {"served on server 2"}
    assert "is asked of the others" in " ".join(capsys.readouterr().err.split())


def test_replies_to_questions_are_asked_for_again_until_they_are_believed():
    asked, rounds = [], []

    class Policy:
        max_concurrency = 1

        def prove(self, *_, **__):
            pass

        def reply(self, told, *_, seed, **__):
            stretch = Stretch(believed=len(asked) != 1)  # The second is of a server that is gone.
            asked.append(told)
            return Response(f"{told} {seed} {len(rounds)}", stretch=stretch)

        def prove_again(self):
            rounds.append(1)

    questions = [SimpleNamespace(told=name, pictures=[]) for name in "abc"]
    texts = ask_server(Policy(), questions, seeds=[7, 8, 9], temperature=0.5, max_new_tokens=8)
    assert texts == ["a 7 0", "b 8 1", "c 9 0"] and asked == ["a", "b", "c", "b"] and len(rounds) == 2


def test_servers_that_are_all_gone_are_waited_for_as_one_would_be(config, two, monkeypatch):
    for fake in two:
        fake.failures = [503] * 10_000
    monkeypatch.setattr(servers, "BACKOFF", (0.2,))
    with pytest.raises(GtrTurboError, match="answered 503"):
        play(config, two)


def test_a_request_at_which_all_of_them_fail_is_not_repeated_for_ever(config, two):
    for fake in two:
        fake.failures = [500] * 10_000
    with pytest.raises(GtrTurboError, match="answered 500"):
        play(config, two, num_envs=1)
    assert two[0].tries == two[1].tries == 3


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield SimpleNamespace(url=f"http://127.0.0.1:{free.getsockname()[1]}")


def test_a_server_that_is_away_at_the_start_is_done_without_and_the_others_are_proved(config, two, nobody):
    out = play(config, [nobody, *two], probe=True)
    assert read_manifest(out).metrics["probe_gap_mean"] < 1e-5
    assert {agent.partition(" on ")[2] for agent in said(out)[1]} == {"server 2", "server 3"}


@pytest.mark.parametrize("right", [True, False])
def test_a_server_that_comes_later_is_given_the_adapter_and_proved(config, two, lora_warm, lora, monkeypatch, right, capsys):
    """The first of two has its place before it answers, after six requests to the other."""
    monkeypatch.setattr(servers, "LOOKED_AT_AGAIN", 0.0)
    asking, begun = servers.Server._request, []

    def request(server, path, *given, **named):
        if server.base_url == two[0].url and len(two[1].requests) < 12:
            server.failures += 1
            begun.append(path)
            raise failures.AwayError(server.base_url + path, failures.TriedInVainError("cannot be reached."))
        return asking(server, path, *given, **named)

    monkeypatch.setattr(servers.Server, "_request", request)
    if not right:
        load = Fake.load

        def load_other(self, body):
            answer = load(self, body)
            self.adapters = dict.fromkeys(self.adapters, load_policy(lora, device="cpu"))
            return answer

        monkeypatch.setattr(Fake, "load", lambda self, body: load_other(self, body) if self is two[0] else load(self, body))
        with pytest.raises(GtrTurboError, match=rf"^{two[0].url} .*plays the model without the adapter"):
            play(config, two, checkpoint=lora_warm, probe=True, episodes=12)
        return
    _, agents = said(play(config, two, checkpoint=lora_warm, probe=True, episodes=12))
    assert len(two[0].loads) == 1 and {agent.partition(" on ")[2] for agent in agents} == {"server 1", "server 2"}
    assert "/v1/models" in begun and capsys.readouterr().err.count(f"{two[0].url} answers again.") == 1


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("vllm:http://a:8000,http://a:8000/v1", "names http://a:8000 twice"),
        ("vllm:http://a:8000,", "is no address of a server"),
        ("vllm:http://a:8000,vllm:http://b", "is no address of a server"),
    ],
)
def test_addresses_that_are_none_are_refused(engine, told):
    with pytest.raises(GtrTurboError, match=told):
        servers_of(engine)


def test_a_password_with_a_comma_is_told_by_nobody():
    with pytest.raises(GtrTurboError) as error:
        servers_of("vllm:http://a:8000,http://user:pass,word@b:8000")
    assert "pass" not in str(error.value).replace("password", "")


def test_each_server_is_named_as_it_is_written():
    assert servers_of("vllm:http://a:8000/,http://b:8000/v1") == ("http://a:8000", "http://b:8000")
    assert servers_of("vllm") == servers_of("hf") == ()
