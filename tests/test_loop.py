"""The loop: what a plan lists, that its shell script gives the same bytes, and that a killed run goes on."""

import dataclasses
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parsed import parsed
from typer.testing import CliRunner

from gtrturbo.artifacts import artifact_id, damaged_files, read_manifest
from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, MergeConfig, PpoStepConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.loop import Step, command, distill, plan, run
from gtrturbo.stages import execute

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


# The plan


def outline(**settings) -> list[str]:
    """Write a plan as `stage output: field=input …`, without the run's folder."""
    return [f"{step.stage} {_short(step.config.out)}: {' '.join(_inputs(step.config))}" for step in plan(_config(**settings))]


def _config(**settings) -> RunConfig:
    return RunConfig(**({"out": Path("r"), "iterations": 2} | settings))


def _inputs(config) -> list[str]:
    paths = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "out"}
    lists = {name: value if isinstance(value, tuple) else (value,) for name, value in paths.items()}
    return [
        f"{name}={','.join(map(_short, value))}"
        for name, value in lists.items()
        if value and all(isinstance(v, Path) for v in value)
    ]


def _short(path: Path) -> str:
    return str(path).removeprefix("r/")


WARM_START = [
    "init init: ",
    "rollout expert: ",
    "sft checkpoints/0000: data=expert checkpoint=init",
    "eval evals/0000: checkpoint=checkpoints/0000",
]


