"""A run as bytes: its shell script gives the same, a killed one goes on, and what is pruned changes nothing else."""

import hashlib
import io
import json
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_runs import make_run
from parsed import parsed
from rich.console import Console
from small_runs import assert_same, contents, run_config, small
from typer.testing import CliRunner

from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.record import record_run
from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.distributed.children import Ended
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs import progress
from gtrturbo.runs.disk import disk_of
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.execute import run
from gtrturbo.runs.going_on import require_same_run
from gtrturbo.runs.peaks import shape_of
from gtrturbo.runs.plan import plan
from gtrturbo.runs.sample import sample
from gtrturbo.runs.script import command
from gtrturbo.stages import execute
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pruned import damaged_files
from gtrturbo.tasks.loading import load_task

BIN = Path(sys.executable).parent
NEWEST = Path(__file__).parents[1] / "plugins" / "newest_loss_method.py"


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


def test_a_run_records_what_it_was_asked_and_the_record_is_part_of_no_artifact(whole):
    run = read_history(whole / "runs" / "small")
    assert (run.method, run.task, run.seed) == ("turbo-kl", "numberline horizon=3", 0)
    assert run.settings["set"][2:4] == ["expert.episodes=30", "sft.steps=40"]
    assert not {"out", "device", "overwrite", "dry_run"} & run.settings.keys()
    assert sorted(run.at("student")) == [0, 1, 2] and [entry.iteration for entry in run.updates()] == [1, 2]
    assert run.teacher_seconds < run.training_seconds


def test_another_run_into_the_folder_fails_and_leaves_the_record_as_it_was(whole):
    record = whole / "runs" / "small" / "run.json"
    before = record.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole)
        assert CliRunner().invoke(app, small(2, "--seed", "1")).exit_code == 1
    assert record.read_bytes() == before


def test_every_update_moves_the_weights_and_the_teacher(whole):
    run = whole / "runs" / "small"
    weights = [(run / "checkpoints" / f"000{k}" / "model.safetensors").read_bytes() for k in range(3)]
    teachers = [(run / "teachers" / f"000{k}" / "model.safetensors").read_bytes() for k in range(2)]
    assert len({*weights, *teachers}) == 4  # teacher 0 is checkpoint 0
    assert teachers[0] == weights[0]


@pytest.mark.long
def test_printed_script_gives_the_same_bytes(whole, tmp_path):
    script = CliRunner().invoke(app, small(1, "--dry-run")).stdout
    home = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    home.pop("HF_HUB_OFFLINE", None)
    for done in ("init", "expert", "evals/0000"):  # Seconds saved: a script, too, goes on where a run was.
        shutil.copytree(whole / "runs" / "small" / done, tmp_path / "runs" / "small" / done)
    process = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = [shlex.split(line) for line in script.splitlines() if line.startswith("gtrturbo")]
    assert process.stdout.splitlines() == [words[words.index("--out") + 1] for words in lines]
    # The script of one iteration is the beginning of the one of two: compare what it made.
    expected = {name: content for name, content in contents(whole).items() if not _of_second_iteration(name)}
    assert_same(contents(tmp_path), expected)


def _of_second_iteration(name: str) -> bool:
    folder, number = Path(name).parts[2:4]
    return folder == "thresholds" or number == "0002" or (number == "0001" and folder in ("teachers", "rollouts", "guidance"))


