"""Runs with a teacher on a server: GTR end to end, stopped and gone on, and what its plan says before."""

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_families import make, students_llava
from typer.testing import CliRunner

from examples.teachers.corrector_server import Corrector, serving
from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, PpoStepConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teaching import chat
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.execute import run
from gtrturbo.runs.plan import plan
from gtrturbo.runs.sample import sample
from gtrturbo.runs.script import command_words
from gtrturbo.runs.teacher_tokens import check_playing, check_tokenizers
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import LEDGER, MANIFEST, MODEL_WEIGHTS
from gtrturbo.tasks.loading import load_task

PRICES = "dated: 2026-01-31\ncurrency: USD\nmodels: {solver: {input: 2, cached: 1, output: 8}}\n"
SMALL = ("rollout.max-new-tokens=48", "rollout.num-envs=4", "ppo-step.epochs=1", "eval.max-new-tokens=24", "eval.num-envs=4")


@pytest.fixture
def gtr(warm, tmp_path):
    def config(corrector, **settings):
        given = {"out": tmp_path / "run", "method": "gtr", "teacher": Path("openai:solver"), "address": corrector.url}
        given |= {"hints": ("truth", "expert"), "start": warm, "env": ("image=tiny", "horizon=3"), "iterations": 2, "episodes": 4}
        return RunConfig(**given | {"eval_episodes": 2, "set": SMALL, "answers": tmp_path / "answers"} | settings)

    return config


def of(config, stage):
    return [step for step in plan(config) if step.stage == stage]


def test_a_plan_of_gtr_asks_the_server_to_correct_and_imitates_all_corrections_since_the_start(gtr, tmp_path):
    config = gtr(Corrector(url="http://127.0.0.1:9"), max_calls=7)
    asked, updates = of(config, "distill"), of(config, "ppo-step")
    for step in asked:
        assert (step.config.mode, step.config.teacher, step.config.hints) == (
            "correct",
            Path("openai:solver"),
            ("truth", "expert"),
        )
        assert (step.config.max_calls, step.config.ledger) == (7, tmp_path / "run" / LEDGER)
        # What the tiny model was measured with as a teacher is not what a server is asked with.
        assert (step.config.max_new_tokens, step.config.temperature) == (256, 0.2)
    assert updates[1].config.demos == tuple(tmp_path / "run" / "guidance" / name for name in ("0000", "0001"))
    words = command_words(asked[0])
    assert words[words.index("--teacher") + 1] == "openai:solver" and words.count("--hints") == 2


def test_gtr_runs_stops_at_its_budget_and_goes_on_and_a_second_run_pays_nothing(gtr, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES)
    with serving(Corrector(wrong=0.2)) as corrector:
        with pytest.raises(GtrTurboError, match="--max-calls 3 allows no further call"):
            run(gtr(corrector, max_calls=3))
        assert corrector.tries == 3
        run(gtr(corrector, prices=prices))
        calls = corrector.tries
        assert len((tmp_path / "run" / LEDGER).read_text().splitlines()) == calls
        run(gtr(corrector, out=tmp_path / "again", max_calls=1))
        assert corrector.tries == calls  # All of it was answered before.
    ends = [tmp_path / name / "checkpoints" / "0002" / "stage.json" for name in ("run", "again")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["teacher"] == "openai:solver" and "max_calls" not in record["config"]
    assert read_manifest(tmp_path / "run" / "guidance" / "0000").metrics["teacher_calls"] > 0


def test_a_log_prob_method_refuses_a_server_before_any_work(gtr, tmp_path):
    with pytest.raises(GtrTurboError, match=r"gives no log-probs of the student's tokens, which --method opd needs"):
        plan(gtr(Corrector(url="http://127.0.0.1:9"), method="opd"))
    with pytest.raises(GtrTurboError, match="is on a server, and none is named"):
        plan(gtr(Corrector(url="http://127.0.0.1:9"), address=None))
    with pytest.raises(GtrTurboError, match="--prices is for a teacher on a server"):
        plan(RunConfig(out=tmp_path / "x", prices=tmp_path / "prices.yaml"))


def test_an_update_from_no_demos_says_that_it_is_plain_ppo(warm, turns, tmp_path):
    own = tmp_path / "silent.py"
    own.write_text("def teach(questions):\n    return [None for _ in questions]\n")
    silent = execute(DistillConfig(out=tmp_path / "demos", rollouts=turns, teacher=Path(f"{own}:teach"), mode="thoughts")).out
    command = ["ppo-step", "--checkpoint", str(warm), "--rollouts", str(turns), "--epochs", "1", "--demos", str(silent)]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "next")])
    assert result.exit_code == 0 and f"there is no demo in {silent}: this update is plain PPO." in result.output
    plain = execute(PpoStepConfig(out=tmp_path / "plain", checkpoint=warm, rollouts=turns, epochs=1)).out
    assert (plain / "model.safetensors").read_bytes() == (tmp_path / "next" / "model.safetensors").read_bytes()


