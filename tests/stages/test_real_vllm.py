"""The stages against a real vLLM, as `make test-vllm` runs them: skipped where GTRTURBO_VLLM names no Python that has it."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import FAULTS, spoiling

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, PpoStepConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play import wire
from gtrturbo.play.own_server import AROUND, FLAGS_ON_CPU, ON_CPU, PATIENCE
from gtrturbo.play.recording import read_turns
from gtrturbo.play.server import Server
from gtrturbo.runs.execute import run
from gtrturbo.stages import execute
from gtrturbo.store.ids import seed_for
from gtrturbo.store.manifest import read_manifest

PYTHON = os.environ.get("GTRTURBO_VLLM")
pytestmark = [pytest.mark.skipif(not PYTHON, reason="make test-vllm"), pytest.mark.timeout(3600)]
TASK = {"task": "numberline", "env": ("image=tiny",)}
PLAY = TASK | {"episodes": 4, "max_new_tokens": 48, "num_envs": 4}
RIGHT = ("--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--enable-lora", "--max-lora-rank", "8",
         "--enable-tower-connector-lora")  # fmt: skip
WRONG = ("--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--enable-lora", "--max-lora-rank", "8")


@pytest.fixture(scope="module")
def small(root, expert) -> Path:
    """The built-in model whose heads vLLM takes, after so many steps that most replies parse."""
    first = execute(InitConfig(out=root / "small", model="small")).out
    warm = SftConfig(out=root / "small_warm", data=(expert,), checkpoint=first, steps=80, learning_rate=3e-3, batch_size=16)
    return execute(warm).out


@pytest.fixture(scope="module")
def adapter(root, small, expert) -> Path:
    first = execute(InitConfig(out=root / "small_lora", model=str(small), lora_rank=8)).out
    trained = SftConfig(out=root / "small_adapter", data=(expert,), checkpoint=first, steps=20, learning_rate=1e-2, batch_size=16)
    return execute(trained).out


class Vllm:
    """A server that may be stopped and started again at the same address."""

    def __init__(self, model: Path, log: Path, *flags: str, around: dict[str, str] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._around = os.environ | ON_CPU | AROUND | (around or {})
        self._command = [
            str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1",
            "--port", str(self.port), "--max-model-len", "2048", *FLAGS_ON_CPU, *flags,
        ]  # fmt: skip

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._around,
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE
        while wait:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, self.log.read_text()[-3000:]
                time.sleep(2)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def vllm(model: Path, folder: Path, *flags: str, **around: str):
    server = Vllm(model, folder / "vllm.log", *flags, around=around)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def right(small, tmp_path_factory):
    with vllm(small, tmp_path_factory.mktemp("right"), *RIGHT) as server:
        yield server


@pytest.fixture(params=["full weights", "adapter"])
def checkpoint(request, small, adapter):
    return small if request.param == "full weights" else adapter


def test_turns_of_the_server_are_trained_on_and_its_log_probs_are_ours(right, checkpoint, tmp_path):
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=checkpoint, temperature=0.6, engine=f"vllm:{right.url}", **PLAY)
    turns = execute(play).out
    assert read_manifest(turns).metrics["probe_gap_mean"] < 1e-5
    update = PpoStepConfig(
        out=tmp_path / "next", checkpoint=checkpoint, rollouts=turns, epochs=1, minibatch_size=8, learning_rate=1e-4
    )
    metrics = read_manifest(execute(update).out).metrics
    assert metrics["sampler_trainer_gap_mean"] < 1e-5 and metrics["first_ratio_error"] < 1e-5


def test_an_evaluation_and_a_teacher_are_proved_as_well(right, checkpoint, turns, tmp_path):
    settings = {"engine": f"vllm:{right.url}", "max_new_tokens": 48}
    played = EvalConfig(out=tmp_path / "eval", checkpoint=checkpoint, episodes=4, **TASK, **settings)
    taught = DistillConfig(out=tmp_path / "demos", rollouts=turns, teacher=checkpoint, mode="thoughts", **settings)
    for config in (played, taught):
        assert read_manifest(execute(config).out).metrics["probe_gap_mean"] < 1e-5


def test_a_server_of_another_checkpoint_is_refused(right, root, tmp_path):
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=root / "small", engine=f"vllm:{right.url}", **PLAY)
    with pytest.raises(GtrTurboError, match="whose weights are not those of"):
        execute(play)
    with pytest.raises(GtrTurboError, match="whose weights are not those of"):
        execute(EvalConfig(out=tmp_path / "eval", checkpoint=root / "small", engine=f"vllm:{right.url}", **PLAY))
    assert not list(tmp_path.iterdir())


def test_turns_that_were_played_here_prove_the_server_and_refuse_another(right, checkpoint, root, tmp_path):
    here = RolloutConfig(out=tmp_path / "here", checkpoint=checkpoint, temperature=0.6, **PLAY)
    there = replace(here, out=tmp_path / "there", engine=f"vllm:{right.url}", probe_turns=execute(here).out)
    metrics = read_manifest(execute(there).out).metrics
    assert metrics["probe_gap_mean"] < 1e-5 and metrics["probe_tokens"] >= 32
    born = replace(here, out=tmp_path / "born", checkpoint=root / "small", on_invalid_reply="end")
    other = replace(there, out=tmp_path / "no", checkpoint=root / "small", probe_turns=execute(born).out)
    with pytest.raises(GtrTurboError, match="whose weights are not those of"):
        execute(other)


def run_of(start: Path, out: Path, *asked: str) -> list[float]:
    """Go through two iterations; return the gaps that were found where a server was asked."""
    config = RunConfig(
        out=out, start=start, task="numberline", env=("image=tiny",), iterations=2, eval_every=2, episodes=4, eval_episodes=4,
        set=(*(f"{stage}.{option}" for stage in ("rollout", "eval") for option in asked), "ppo-step.minibatch-size=8"),
    )  # fmt: skip
    run(config)
    found = [read_manifest(file.parent).metrics.get("probe_gap_mean") for file in out.glob("*/*/stage.json")]
    return [gap for gap in found if gap is not None]


def test_a_run_goes_through_two_iterations_with_adapters_that_the_server_loads(right, adapter, tmp_path):
    gaps = run_of(adapter, tmp_path / "run", f"engine=vllm:{right.url}")
    assert len(gaps) >= 3 and max(gaps) < 1e-5


def test_a_run_of_full_weights_starts_a_server_for_each_stage_that_plays(small, tmp_path):
    gaps = run_of(small, tmp_path / "run", "engine=vllm", f"vllm-python={PYTHON}")
    assert len(gaps) >= 3 and max(gaps) < 1e-5


def test_answers_that_are_spoiled_on_their_way_cost_no_turn(right, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "BACKOFF", (0.01,) * len(wire.BACKOFF))
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=adapter, temperature=0.6, **PLAY)
    with spoiling(right.url) as proxy:
        metrics = read_manifest(execute(replace(play, engine=f"vllm:{proxy.url}")).out).metrics
    assert set(proxy.done) == set(FAULTS) and metrics["episodes"] == 4 and metrics["probe_gap_mean"] < 1e-5
    asked = 2 * min(4, metrics["turns"])  # Four states at two temperatures are asked about first.
    assert (proxy.answered - metrics["turns"]) % asked == 0  # And again after each answer that did not come.


@pytest.mark.parametrize(
    ("flags", "mends"),
    [
        (WRONG, "--enable-tower-connector-lora"),
        ((*RIGHT[:2], *RIGHT[4:]), "--logprobs-mode processed_logprobs"),
        (("--dtype", "bfloat16", *RIGHT[2:]), "--dtype float32"),
        ((*RIGHT[:5], "--max-lora-rank", "1", RIGHT[-1]), "--max-lora-rank 8"),
        (RIGHT[:4], "--enable-lora"),
        ((*RIGHT, "--max-model-len", "64"), "--max-model-len"),
    ],
    ids=["no tower", "raw", "bfloat16", "rank", "no adapters", "context"],
)
def test_a_wrong_server_is_refused_by_the_flag_that_mends_it(small, adapter, tmp_path, flags, mends):
    with vllm(small, tmp_path, *flags) as server:
        play = RolloutConfig(out=tmp_path / "turns", checkpoint=adapter, temperature=0.6, engine=f"vllm:{server.url}", **PLAY)
        with pytest.raises(GtrTurboError, match=mends):
            execute(play)
    assert not (tmp_path / "turns").exists()


def test_a_server_that_loads_no_adapters_while_it_runs_is_refused(small, adapter, tmp_path):
    with vllm(small, tmp_path, *RIGHT, VLLM_ALLOW_RUNTIME_LORA_UPDATING="0") as server:
        play = RolloutConfig(out=tmp_path / "turns", checkpoint=adapter, engine=f"vllm:{server.url}", **PLAY)
        with pytest.raises(GtrTurboError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
            execute(play)


def test_a_server_that_is_killed_three_times_gets_its_adapter_again_and_nothing_is_asked_twice(
    small, adapter, tmp_path, monkeypatch
):
    monkeypatch.setattr(wire, "BACKOFF", (1.0, 2.0, 4.0, 8.0, 60.0, 120.0, 240.0, 480.0))  # However slow the machine is.
    killed, answered, chat = [], [], Server.chat

    def counted(self, *given, **named):
        answer = chat(self, *given, **named)
        answered.append((named["seed"], named["temperature"]))
        if len(answered) in (40, 80, 120):
            killed.append(len(answered))
            served.stop()
            served.start(wait=False)
        return answer

    monkeypatch.setattr(Server, "chat", counted)
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=adapter, temperature=0.6, **PLAY)
    with vllm(small, tmp_path, *RIGHT) as served:
        out = execute(replace(play, engine=f"vllm:{served.url}", episodes=60)).out
    metrics, turns = read_manifest(out).metrics, read_turns(out)
    assert killed == [40, 80, 120] and metrics["episodes"] == 60 and metrics["probe_gap_mean"] < 1e-5
    seeds = [seed_for(0, "reply", turn.episode, turn.turn) for turn in turns]
    assert all(answered.count((seed, 0.6)) == 1 for seed in seeds)