@pytest.mark.parametrize(("method", "top"), [("turbo-loss", 512), (f"{NEWEST}:METHOD", 16)], ids=["turbo-loss", "one of its own"])
def test_printed_lines_of_a_method_give_the_bytes_of_its_run(whole, tmp_path, monkeypatch, method, top):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = whole / "runs" / "small" / "checkpoints" / "0000"
    words = small(2, "--eval-every", "0", "--start", str(start), "--method", method)
    script = CliRunner().invoke(app, [*words, "--dry-run"]).stdout
    lines = [shlex.split(line)[1:] for line in script.splitlines() if line.startswith("gtrturbo")]
    for name, commands in (("run", [words]), ("lines", lines)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for command_words in commands:
            result = CliRunner().invoke(app, command_words)
            assert result.exit_code == 0, result.output
    assert_same(contents(tmp_path / "lines"), contents(tmp_path / "run"))
    run = tmp_path / "run" / "runs" / "small"
    updated = read_manifest(run / "checkpoints" / "0002")
    assert (updated.config["kl_estimator"], updated.config["kl_placement"]) == ("full", "loss")
    assert updated.metrics["kl_loss"] >= 0
    assert read_manifest(run / "guidance" / "0001").config["top_logprobs"] == top


# A method of the user's own


@pytest.fixture
def own(whole, tmp_path, monkeypatch):
    """A run of a method of the user's own, which is done; its record, and how to start it again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mine.py").write_text(NEWEST.read_text())

    def again(*more: str, file: str = "mine.py"):
        start = str(whole / "runs" / "small" / "checkpoints" / "0000")
        return CliRunner().invoke(app, [*small(0, "--start", start, "--method", f"{file}:METHOD"), *more])

    assert again().exit_code == 0
    return tmp_path / "runs" / "small" / "run.json", again


def test_a_run_records_the_text_of_its_own_method(own):
    file, again = own
    record = json.loads(file.read_text())
    assert record["config"]["method"] == "mine.py:METHOD"
    assert record["sources"] == {"mine.py:METHOD": hashlib.sha256(NEWEST.read_bytes()).hexdigest()}
    assert read_history(file.parent).method == "mine.py:METHOD"
    # The same text in another folder is the same method, and a run that is done touches nothing.
    Path("elsewhere").mkdir()
    shutil.copy("mine.py", "elsewhere")
    before = file.stat().st_mtime_ns
    assert again(file="elsewhere/mine.py").exit_code == 0
    assert file.stat().st_mtime_ns == before


def test_a_run_whose_own_method_was_changed_is_refused_by_its_name(own):
    file, again = own
    before = file.read_bytes()
    Path("mine.py").write_text(NEWEST.read_text() + "# changed\n")
    result = again()
    assert (result.exit_code, result.stdout) == (1, "")
    what, fix = result.stderr.splitlines()[-2:]
    was, now = (hashlib.sha256(text).hexdigest()[:6] for text in (NEWEST.read_bytes(), Path("mine.py").read_bytes()))
    assert what == f"runs/small exists and was made with another mine.py:METHOD (sha256 {was}, not {now})."
    assert fix == "choose another --out, or add --overwrite."
    assert file.read_bytes() == before
    assert again("--overwrite").exit_code == 0
    assert json.loads(file.read_text())["sources"]["mine.py:METHOD"][:6] == now


def test_a_run_without_chance_ends_in_its_table(tmp_path):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 1: [1, 1]}, chance={})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(progress.before_after(run / "evals" / "0000", run / "evals" / "0001"))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines() if "│" in line]
    assert cells[0] == ["success (95 % interval)", "0.500 [0.095, 0.905]", "1.000 [0.342, 1.000]", "not measured"]
    assert ["mean return", "0.00", "1.00", ""] in cells


def test_a_method_that_is_edited_while_its_run_works_is_recorded_as_it_was(own, monkeypatch):
    file, again = own
    before = file.read_bytes()
    shutil.rmtree(file.parent)
    monkeypatch.setattr(progress, "before_after", lambda *_: "")
    monkeypatch.setattr(progress.stderr, "print", lambda *_, **__: Path("mine.py").write_text("raise ValueError\n"))
    assert again().exit_code == 0
    assert Path("mine.py").read_text() == "raise ValueError\n" and file.read_bytes() == before


def test_disk_that_a_run_took_was_estimated(whole):
    config = parsed(small(2))
    steps = plan(config)
    shape = shape_of(config, [step.config for step in steps])
    assert shape is not None
    estimated = disk_of(config, steps, shape, sample(load_task("numberline", steps[-1].config.env)))
    sizes = {path: path.stat().st_size for path in (whole / "runs" / "small").rglob("*") if path.is_file()}
    weights = {
        "optimizers": sum(size for path, size in sizes.items() if path.name == "optimizer.safetensors"),
        "teachers": sum(size for path, size in sizes.items() if path.name == "model.safetensors" and "teachers" in path.parts),
        "checkpoints": sum(
            size for path, size in sizes.items() if path.name.endswith("l.safetensors") and "teachers" not in path.parts
        )
        + sum(size for path, size in sizes.items() if path.name == "value_head.safetensors"),
    }
    assert {part: estimated.parts[part] for part in weights} == pytest.approx(weights, rel=0.02)
    assert estimated.end == pytest.approx(sum(sizes.values()), rel=0.3)


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


def run_until(words: list[str], folder: Path, deadly: str | None, deed: str = "open") -> None:
    """Run a command; die without a word when it opens, or else does the deed to, the file named."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"

    def die(event: str, details: tuple) -> None:
        if event != deed:
            return
        above = f"{os.readlink(f'/proc/self/fd/{details[1]}')}/" if event == "os.remove" and details[1] >= 0 else ""
        if deadly and f"{above}{details[0]}".endswith(deadly):
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
        ("--set sft.steps=41", "with --set sft.steps=40, not 41."),
        ("--set expert.episodes=31", "with --set expert.episodes=30, not 31."),
        ("--set ppo-step.clip-range=0.3", "with --set ppo-step.clip-range=0.2, not 0.3."),
        ("--episodes 5", "with --episodes 4, not 5."),
        ("--env line=9", "with --env horizon=3, not horizon=3,line=9."),
        ("--eval-env line=9", "without --eval-env, not with --eval-env line=9."),
        ("--method turbo-sft", "with --method turbo-kl, not turbo-sft."),
        ("--method ppo", "with --method turbo-kl, not ppo."),
        ("--seed 7", "with --seed 0, not 7."),
    ],
)
def test_a_run_that_is_started_again_with_another_setting_names_it(whole, monkeypatch, more, told):
    monkeypatch.chdir(whole)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = contents(whole)
    result = CliRunner().invoke(app, [*small(2), *more.split()])
    assert (result.exit_code, result.stdout) == (1, "")
    what, fix = result.stderr.splitlines()[-2:]
    assert what == f"runs/small exists and was made {told}"
    assert fix == "choose another --out, or add --overwrite."
    assert contents(whole) == before