def test_a_dry_run_says_how_often_a_server_will_be_asked_and_what_that_may_cost(gtr, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("dated: 2026-01-31\ncurrency: EUR\nmodels: {solver: {input: 0, output: 0, call: 0.5}}\n")
    config = gtr(Corrector(url="http://127.0.0.1:9"), prices=prices, iterations=3, episodes=8)
    play = sample(load_task("numberline", ["image=tiny", "horizon=3"]))
    calls = round(3 * 8 * play.turns)
    [line] = [line for line in notes(config) if line.startswith("openai:")]
    assert not any(line.startswith("distill ") for line in notes(config)), "No memory is needed here for a model on a server."
    assert f"asked about {calls} times" in line and f": {calls * 0.5:,.2f} EUR by prices of 2026-01-31." in line
    # Of two teachers each gets its part, and only those on servers are told.
    both = gtr(Corrector(url="http://127.0.0.1:9"), more_teachers=(Path("openai:other"),), teacher_weights="3,1")
    told = [line for line in notes(both) if line.startswith("openai:")]
    assert [int(line.split(" asked about ")[1].split()[0]) for line in told] == [
        round(2 * 4 * play.turns * part) for part in (0.75, 0.25)
    ]
    assert "--prices FILE says what they cost" in told[0]


def test_a_dry_run_counts_about_what_is_then_asked(gtr, tmp_path):
    with serving(Corrector()) as corrector:
        config = gtr(corrector)
        told = [
            int(number.replace(",", ""))
            for line in notes(config)
            if "openai:" in line
            for number in re.findall(r" ([\d,]+) ", line)
        ]
        run(config)
    found = [read_manifest(tmp_path / "run" / "guidance" / name).metrics for name in ("0000", "0001")]
    asked, read = (sum(metrics[name] for metrics in found) for name in ("teacher_calls", "teacher_input_tokens"))
    # The corrector counts four characters a token, and 85 for a picture; GPT-4o 255 for one of this size.
    assert 0.5 < told[0] / asked < 2 and 0.7 < told[1] / told[0] / (read / asked * 4 / 3 + 170) < 1.5


KEY = "sk-no-file-may-hold-this-0123456789"
SERVER = Path(__file__).parents[3] / "examples" / "teachers" / "corrector_server.py"


def test_a_run_whose_server_is_killed_goes_on_and_pays_for_the_rest_alone_and_no_file_holds_the_key(
    gtr, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(chat, "BACKOFF", (0.01, 0.02, 0.04))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    slow = (*SMALL, "distill.at-once=1")
    with serving(Corrector(key=KEY, echo=KEY)) as corrector:
        port = int(corrector.url.rpartition(":")[2])
        corrector.faults = ["500", "half", "", "bad"]
        calm = gtr(corrector, out=tmp_path / "calm", answers=tmp_path / "calm" / "answers", set=slow)
        run(calm)
        paid = corrector.tries - 3  # Three of the requests had no answer.
    command = [sys.executable, str(SERVER), "--port", str(port), "--seconds", "0.05"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout and "listening" in server.stdout.readline()
    killed = gtr(corrector, set=slow)
    ledger = killed.out / LEDGER

    def kill() -> None:
        while not (ledger.exists() and len(ledger.read_text().splitlines()) >= 5):
            time.sleep(0.005)
        server.kill()

    watching = threading.Thread(target=kill, daemon=True)
    watching.start()
    with pytest.raises(GtrTurboError) as error:
        run(killed)
    watching.join()
    server.wait()
    assert "give the same command again: what was answered is kept" in str(error.value.fix)
    there = len([*(tmp_path / "answers").rglob("*.json")])
    assert 5 <= there < paid
    with serving(Corrector(), port) as restarted:
        run(killed)
        assert restarted.tries == paid - there
    ends = [each.out / "checkpoints" / "0002" / "stage.json" for each in (calm, killed)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 50 and not [file for file in files if KEY.encode() in file.read_bytes()]
    told = capfd.readouterr()
    assert KEY not in told.out + told.err + str(error.value) and "\x1b[31m" not in told.err


def test_on_policy_distillation_of_a_folder_of_another_family(warm, tmp_path):
    teacher = students_llava(tmp_path / "teacher")
    given = {
        "method": "opd",
        "teacher": teacher,
        "start": warm,
        "env": ("image=tiny", "horizon=3"),
        "iterations": 1,
        "episodes": 4,
    }
    config = RunConfig(out=tmp_path / "run", eval_episodes=2, set=SMALL, **given)
    run(config)
    scores = read_manifest(tmp_path / "run" / "guidance" / "0000")
    assert scores.kind == "scores" and scores.metrics["thought_kl_k1"] > 1  # An untaught teacher is far away.
    update = read_manifest(tmp_path / "run" / "checkpoints" / "0001")
    assert update.config["environment_coef"] == 0 and update.metrics["kl_mean"] > 0
    with pytest.raises(GtrTurboError, match="Nobody/model-7B does not exist") as error:
        run(RunConfig(out=tmp_path / "other", **given | {"teacher": Path("Nobody/model-7B")}))
    assert "gtrturbo init --model Nobody/model-7B" in str(error.value.fix)


@pytest.mark.parametrize("start", [True, False])
def test_a_teacher_of_other_tokens_is_refused_before_any_work(warm, tmp_path, start):
    gemma = make("gemma3", tmp_path / "gemma")
    given = {"method": "opd", "start": warm if start else None, "env": ("image=tiny", "horizon=3"), "set": SMALL}
    config = RunConfig(out=tmp_path / "run", teacher=gemma, **given)
    with pytest.raises(
        GtrTurboError, match=r"the tokenizer of .*gemma has not the vocabulary and .* of the student's.*\nuse --method gtr"
    ):
        run(config)
    assert not (tmp_path / "run").exists()
    check_tokenizers(config, plan(replace(config, teacher=students_llava(tmp_path / "llava"))))  # Which has the student's.
    (gemma / "tokenizer.json").unlink()
    with pytest.raises(GtrTurboError, match=r"gemma has no tokenizer: tokenizer\.json is not there"):
        run(config)


def spoilt(model: Path) -> Path:
    weights = load_file(model / MODEL_WEIGHTS)
    next(iter(weights.values()))[:] = float("nan")
    save_file(weights, model / MODEL_WEIGHTS, {"format": "pt"})
    return model


def untaught(model: Path) -> Path:
    (model / "chat_template.jinja").unlink()
    return model


@pytest.mark.parametrize(("change", "told"), [(spoilt, "weights that are no numbers"), (untaught, "has no chat template")])
@pytest.mark.parametrize("subprocess", [False, True])
def test_a_teacher_from_outside_that_cannot_play_is_refused_before_any_work(change, told, subprocess, warm, tmp_path):
    teacher = change(students_llava(tmp_path / "teacher"))
    given = {"method": "static-kl", "teacher": teacher, "start": warm, "env": ("image=tiny", "horizon=3"), "set": SMALL}
    with pytest.raises(GtrTurboError, match=told):
        run(RunConfig(out=tmp_path / "run", subprocess=subprocess, **given))
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_tried_once_and_not_where_it_taught_or_a_stage_made_it(warm, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("gtrturbo.models.checkpoint.load_policy", lambda path, **how: loaded.append((path, how)))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    given = {"out": tmp_path / "run", "method": "static-kl", "start": warm, "iterations": 3, "device": "cpu"}
    steps = plan(RunConfig(teacher=teacher, **given))
    check_playing(steps)
    assert loaded == [(teacher, {"device": "cpu", "dtype": "auto"})]
    for other in (warm, Path("openai:solver"), Path("teacher.py:make")):
        check_playing([replace(step, config=replace(step.config, teacher=other)) for step in steps if step.stage == "distill"])
    taught = next(step.config.out for step in steps if step.stage == "distill")
    taught.mkdir(parents=True)
    (taught / MANIFEST).touch()
    check_playing(steps)
    assert len(loaded) == 1
