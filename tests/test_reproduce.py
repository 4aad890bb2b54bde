"""examples/reproduce: its commands are commands, it writes down what runs found, and the page is what was written down."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, timed
from parsed import parsed

from examples.reproduce import page, record
from gtrturbo.analysis.record import Collapsed, record_run
from gtrturbo.config import RunConfig
from gtrturbo.runs.plan import plan
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing

ROOT = Path(__file__).parent.parent


def made_by(*targets: str) -> list[str]:
    """The commands of targets for one seed, as make would run them."""
    command = ["make", "-n", "-C", "examples/reproduce", "SEEDS=3", "OUT=runs", "GTRTURBO=gtrturbo", *targets]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip().startswith("gtrturbo ")]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_all_that_it_runs_can_be_run_and_all_arms_of_a_seed_start_from_one_checkpoint(monkeypatch):
    commands = made_by("methods", "ablations", "merges")
    monkeypatch.chdir(ROOT / "examples" / "reproduce")  # Where make works, and rules and modes of the release lie.
    assert len(commands) == len(set(commands))
    starts: dict[str, set[object]] = {}
    outs = set()
    for command in commands:
        config = parsed(command)
        outs.add(str(config.out))
        if " run " in command:
            assert config.seed == 3 and plan(config)
            if config.label:
                starts.setdefault(config.task, set()).add(str(config.start))
                # What a run reads was made by a command before it.
                assert {str(path.parents[1]) for path in (config.start, config.teacher) if path} <= outs
    assert all(len(each) == 1 for each in starts.values())


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_free_teachers_of_a_seed_start_from_one_checkpoint_and_differ_by_who_teaches(monkeypatch):
    monkeypatch.chdir(ROOT / "examples" / "reproduce")  # Where make works, and methods of the example's own are.
    who = {each.group(1) for each in re.finditer(r"^who-(\S+)", Path("settings.mk").read_text(), re.MULTILINE)}
    commands = [command for command in made_by("survival", f"WHO={' '.join(sorted(who))}") if "--label" in command]
    configs = [parsed(command.removesuffix("|| [ $? -eq 3 ]")) for command in commands]
    for task in ("numberline", "ezpoints"):
        of_task = [config for config in configs if config.task == task]
        assert {config.label for config in of_task} == who
        assert len({str(config.start) for config in of_task}) == 1
        assert len({(config.episodes, config.iterations, config.seed) for config in of_task}) == 1
        assert len({str(config.out) for config in of_task}) == len(of_task) == 5 * len(who)  # At five rates.
        of_rate = [config for config in of_task if "ppo-step.learning-rate=1e-3" in config.set]
        one = [plan(replace(config, out=Path("run"), iterations=3)) for config in of_rate]  # As later updates are.
        assert len({repr(steps) for steps in one}) == len(who)
        assert {step.config.learning_rate for steps in one for step in steps if step.stage == "ppo-step"} == {1e-3}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("task", ["numberline", "ezpoints"])
def test_the_arm_full_loss_is_the_method_turbo_loss_under_its_old_name(task):
    [command] = [command for command in made_by("ablations", f"TASKS={task}") if "--label full-loss" in command]
    config = parsed(command)
    assert (config.method, config.label, config.out.parts[-2]) == ("turbo-loss", "full-loss", "full-loss")
    # As it was asked for when the results were written down.
    told = ("ppo-step.kl-estimator=full", "distill.top-logprobs=512", "ppo-step.kl-placement=loss")
    assert plan(config) == plan(replace(config, method="turbo-kl", set=(*config.set, *told)))
    assert "full-loss" in {json.loads(line)["arm"] for line in (record.RESULTS / f"{task}.jsonl").read_text().splitlines()}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_guards_are_one_change_each_to_ppo_from_one_start():
    who = "ppo dual-clip clipped-only log-ratio target-kl adam-epsilon"
    commands = [
        each.partition(" || ")[0]
        for each in made_by("survival", "TASKS=numberline", "RATES=1e-3", f"WHO={who}")
        if "--label" in each
    ]
    configs = {config.label: config for config in map(parsed, commands)}
    updates = {label: [step.config for step in plan(config) if step.stage == "ppo-step"][-1] for label, config in configs.items()}
    assert {(each.start, each.seed, each.iterations, each.method) for each in configs.values()} == {
        (configs["ppo"].start, 3, 30, "ppo")
    }
    changed = {label: (update.guard, update.target_kl, update.adam_epsilon) for label, update in updates.items()}
    assert len(set(changed.values())) == 6 and changed["ppo"] == ("none", None, 1e-8)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_correctors_differ_by_how_often_they_are_wrong_and_each_run_has_a_server_of_its_own():
    text = subprocess.run(
        ["make", "-n", "-C", "examples/reproduce", "corrected", "OUT=runs", "GTRTURBO=gtrturbo"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    lines = [re.split(r"corrector_server.py (.*) -- (?=gtrturbo)", line) for line in text.splitlines() if "--label" in line]
    taught = {words[-1].strip(): words[1].split() for words in lines if len(words) == 3}
    alone = [words[0].strip() for words in lines if len(words) == 1]
    assert (len(taught), len(alone)) == (18, 18) and len({server[1] for server in taught.values()}) == 18
    for command, (_, port, _, wrong, _, seed) in taught.items():
        config = parsed(command)
        assert config.label == f"gtr-wrong-{round(100 * float(wrong)):02d}" and str(config.seed) == seed
        assert config.address == f"http://127.0.0.1:{port}" and plan(config)
    updates = {(config.task, config.iterations) for config in map(parsed, [*taught, *alone])}
    assert updates == {("numberline", 6), ("ezpoints", 4)}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("code", "kept"), [(0, True), (3, True), (1, False)])
def test_a_run_that_collapsed_is_a_result_and_one_that_failed_is_none(tmp_path, code, kept):
    start = tmp_path / "numberline/start/3/evals/0000/stage.json"
    start.parent.mkdir(parents=True)
    start.write_text("{}")
    target = tmp_path / "numberline-1e-3/dual-clip/3/commit"
    target.parent.mkdir(parents=True)
    fake = tmp_path / "gtrturbo"
    fake.write_text(f"#!/bin/sh\nexit {code}\n")
    fake.chmod(0o755)
    command = ["make", "-s", "-C", "examples/reproduce", "SEEDS=3", f"OUT={tmp_path}", f"GTRTURBO={fake}", "survival"]
    command += ["TASKS=numberline", "RATES=1e-3", "WHO=dual-clip"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert (done.returncode == 0, target.is_file()) == (kept, kept)


def outcomes(wins: int) -> list[int]:
    return [1] * wins + [0] * (10 - wins)


def runs(folder: Path) -> None:
    """Three seeds of two arms: ppo wins 5, 5, 6 of 10 in the end, turbo-kl 8, 7, 6; each starts with 4."""
    for arm, ends in (("ppo", (5, 5, 6)), ("turbo-kl", (8, 7, 6))):
        for seed, end in enumerate(ends, start=1):
            out = folder / "numberline" / arm / str(seed)
            seconds = {"checkpoints": 10.0} | ({"teachers": 1.0, "guidance": 3.0} if arm != "ppo" else {})
            teachers = {2: outcomes(3)} if arm != "ppo" else None
            make_run(out, arm, seed, {0: outcomes(4), 2: outcomes(end)}, teachers=teachers, seconds=seconds)
            rollout(out / "rollouts" / "0000", success=0.4)
            rollout(out / "rollouts" / "0001", success=end / 10)
            (out / "commit").write_text("abc\n")


def rollout(out: Path, *, success: float) -> None:
    with writing(out, Provenance("rollout", "turns", {}, {})) as draft:
        draft.metrics = {"success_rate": success, "thought_accuracy": 1.0}
    timed(out, 3.0)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    runs(tmp_path / "runs")
    for module in (record, page):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    record.record(tmp_path / "runs")
    return tmp_path


def test_a_line_says_what_a_run_found_and_other_lines_stay(recorded):
    file = recorded / "results" / "numberline.jsonl"
    before = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["arm"], line["seed"], line["commit"]) for line in before[:2]] == [("ppo", 1, "abc"), ("ppo", 2, "abc")]
    turbo = before[3]
    assert turbo["evaluations"]["2"]["success_rate"] == 0.8 and turbo["teachers"]["2"]["success_rate"] == 0.3
    assert turbo["seconds"]["distill"] == 3.0
    shutil.rmtree(recorded / "runs" / "numberline" / "ppo")
    record.record(recorded / "runs")
    assert [json.loads(line) for line in file.read_text().splitlines()] == before


def test_a_run_that_collapsed_tells_where_without_the_folder_that_it_was_kept_in(recorded):
    out = recorded / "runs" / "numberline" / "ppo" / "1"
    why = Collapsed(1, "ppo-step", f"every turn of {out}/rollouts/0001 is illegal.")
    config = RunConfig(out=out, method="ppo", seed=1, iterations=2, label="ppo")
    record_run(config, replace=True, collapsed=why)
    record.record(recorded / "runs")
    text = (record.RESULTS / "numberline.jsonl").read_text()
    assert "every turn of rollouts/0001 is illegal." in text and str(recorded) not in text


def test_runs_of_another_machine_are_written_apart(recorded):
    before = {file.name: file.read_bytes() for file in record.RESULTS.iterdir()}
    written = record.record(recorded / "runs", "groups")
    assert written and all(file.stem.endswith("-groups") for file in written)
    assert {file.name: file.read_bytes() for file in record.RESULTS.iterdir() if file not in written} == before
    assert (record.RESULTS / "numberline-groups.jsonl").read_bytes() == before["numberline.jsonl"]


def test_tables_are_as_by_hand(recorded):
    head, ppo, turbo = page.table("numberline", "methods")
    cells = dict(zip(head, turbo, strict=False))
    assert cells["arm"] == "`turbo-kl`" and cells["seeds"] == "3" and cells["success"].startswith("0.700 [")
    # On the same seeds +0.3, +0.2 and 0; in training (0.4 + end) / 2, on average (0.4 + 0.7) / 2; the teacher took 4 of 20 s.
    assert cells["success in training"].startswith("0.550 [") and (turbo[-1], ppo[-1]) == ("20%", "0%")
    [_, difference] = page.table("numberline", "against-ppo")
    # Not bold, whatever the interval: three seeds are too few.
    assert difference[:2] == ["`turbo-kl`", "3"] and difference[2].startswith("+0.167 [") and difference[3] == "2/1/0"
    head, learned = page.table("numberline", "learning", ["turbo-kl"])
    learned = dict(zip(head, learned, strict=True))
    assert learned["after − before"].startswith("+0.300") and learned["after − chance"].startswith("+0.450")
    # A win pays 1 and a loss costs 1: 2 · 0.4 − 1 before, 2 · 0.7 − 1 after.
    [_, earned] = page.table("numberline", "returns", ["turbo-kl"])
    assert earned[2:4] == ["-0.200", "0.400"] and earned[4].startswith("+0.600")
    [_, gap] = page.table("numberline", "teachers")
    # No model on a server was asked; 4 seconds at 2 an hour.
    head, cost = page.table("numberline", "costs", ["turbo-kl"])
    told = dict(zip(head, cost, strict=True))
    assert (told["answers"], told["paid calls"], told["teacher s"], told["machine, USD"]) == ("0", "0", "4.0", "0.0022")
    assert gap[:4] == ["`turbo-kl`", "3", "2", "0.700"] and gap[4].startswith("-0.400") and gap[5] == "0/0/3"


def test_a_table_keeps_to_the_seeds_that_it_names(recorded):
    [_, row] = page.table("numberline", "against-ppo", ["seeds=2-3"])
    assert row[:2] == ["`turbo-kl`", "2"] and row[2].startswith("+0.100 [") and row[3] == "1/1/0"
    assert len(page.table("numberline", "methods", ["seeds=7-9"])) == 1  # The head alone.


def test_merges_are_compared_with_the_student_of_the_same_seed_and_iteration(recorded):
    for seed, wins in ((1, 9), (2, 8)):
        folder = recorded / "runs" / "numberline" / "merges" / "linear" / "2" / str(seed) / "eval"
        student = recorded / "runs" / "numberline" / "ppo" / str(seed) / "evals" / "0002" / "metrics.json"
        metrics = {"return_mean": 0, "illegal_rate": 0, "thought_accuracy": 0.5}
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics | {"success_rate": wins / 10}))
        (folder.parent / "student").write_text("ppo\n")
        student.write_text(json.dumps(metrics | {"success_rate": (9 - seed) / 10}))
    record.record(recorded / "runs")
    [_, row] = page.merges("numberline")
    assert row[:3] == ["`linear`", "2", "2"] and row[3].startswith("+0.100") and row[5].startswith("+0.000")
    assert (row[4], row[6]) == ("2/0/0", "0/2/0")


def test_the_page_holds_its_tables_and_keeps_its_words(recorded):
    text = "before\n<!-- table: numberline learning -->\nold\n<!-- end -->\nafter\n"
    filled = page.filled(text)
    assert filled.startswith("before\n<!-- table: numberline learning -->\n| arm |") and filled.endswith("<!-- end -->\nafter\n")
    assert "old" not in filled and page.filled(filled) == filled


def test_a_picture_draws_every_method_and_stands_alone(recorded):
    drawn = page.picture("numberline", "success_rate", "title")
    assert drawn.startswith("<svg xmlns=") and drawn.count('class="band ') == 2 and ">turbo-kl</text>" in drawn
    # From 0.4 up to 0.7: the curve's last point lies higher on the page, by the same share of the axis as the values.
    curve = re.search(r'<g class="s1"><path d="M([\d. L]+)"', drawn)
    assert curve
    (_, first), (_, last) = [map(float, point.split()) for point in curve[1].split("L")]
    ticks = {float(text): float(y) for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', drawn)}
    values = sorted(ticks)
    scale = (ticks[values[-1]] - ticks[values[0]]) / (values[-1] - values[0])
    assert np.isclose((last - first) / scale, 0.3, atol=0.01)


def test_the_page_and_its_pictures_are_as_the_results_say():
    stale = [file.name for file, text in page.made().items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python -m examples.reproduce.page"