def test_a_setting_that_says_what_is_so_anyway_is_no_other_run(whole, monkeypatch):
    monkeypatch.chdir(whole)
    for more in (["--set", "ppo-step.clip-range=0.2"], ["--label", "mine"], ["--iterations", "3"], ["--eval-every", "2"]):
        config = parsed([*small(2), *more])
        require_same_run(config, plan(config))


def test_a_run_that_was_begun_from_a_checkpoint_is_not_gone_on_with_from_nothing(tmp_path):
    """The warm start, which is not there, would be made inside it before its first evaluation is seen to be another's."""
    there = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0]})
    record_run(RunConfig(out=there, method="ppo", iterations=0, start=tmp_path / "elsewhere"), replace=True)
    config = RunConfig(out=there, method="ppo", iterations=0)
    with pytest.raises(GtrTurboError, match=rf"was made with --start {tmp_path}/elsewhere, not without\."):
        run(config)
    assert sorted(path.name for path in there.iterdir()) == ["evals", "run.json"]
    with pytest.raises(GtrTurboError, match="not without"):
        notes(config)


# Pruning


@pytest.fixture
def copy(whole, tmp_path, monkeypatch) -> Path:
    """The whole run in a working folder of its own."""
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "copy" / "runs" / "small"


FRUGAL = ("--keep-teachers", "1", "--keep-guidance", "1", "--keep-optimizers", "1")
GONE = [
    "runs/small/checkpoints/0001/optimizer.safetensors",
    "runs/small/guidance/0000/scores.safetensors",
    "runs/small/teachers/0000/model.safetensors",
]


def records(files: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files if name.endswith("pruned.json"))