def test_plan_of_ppo_has_no_teacher():
    assert outline(method="ppo") == [
        *WARM_START,
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


def test_plan_of_turbo_kl_merges_its_own_checkpoints_and_scores_the_turns():
    assert outline(method="turbo-kl") == [
        *WARM_START,
        # No checkpoint of its own yet: the teacher is the base.
        "merge teachers/0000: base=checkpoints/0000",
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 scores=guidance/0000",
        "merge teachers/0001: checkpoints=checkpoints/0001 base=checkpoints/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=teachers/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 scores=guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


def test_plan_of_turbo_sft_imitates_all_demos_since_the_start():
    assert outline(method="turbo-sft")[4:] == [
        "merge teachers/0000: base=checkpoints/0000",
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 demos=guidance/0000",
        "merge teachers/0001: checkpoints=checkpoints/0001 base=checkpoints/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=teachers/0001",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 demos=guidance/0000,guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


GTR = [
    "rollout rollouts/0000: checkpoint=checkpoints/0000",
    "distill guidance/0000: rollouts=rollouts/0000",
    "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 demos=guidance/0000",
    "rollout rollouts/0001: checkpoint=checkpoints/0001",
    "distill guidance/0001: rollouts=rollouts/0001",
    "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 demos=guidance/0000,guidance/0001",
    "eval evals/0002: checkpoint=checkpoints/0002",
]


def test_plan_of_gtr_asks_the_expert():
    assert outline(method="gtr")[4:] == GTR
    assert [step.config.expert for step in plan(_config(method="gtr")) if step.stage == "distill"] == [True, True]


def test_plan_of_gtr_asks_the_teacher_that_is_given():
    taught = [line + " teacher=big" if line.startswith("distill") else line for line in GTR]
    assert outline(method="gtr", teacher=Path("big"))[4:] == taught
    steps = plan(_config(method="gtr", teacher=Path("big")))
    assert [step.config.expert for step in steps if step.stage == "distill"] == [False, False]


def test_plan_of_opd_scores_with_the_outer_teacher():
    assert outline(method="opd", teacher=Path("big"))[4:] == [
        "rollout rollouts/0000: checkpoint=checkpoints/0000",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=big",
        "ppo-step checkpoints/0001: checkpoint=checkpoints/0000 rollouts=rollouts/0000 scores=guidance/0000",
        "rollout rollouts/0001: checkpoint=checkpoints/0001",
        "distill guidance/0001: rollouts=rollouts/0001 teacher=big",
        "ppo-step checkpoints/0002: checkpoint=checkpoints/0001 rollouts=rollouts/0001 scores=guidance/0001",
        "eval evals/0002: checkpoint=checkpoints/0002",
    ]


METHODS = {
    "ppo": {"method": "ppo"},
    "turbo-kl": {"method": "turbo-kl"},
    "turbo-sft": {"method": "turbo-sft"},
    "gtr": {"method": "gtr"},
    "gtr with a teacher": {"method": "gtr", "teacher": Path("big teacher")},
    "opd": {"method": "opd", "teacher": Path("big teacher")},
}


@pytest.mark.parametrize(
    ("method", "mode", "environment"),
    [("turbo-kl", "kl", 1.0), ("turbo-sft", "sft", 1.0), ("gtr", "sft", 1.0), ("opd", "kl", 0.0)],
)
def test_mode_of_guidance_and_weight_of_the_environment_follow_from_the_method(method, mode, environment):
    steps = plan(_config(**METHODS[method]))
    assert {step.config.mode for step in steps if step.stage == "distill"} == {mode}
    assert {step.config.environment_coef for step in steps if step.stage == "ppo-step"} == {environment}


def test_a_run_from_a_checkpoint_has_no_warm_start():
    assert outline(start=Path("given"), iterations=1) == [
        "eval evals/0000: checkpoint=given",
        "merge teachers/0000: base=given",
        "rollout rollouts/0000: checkpoint=given",
        "distill guidance/0000: rollouts=rollouts/0000 teacher=teachers/0000",
        "ppo-step checkpoints/0001: checkpoint=given rollouts=rollouts/0000 scores=guidance/0000",
        "eval evals/0001: checkpoint=checkpoints/0001",
    ]


def test_an_adapter_of_the_tiny_model_comes_after_the_warm_start():
    steps = plan(_config(lora_rank=4, iterations=0))
    assert [step.stage for step in steps] == ["init", "rollout", "sft", "init", "eval"]
    assert [step.config.lora_rank for step in steps if step.stage == "init"] == [0, 4]
    assert steps[3].config.model == str(steps[2].config.out) == "r/sft"
    assert steps[3].config.out == steps[4].config.checkpoint == Path("r/checkpoints/0000")


def test_an_adapter_of_another_model_comes_first():
    steps = plan(_config(model="org/model", lora_rank=4, iterations=0))
    assert [(step.stage, getattr(step.config, "lora_rank", None)) for step in steps][:3] == [
        ("init", 4),
        ("rollout", None),
        ("sft", None),
    ]


@pytest.mark.parametrize(("every", "evaluated"), [(0, [0, 5]), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5])])
def test_evaluations_come_at_the_start_at_the_end_and_every_so_often(every, evaluated):
    steps = plan(_config(iterations=5, eval_every=every))
    assert [step.config.out.name for step in steps if step.stage == "eval"] == [f"{k:04d}" for k in evaluated]


def test_a_run_of_no_iterations_is_the_warm_start():
    assert outline(iterations=0) == WARM_START


def test_a_longer_run_begins_with_the_shorter_one():
    shorter, longer = plan(_config(iterations=1, eval_every=1)), plan(_config(iterations=3, eval_every=1))
    assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize("name", METHODS)
def test_plan_touches_no_disk(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o500)
    watched: list[str] = []
    monkeypatch.setattr(os, "stat", lambda path, **_: watched.append(str(path)))
    plan(_config(**METHODS[name], start=Path("nowhere")))
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert (watched, list(tmp_path.iterdir())) == ([], [])


# Seeds and settings


def test_seeds_differ_between_stages_iterations_and_runs():
    def seeds(seed: int) -> list[int]:
        steps = plan(_config(method="turbo-sft", seed=seed, iterations=3))
        return [step.config.seed for step in steps if hasattr(step.config, "seed") and step.stage != "eval"]

    both = seeds(0) + seeds(1)
    assert len(both) == 2 * (3 + 3 * 3)  # init, expert, sft; and per iteration rollout, distill, ppo-step
    assert len(set(both)) == len(both)
    assert seeds(0) == seeds(0)


def test_all_evaluations_of_all_runs_play_the_same_deals():
    steps = [*plan(_config(seed=0, eval_every=1)), *plan(_config(seed=9, method="ppo"))]
    deals = {(s.config.seed, s.config.episodes, s.config.env, s.config.task) for s in steps if s.stage == "eval"}
    assert deals == {(1_000_000, 200, ("image=tiny",), "numberline")}


def steps_with(*settings: str, **more) -> dict[str, list]:
    found: dict[str, list] = {}
    for step in plan(_config(set=settings, **more)):
        found.setdefault("expert" if getattr(step.config, "expert", False) else step.stage, []).append(step.config)
    return found


def test_set_reaches_every_step_of_its_stage_and_no_other():
    changed = steps_with("ppo-step.clip-range=0.33", "merge.weights=ema:0.5", "rollout.temperature=0.7", "eval.num-envs=3")
    assert [config.clip_range for config in changed["ppo-step"]] == [0.33, 0.33]
    assert [config.weights for config in changed["merge"]] == ["ema:0.5", "ema:0.5"]
    assert [config.temperature for config in changed["rollout"]] == [0.7, 0.7]
    assert [config.num_envs for config in changed["eval"]] == [3, 3]
    assert [config.temperature for config in changed["distill"]] == [0.6, 0.6]
    assert changed["expert"] == steps_with()["expert"]


def test_set_wins_over_the_preset_and_over_the_run():
    changed = steps_with("expert.episodes=9", "rollout.episodes=7", "ppo-step.epochs=5", "init.seed=3")
    assert [config.episodes for config in changed["expert"]] == [9]
    assert [config.episodes for config in changed["rollout"]] == [7, 7]
    assert [config.epochs for config in changed["ppo-step"]] == [5, 5]
    assert [config.seed for config in changed["init"]] == [3]


def test_set_takes_underscores_and_dashes_alike():
    assert steps_with("ppo-step.clip_range=0.33") == steps_with("ppo-step.clip-range=0.33")


def test_set_of_a_list_collects_and_of_a_number_takes_the_last():
    changed = steps_with("init.lora-target=q_proj", "init.lora-target=v_proj", "sft.steps=4", "sft.steps=5")
    assert changed["init"][0].lora_target == ("q_proj", "v_proj")
    assert changed["sft"][0].steps == 5


@pytest.mark.parametrize("setting", ["foo", "foo.steps=1", "sft.steps", "steps=1", "report.x=1", ".=", "sft=1"])
def test_set_of_no_such_stage_names_the_stages(setting):
    with pytest.raises(GtrTurboError) as error:
        steps_with(setting)
    assert error.value.what == f"--set {setting} is not STAGE.OPTION=VALUE."
    assert "init, sft, rollout, distill, ppo-step, merge, eval, expert" in error.value.fix


def test_set_of_no_such_option_names_the_help():
    with pytest.raises(GtrTurboError) as error:
        steps_with("ppo-step.clip=0.2")
    assert "clip" in error.value.what
    assert error.value.fix == "see: gtrturbo ppo-step --help"


@pytest.mark.parametrize("setting", ["sft.out=x", "ppo-step.checkpoint=x", "distill.rollouts=x", "merge.checkpoints=x"])
def test_set_cannot_rewire_the_run(setting):
    with pytest.raises(GtrTurboError, match="the run decides what its stages read and write"):
        steps_with(setting)


@pytest.mark.parametrize(("setting", "told"), [("sft.steps=many", "many"), ("ppo-step.gamma=2", r"gamma must be in \[0, 1\]")])
def test_set_to_a_bad_value_is_refused_before_anything_runs(setting, told):
    with pytest.raises(GtrTurboError, match=told):
        steps_with(setting)


@pytest.mark.parametrize("method", ["ppo", "turbo-kl", "turbo-sft"])
def test_a_method_that_merges_its_own_teacher_takes_none(method):
    with pytest.raises(GtrTurboError, match=f"--method {method}"):
        plan(_config(method=method, teacher=Path("big")))


def test_opd_needs_a_teacher():
    with pytest.raises(GtrTurboError, match="none is given"):
        plan(_config(method="opd"))


def test_settings_of_the_run_reach_its_stages():
    steps = plan(_config(device="cpu", episodes=5, eval_episodes=6, task="blackjack", env=("deck=short",), overwrite=True))
    assert {step.config.device for step in steps if hasattr(step.config, "device")} == {"cpu"}
    assert {step.config.overwrite for step in steps} == {True}
    plays = [step.config for step in steps if step.stage in ("rollout", "eval")]
    assert {(config.task, config.env) for config in plays} == {("blackjack", ("image=tiny", "deck=short"))}
    assert [config.episodes for config in plays] == [400, 6, 5, 5, 6]  # 400: the expert's, of the tiny preset


def test_a_picture_that_is_chosen_is_kept():
    assert plan(_config(env=("image=large",)))[1].config.env == ("image=large",)


def test_only_the_tiny_model_has_presets():
    steps = plan(_config(model="org/model", method="turbo-sft"))
    (sft,) = [step.config for step in steps if step.stage == "sft"]
    update = next(step.config for step in steps if step.stage == "ppo-step")
    default = PpoStepConfig(out=update.out, checkpoint=update.checkpoint, rollouts=update.rollouts, demos=update.demos)
    default = replace(default, schedule_updates=2)  # The paper's cosine, over the run's two iterations.
    assert (sft.steps, sft.learning_rate) == (200, 1e-5)
    assert replace(update, seed=0) == default
    assert steps[1].config.env == ()


# The shell script

ODD = (  # Values whose text a shell, or an option parser, could misread.
    "ppo-step.format-invalid=-2",
    "ppo-step.learning-rate=1.23456789e-05",
    "ppo-step.detach-value=false",
    "eval.temperature=0",
    "merge.weights=0.2,0.8",
    "init.revision=a b'c",
    "init.lora-target=q_proj",
    "init.lora-target=v proj",
    "sft.dtype=bfloat16",
)


@pytest.mark.parametrize("odd", [(), ODD], ids=["plain", "odd values"])
@pytest.mark.parametrize("name", METHODS)
def test_a_printed_line_says_the_whole_step(name, odd):
    steps = plan(_config(**METHODS[name], out=Path("a run/$HOME"), set=odd, overwrite=bool(odd), lora_rank=len(odd)))
    for step in steps:
        assert parsed(command(step)) == step.config


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "--out", "r", "--iterations", "2", "--dry-run"])
    assert (result.exit_code, result.stderr) == (0, "")
    head, options, *lines = result.stdout.splitlines()
    assert (head, options) == ("#!/usr/bin/env bash", "set -euo pipefail")
    assert [parsed(line) for line in lines] == [step.config for step in plan(_config())]
    assert list(tmp_path.iterdir()) == []


