"""What manifests and options alone tell is refused before torch, transformers and gymnasium's games are imported."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gtrturbo.config import EvalConfig, MergeConfig, RunConfig, SftConfig
from gtrturbo.distributed import devices
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.execute import run
from gtrturbo.runs.plan import plan
from gtrturbo.stages import execute, servers_ahead
from gtrturbo.stages.servers_ahead import unreached
from gtrturbo.store.writing import require_place

SAID = """
import sys
from gtrturbo.__main__ import main
try:
    main()
finally:
    print("torch" in sys.modules, "transformers" in sys.modules)
"""


def refused(*words: object) -> tuple[str, str]:
    """Run the command; return what it said, and whether torch and transformers were imported."""
    run = subprocess.run([sys.executable, "-c", SAID, *map(str, words)], capture_output=True, text=True, check=False)
    assert run.returncode in (1, 2), run.stderr
    return run.stderr, run.stdout.strip()


LATER = ["nobody plays", "no turns", "no tokens", "under a file", "own folder"]


@pytest.fixture(params=["kind", "task", "option", "player", "scores", "check-task", "play", *LATER])
def mistake(request, tmp_path, init, turns, warm, expert):
    out = ("--out", tmp_path / "x")
    (tmp_path / "file").touch()
    return {
        "kind": (
            ["rollout", "--checkpoint", turns, "--task", "numberline", *out],
            "holds turns (made by rollout), not checkpoint",
        ),
        "task": (["rollout", "--checkpoint", init, "--task", "nmberline", *out], "did you mean numberline?"),
        "option": (["eval", "--checkpoint", init, "--task", "numberline", "--env", "horizn=5", *out], "no option 'horizn'"),
        "player": (["ppo-step", "--checkpoint", warm, "--rollouts", expert, *out], "played by the task's expert"),
        "scores": (["ppo-step", "--checkpoint", warm, "--rollouts", turns, "--scores", turns, *out], "not scores"),
        "nobody plays": (["rollout", "--task", "numberline", *out], "needs either --checkpoint or --expert."),
        "no turns": (["sft", "--checkpoint", init, warm, *out], "holds checkpoint (made by sft), not turns or demos."),
        "no tokens": (["distill", "--teacher", warm, "--rollouts", expert, *out], "expert has no tokens"),
        "under a file": (["init", "--out", tmp_path / "file" / "x"], f"{tmp_path / 'file'} is no folder."),
        "own folder": (["init", "--out", tmp_path, "--overwrite"], f"{tmp_path} exists and is no artifact of gtrturbo."),
        "check-task": (["check-task", "nothing.py:TASK"], "there is no file nothing.py"),
        "play": (["play", "--task", "nmberline"], "did you mean numberline?"),
    }[request.param]


def test_a_mistake_is_told_before_anything_heavy_is_imported(mistake):
    words, sentence = mistake
    said, imported = refused(*words)
    assert sentence in said
    assert imported == "False False"


@pytest.mark.parametrize(
    ("typed", "meant"), [("tain", "run"), ("train", "run"), ("evaluate", "eval"), ("rollot", "rollout"), ("ppo", "ppo-step")]
)
def test_an_unknown_command_is_answered_with_the_one_that_is_meant(typed, meant):
    said, _ = refused(typed)
    assert f"Did you mean '{meant}'?" in said


def test_a_command_that_is_like_none_is_answered_without_a_guess():
    assert "Did you mean" not in refused("zzzz")[0]


def test_evaluations_are_not_learned_from(warm, tmp_path):
    asked = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 2, "chance_episodes": 0}
    held = execute(EvalConfig(out=tmp_path / "e", checkpoint=warm, **asked)).out
    with pytest.raises(GtrTurboError, match=r"e holds evaluation \(made by eval\), not turns or demos\."):
        execute(SftConfig(out=tmp_path / "x", checkpoint=warm, data=(held,)))


def test_a_place_that_may_not_be_written_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != tmp_path)  # To who tests as root nothing is closed.
    with pytest.raises(PermissionError, match=str(tmp_path)):
        require_place(tmp_path / "new" / "x", overwrite=False)


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:x"])
def test_a_device_of_no_kind_is_answered_with_the_three_that_are_meant(device):
    with pytest.raises(GtrTurboError) as error:
        EvalConfig(out=Path("x"), checkpoint=Path("c"), task="numberline", device=device)
    assert (error.value.what, error.value.fix) == (f"there is no device {device}.", "give one of auto, cpu, cuda.")
    with pytest.raises(GtrTurboError, match="there is no device"):
        plan(RunConfig(out=Path("r"), set=(f"ppo-step.device={device}",)))


def test_a_merge_takes_no_device_by_itself():
    with pytest.raises(GtrTurboError, match="device must be named, got auto"):
        MergeConfig(out=Path("x"), base=Path("b"), checkpoints=(Path("c"),), device="auto")


@pytest.mark.parametrize("more", [{"device": "cuda"}, {"set": ("ppo-step.device=cuda",)}])
def test_a_run_asks_for_its_devices_before_any_work(tmp_path, monkeypatch, more):
    def missing(device):
        raise GtrTurboError(f"no {device}")

    monkeypatch.setattr(devices, "require_device", missing)
    with pytest.raises(GtrTurboError, match="no cuda"):
        run(RunConfig(out=tmp_path / "r", **more))
    assert list(tmp_path.iterdir()) == []


def test_a_run_asks_of_what_kind_its_teacher_is_before_any_work(tmp_path, turns):
    config = RunConfig(out=tmp_path / "r", method="gtr", teacher=turns)
    for work in (run, notes):
        with pytest.raises(GtrTurboError, match="holds turns"):
            work(config)
    assert list(tmp_path.iterdir()) == []


def of_vllm(tmp_path, python, **more) -> RunConfig:
    return RunConfig(out=tmp_path / "r", set=("rollout.engine=vllm", f"rollout.vllm-python={python}"), **more)


@pytest.mark.parametrize(("python", "said"), [("./nothere", "is no program"), (sys.executable, "has no vLLM")])
def test_a_run_asks_for_the_vllm_that_it_is_to_start_before_any_work(tmp_path, python, said):
    with pytest.raises(GtrTurboError, match=rf"{python} {said}.*\.\nname the Python of an environment that has vLLM"):
        run(of_vllm(tmp_path, python))
    assert list(tmp_path.iterdir()) == []
    assert any(f"On this machine {python} {said}" in line for line in notes(of_vllm(tmp_path, python)))


@pytest.mark.parametrize("code", [None, "raise SystemExit('a checkout of its source')"])
def test_a_folder_named_vllm_where_one_stands_is_no_vllm(tmp_path, monkeypatch, code):
    (tmp_path / "vllm").mkdir()
    if code:
        (tmp_path / "vllm" / "__init__.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    servers_ahead._fault_of.cache_clear()
    assert servers_ahead._fault_of(sys.executable) == f"{sys.executable} has no vLLM"
    servers_ahead._fault_of.cache_clear()


def test_a_python_that_has_vllm_is_seen_to_have_it(tmp_path, monkeypatch):
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    (tmp_path / "site" / "vllm" / "__init__.py").write_text("raise SystemExit('it is not imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    servers_ahead._fault_of.cache_clear()
    assert servers_ahead._fault_of(sys.executable) == ""
    servers_ahead._fault_of.cache_clear()


def test_a_run_of_several_processes_that_is_to_start_a_vllm_is_refused_before_any_work(tmp_path, vllm_python, monkeypatch):
    config = of_vllm(tmp_path, vllm_python)
    said = "--engine vllm starts one server, and there are 16 processes"
    assert not any("16 processes" in line for line in notes(config))
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(GtrTurboError, match=rf"^{said}\.\nstart it yourself"):
        run(config)
    assert not config.out.exists()
    assert any(line.startswith(f"{said}: start it yourself") for line in notes(config))
    assert not any("starts one server" in line for line in notes(RunConfig(out=tmp_path / "r")))


def test_a_run_whose_adapter_no_vllm_takes_is_refused_before_any_work(tmp_path):
    with pytest.raises(GtrTurboError, match=r"vLLM takes adapters up to rank 512, and this one has 600"):
        plan(of_vllm(tmp_path, "python3", lora_rank=600))
    plan(RunConfig(out=tmp_path / "r", lora_rank=600))


def test_servers_that_are_not_there_yet_are_told_of():
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (there, gone)]
        engine = f"vllm:{urls[0]},{urls[1]}"
        asked = {"out": Path("e"), "checkpoint": Path("c"), "task": "numberline"}
        configs = [EvalConfig(**asked, engine=name) for name in (engine, engine, "hf", "a.py:make", "vllm")]
        assert unreached(configs) == [f"{urls[1]} cannot be connected to; it has to answer when it is asked."]