def assert_only_pruned(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Compare with a run that kept everything: what is missing is what was to go, and each is on record."""
    assert records(found) == [f"{Path(name).parent}/pruned.json" for name in GONE]
    assert sorted(expected.keys() - found.keys()) == GONE
    rest = {name: content for name, content in found.items() if name not in records(found)}
    assert_same(rest, {name: content for name, content in expected.items() if name not in GONE})


def test_a_run_that_prunes_makes_the_same_but_for_what_it_prunes(whole, copy):
    for name in ("evals/0002", "checkpoints/0002", "guidance/0001", "teachers/0001"):
        shutil.rmtree(copy / name)
    run(parsed(small(2, *FRUGAL)))
    assert_only_pruned(contents(copy.parent.parent), contents(whole))
    run(parsed(small(2)))  # which finds all of its stages finished, and needs nothing that is gone
    assert_only_pruned(contents(copy.parent.parent), contents(whole))


def test_a_run_that_is_killed_while_it_prunes_goes_on(whole, copy, processes):
    words = small(2, *FRUGAL)
    for deadly in ("teachers/0000/model.safetensors", "checkpoints/0001/optimizer.safetensors"):
        process = processes.Process(target=run_until, args=(words, copy.parent.parent, deadly, "os.remove"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert (copy / deadly).is_file()
        assert [path for path in copy.rglob("stage.json") if damaged_files(path.parent)] == []
    run(parsed(words))
    assert_only_pruned(contents(copy.parent.parent), contents(whole))


def test_a_stage_that_has_lost_its_pruned_teacher_names_the_command_that_makes_it_again(whole, copy):
    run(parsed(small(2, *FRUGAL)))
    shutil.rmtree(copy / "guidance" / "0000")
    with pytest.raises(GtrTurboError) as error:
        run(parsed(small(2)))
    assert error.value.what == "model.safetensors of runs/small/teachers/0000 was pruned, and distill reads it."
    remake = error.value.fix.removeprefix("make it again with: ")
    before = artifact_id(copy / "teachers/0000")
    assert execute(parsed(remake)).id == before
    run(parsed(small(2)))
    expected = contents(whole)
    del expected[GONE[0]]
    found = contents(copy.parent.parent)
    assert_same({name: content for name, content in found.items() if name not in records(found)}, expected)


def test_an_update_does_not_start_adam_anew_where_its_state_was_pruned(copy):
    run(parsed(small(2, *FRUGAL)))
    shutil.rmtree(copy / "checkpoints" / "0002")
    with pytest.raises(GtrTurboError, match=r"optimizer\.safetensors of runs/small/checkpoints/0001 was pruned, and ppo-step"):
        run(parsed(small(2)))


# What stays in memory


@pytest.mark.long
def test_a_lora_run_reads_its_base_once_and_its_stages_alone_give_the_same_bytes(tmp_path, monkeypatch):
    from gtrturbo.models import checkpoint

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    read: list[str] = []
    load = checkpoint._load_full
    monkeypatch.setattr(checkpoint, "_load_full", lambda model, **more: (read.append(Path(model).name), load(model, **more))[1])
    config = parsed(small(1, "--lora-rank", "4", "--set", "sft.steps=25"))
    run(config)
    # The model as born is read by sft; from then on the model after sft lies under every adapter.
    assert read == ["init", "sft"]
    for step in plan(config)[4:]:
        alone = execute(replace(step.config, out=Path("runs/small/again") / f"{step.stage}{step.iteration}")).out
        assert_same(contents(alone), contents(step.config.out))
    assert read[2:] == ["sft"] * 5  # evaluation, rollout, teacher, update, evaluation


# Stages as processes


@pytest.mark.long
def test_a_stage_may_be_a_process_of_its_own_with_the_same_bytes(whole, copy):
    shutil.rmtree(copy / "evals" / "0002")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(parsed(small(2, "--subprocess")))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before
    assert_same(contents(copy.parent.parent), contents(whole))


@pytest.mark.long
def test_a_run_of_processes_that_is_killed_and_begun_again_at_once_goes_on_to_the_same_end(whole, copy):
    # The process of the stage holds the lock of its draft, and has to die with the run.
    shutil.rmtree(copy / "rollouts" / "0001")
    words = [sys.executable, "-m", "gtrturbo", *small(2, "--subprocess")]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = copy / "rollouts" / ".0001.partial"
    deadline = time.monotonic() + 120
    while not place.exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    first.kill()
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    first.wait()
    assert again.returncode == 0, again.stderr
    assert_same(contents(copy.parent.parent), contents(whole))


@pytest.mark.parametrize(("code", "told"), [(1, "left with exit code 1"), (-9, "was killed by SIGKILL")])
def test_a_stage_whose_process_fails_is_named_with_its_command(copy, monkeypatch, code, told):
    ran = []

    def fail(words):
        ran.append(words)
        return Ended(code)

    shutil.rmtree(copy / "rollouts" / "0001")
    monkeypatch.setattr("gtrturbo.runs.execute.run_child", fail)
    with pytest.raises(GtrTurboError) as error:
        run(parsed(small(2, "--subprocess")))
    (words,) = ran  # Finished stages start no process, and nothing goes on after a failed one.
    (step,) = [step for step in plan(parsed(small(2))) if step.config.out == Path("runs/small/rollouts/0001")]
    assert shlex.join(words) == command(step)
    assert error.value.what == f"rollout of iteration 2 {told}."
    assert error.value.fix == f"run it alone with: {command(step)}"


def test_why_a_stage_of_its_own_fails_is_told_by_the_run_once(copy, init):
    shutil.rmtree(copy / "rollouts" / "0001")
    damaged = copy / "checkpoints" / "0001" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    words = [sys.executable, "-m", "gtrturbo", *small(2, "--subprocess", "--verify-inputs", "always")]
    failed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    said = [line for line in failed.stderr.splitlines() if "model.safetensors" in line]
    assert len(said) == 1 and said[0].startswith("rollout of iteration 2 left with exit code 1: ")


def test_stages_as_processes_and_torchrun_do_not_go_together(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GtrTurboError, match="--subprocess"):
        run(RunConfig(out=tmp_path / "r", subprocess=True))


@pytest.mark.parametrize("given", [{"start": Path("nobody")}, {"method": "opd", "teacher": Path("nobody")}, {"log": ("nobody",)}])
def test_a_run_of_what_is_not_there_is_refused_before_it_begins(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GtrTurboError, match="nobody"):
        run(run_config(out=tmp_path / "r", **given))
    assert not list(tmp_path.iterdir())