# A small run, as bytes

SMALL = "--env horizon=3 --episodes 4 --eval-episodes 4 --eval-every 1 --device cpu"
SMALL += " --set expert.episodes=30 --set sft.steps=40 --set sft.stop-loss=0 --set sft.batch-size=8"
SMALL += " --set rollout.max-new-tokens=40 --set eval.max-new-tokens=40"


def small(iterations: int, *more: str) -> list[str]:
    return ["run", "--out", "runs/small", "--iterations", str(iterations), *SMALL.split(), *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file but the timing, hidden ones included."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timing.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of two iterations in this process, never interrupted; its working folder."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        result = CliRunner().invoke(app, small(2))
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/small/checkpoints/0002\n"
    return folder


def test_a_run_leaves_whole_artifacts_and_nothing_else(whole):
    run = whole / "runs" / "small"
    made = sorted(str(path.parent.relative_to(run)) for path in run.rglob("stage.json"))
    assert made == [
        *("checkpoints/0000", "checkpoints/0001", "checkpoints/0002", "evals/0000", "evals/0001", "evals/0002", "expert"),
        *("guidance/0000", "guidance/0001", "init", "rollouts/0000", "rollouts/0001", "teachers/0000", "teachers/0001"),
    ]
    assert {name: damaged_files(run / name) for name in made} == {name: [] for name in made}
    assert not [path for path in run.rglob(".*")]


def test_every_update_moves_the_weights_and_the_teacher(whole):
    run = whole / "runs" / "small"
    weights = [(run / "checkpoints" / f"000{k}" / "model.safetensors").read_bytes() for k in range(3)]
    teachers = [(run / "teachers" / f"000{k}" / "model.safetensors").read_bytes() for k in range(2)]
    assert len({*weights, *teachers}) == 4  # teacher 0 is checkpoint 0
    assert teachers[0] == weights[0]


def test_printed_script_gives_the_same_bytes(whole, tmp_path):
    script = CliRunner().invoke(app, small(1, "--dry-run")).stdout
    home = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    home.pop("HF_HUB_OFFLINE", None)
    for done in ("init", "expert", "evals/0000"):  # Seconds saved: a script, too, goes on where a run was.
        shutil.copytree(whole / "runs" / "small" / done, tmp_path / "runs" / "small" / done)
    process = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = [shlex.split(line) for line in script.splitlines()[2:]]
    assert process.stdout.splitlines() == [words[words.index("--out") + 1] for words in lines]
    # The script of one iteration is the beginning of the one of two: compare what it made.
    expected = {name: content for name, content in contents(whole).items() if not _of_second_iteration(name)}
    assert_same(contents(tmp_path), expected)


def _of_second_iteration(name: str) -> bool:
    folder, number = Path(name).parts[2:4]
    return number == "0002" or (number == "0001" and folder in ("teachers", "rollouts", "guidance"))


# A run that is killed

# Where it dies: as the stage's file is about to be opened, so that some of the artifact is written and some is not.
DEATHS = (
    ("init", "stage.json"),
    ("expert", "turns.jsonl"),
    ("checkpoints/0000", "metrics.jsonl"),
    ("evals/0000", "metrics.json"),
    ("teachers/0000", "stage.json"),
    ("rollouts/0000", "turns.jsonl"),
    ("guidance/0000", "timing.json"),
    ("checkpoints/0001", "metrics.jsonl"),
    ("checkpoints/0001", "stage.json"),
    ("teachers/0001", "timing.json"),
    ("checkpoints/0002", "timing.json"),
)


def run_until(words: list[str], folder: Path, deadly: str | None) -> None:
    """Run a command; die without a word when it opens the file named."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"

    def die(event: str, details: tuple) -> None:
        if event == "open" and deadly and str(details[0]).endswith(deadly):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    app(words)


@pytest.fixture(scope="module")
def processes():
    """Make processes that start with the imports done."""
    context = multiprocessing.get_context("forkserver")
    stages = ["init", "sft", "rollout", "distill", "ppo_step", "merge", "eval"]
    context.set_forkserver_preload(["pytest", "typer.testing", *(f"gtrturbo.stages.{stage}" for stage in stages)])
    return context


def test_a_run_that_is_killed_goes_on_to_the_same_end(whole, tmp_path, processes):
    run = tmp_path / "runs" / "small"
    made: dict[Path, int] = {}
    for name, file in DEATHS:
        out = run / name
        exitcode = _start(processes, tmp_path, f"{out.parent.name}/.{out.name}.partial/{file}")
        assert exitcode == -signal.SIGKILL
        assert not out.exists()
        visible = sorted(path.parent for path in run.rglob("stage.json") if ".partial" not in str(path))
        assert [path for path in visible if damaged_files(path)] == []
        # What was there before the kill was not made again.
        assert {path: (path / "stage.json").stat().st_mtime_ns for path in made} == made
        made = {path: (path / "stage.json").stat().st_mtime_ns for path in visible}
    assert _start(processes, tmp_path, None) == 0
    assert_same(contents(tmp_path), contents(whole))


def _start(processes, folder: Path, deadly: str | None) -> int | None:
    process = processes.Process(target=run_until, args=(small(2), folder, deadly))
    process.start()
    process.join()
    return process.exitcode


def test_a_run_that_is_done_does_nothing_again(whole, monkeypatch):
    monkeypatch.chdir(whole)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    results = run(parsed(small(2)))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert [result.id for result in results] == [artifact_id(result.out) for result in results]


def test_a_run_may_be_made_longer(whole):
    steps = [step.config.out for step in plan(parsed(small(2)))]
    longer = [step.config.out for step in plan(parsed(small(3)))]
    new = ("teachers/0002", "rollouts/0002", "guidance/0002", "checkpoints/0003", "evals/0003")
    assert [out for out in longer if out not in steps] == [Path("runs/small") / name for name in new]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--set sft.steps=41", "runs/small/checkpoints/0000 exists and was made with --steps 40, not 41."),
        ("--set ppo-step.clip-range=0.3", "runs/small/checkpoints/0001 exists and was made with --clip-range 0.2, not 0.3."),
        ("--episodes 5", "runs/small/rollouts/0000 exists and was made with --episodes 4, not 5."),
        (
            "--env line=9",
            "runs/small/expert exists and was made with --env image=tiny,horizon=3, not image=tiny,",
        ),
        ("--method turbo-sft", "runs/small/guidance/0000 exists and was made with --mode kl, not sft."),
        ("--method ppo", "runs/small/checkpoints/0001 exists and was made from another --scores ("),
    ],
)
def test_a_run_that_is_started_again_with_another_setting_names_it(whole, monkeypatch, more, told):
    monkeypatch.chdir(whole)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = contents(whole)
    result = CliRunner().invoke(app, [*small(2), *more.split()])
    assert (result.exit_code, result.stdout) == (1, "")
    what, fix = result.stderr.splitlines()[-2:]
    assert what.startswith(told)
    assert fix == "choose another --out, or add --overwrite."
    assert contents(whole) == before


# distill --student


def test_distill_with_a_student_is_distill_and_ppo_step_without_the_game(tmp_path, warm, init, turns):
    settings = ("epochs=1", "minibatch-size=16", "learning_rate=1e-4", "detach-value=true")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=init, seed=3))
    by_hand = PpoStepConfig(
        out=tmp_path / "two",
        checkpoint=warm,
        rollouts=turns,
        scores=tmp_path / "scores",
        environment_coef=0.0,
        epochs=1,
        minibatch_size=16,
        learning_rate=1e-4,
        detach_value=True,
        seed=3,
    )
    assert execute(by_hand).id == result.id
    assert result.out == tmp_path / "one"
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "scores"))
    assert distill(one).id == result.id  # which is there already


def test_distill_with_a_student_imitates_demos_with_sft(tmp_path, warm, turns):
    settings = ("steps=2", "batch-size=4", "learning-rate=1e-4")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, expert=True, mode="sft", student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "demos", rollouts=turns, expert=True, mode="sft", seed=3))
    by_hand = SftConfig(
        out=tmp_path / "two", checkpoint=warm, data=(tmp_path / "demos",), steps=2, batch_size=4, learning_rate=1e-4, seed=3
    )
    assert execute(by_hand).id == result.id
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "demos"))
    assert read_manifest(tmp_path / "one").stage == "sft"


@pytest.mark.parametrize("setting", ["epochs", "no-such=1", "out=elsewhere", "checkpoint=other"])
def test_distill_refuses_an_update_that_it_cannot_hand_on(tmp_path, warm, init, turns, setting):
    config = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=(setting,))
    with pytest.raises(GtrTurboError, match=setting.partition("=")[0]):
        distill(config)
    assert list(tmp_path.iterdir()) == []  # found out before the teacher worked


# The examples

SPY = """#!/usr/bin/env bash
# Note the command, and pretend to have done it.
printf '%q ' "$@" >> "$NOTES"; echo >> "$NOTES"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"; touch "$2/stage.json"; echo "$2"
"""


@pytest.fixture
def spy(tmp_path):
    """Run a program with a gtrturbo that only notes its commands; return the configs that they stand for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gtrturbo").write_text(SPY)
    (tmp_path / "bin" / "gtrturbo").chmod(0o755)
    notes = tmp_path / "notes"

    def watch(*words: str, **settings: str) -> list:
        notes.write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        home = os.environ | {"PATH": path, "NOTES": str(notes), "OUT": str(tmp_path / "r")} | settings
        process = subprocess.run(words, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return [parsed(line) for line in notes.read_text().splitlines()]

    return watch


def essence(config):
    """Leave out what may differ between a loop by hand and a plan: seeds, and what the stage does not look at."""
    if isinstance(config, MergeConfig):
        return replace(config, checkpoints=tuple(path for path in config.checkpoints if path != config.base))
    if isinstance(config, DistillConfig) and config.mode == "kl":  # which samples nothing
        config = replace(config, temperature=0.2, max_new_tokens=256)
    return replace(config, seed=0)


def essences(configs: list) -> list:
    return sorted(map(essence, configs), key=lambda config: str(config.out))


LOOP = ("examples/loop.sh",)
MAKE = ("make", "-C", "examples", "GTRTURBO=gtrturbo")


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_is_the_run_by_hand(words, spy, tmp_path):
    found = spy(*words, ITERATIONS="3")
    expected = [step.config for step in plan(RunConfig(out=tmp_path / "r", iterations=3, env=("horizon=5",)))]
    assert essences(found) == essences(expected)
    made: set[Path] = set()
    for config in found:  # each step comes after what it reads
        assert set(_paths(config)) <= made
        made.add(config.out)


def _paths(config) -> list[Path]:
    values = [getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "out"]
    lists = [value if isinstance(value, tuple) else (value,) for value in values]
    return [value for values in lists for value in values if isinstance(value, Path)]


@pytest.mark.parametrize("words", [LOOP, MAKE], ids=["bash", "make"])
def test_an_example_plays_other_episodes_in_each_iteration(words, spy):
    found = spy(*words, ITERATIONS="3")
    for kind in ("RolloutConfig", "PpoStepConfig"):
        seeds = [config.seed for config in found if type(config).__name__ == kind]
        assert len(set(seeds)) == len(seeds) >= 3


def test_examples_are_the_same_run(spy, tmp_path):
    by_bash = spy(*LOOP, ITERATIONS="2")
    shutil.rmtree(tmp_path / "r")
    by_make = spy(*MAKE, ITERATIONS="2")
    assert sorted(map(repr, by_bash)) == sorted(map(repr, by_make))


def test_make_goes_on_where_it_was(spy):
    assert len(spy(*MAKE, ITERATIONS="1")) == 9
    assert spy(*MAKE, ITERATIONS="1") == []
    # One more iteration: teacher, turns, guidance, checkpoint, and the last evaluation.
    assert [config.out.parent.name for config in spy(*MAKE, ITERATIONS="2")] == [
        *("teachers", "rollouts", "guidance", "checkpoints", "evals"),
    ]


def test_examples_parse():
    subprocess.run(["bash", "-n", "examples/loop.sh"], cwd=ROOT, check=True)
    # Among that many prerequisites make can take exponential time; .SECONDARY without names did.
    long = ["make", "-n", "-C", "examples", "OUT=/nonexistent/run", "ITERATIONS=40"]
    subprocess.run(long, check=True, cwd=ROOT, capture_output=True, timeout=60)


def test_steps_know_their_iteration():
    steps = plan(_config(method="ppo"))
    assert [(step.stage, step.iteration) for step in steps][-3:] == [("rollout", 2), ("ppo-step", 2), ("eval", 2)]
    assert Step("init", steps[0].config) == steps[0]
