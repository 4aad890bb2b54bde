"""TensorBoard, Weights & Biases and Trackio get every number of a loop. With the real packages: `make test-trackers`."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.store import tracker_services
from gtrturbo.store.tracker_services import Place, steps_before


def loop(folder, expert, init, tracker):
    """Two supervised artifacts of one series, each by a process of its own."""
    for number, start in (("0001", init), ("0002", folder / "ckpts" / "0001")):
        words = ["sft", str(expert), "--checkpoint", str(start), "--steps", "3", "--batch-size", "4", "--log", tracker]
        words += ["--out", str(folder / "ckpts" / number)]
        done = subprocess.run([sys.executable, "-m", "gtrturbo", *words], capture_output=True, text=True)
        assert done.returncode == 0 and "fails" not in done.stderr, done.stderr
        assert done.stdout.split() == [str(folder / "ckpts" / number)]  # Nothing of the service is on stdout.


def expected(folder):
    """What must have arrived, by name: (place on the axis, number), from the artifacts themselves."""
    found: dict[str, list[tuple[int, float]]] = {}
    for number in (1, 2):
        out = folder / "ckpts" / f"000{number}"
        for step, line in enumerate((out / "metrics.jsonl").read_text().splitlines()):
            for name, value in json.loads(line).items():
                found.setdefault(f"sft/step/{name}", []).append((3 * (number - 1) + step, value))
        for name, value in json.loads((out / "stage.json").read_text())["metrics"].items():
            found.setdefault(f"sft/{name}", []).append((number, value))
    return found


def add(rows, arrived):
    """Sort what a service was told by name; each row is of one axis."""
    for row in rows:
        for name in row.keys() - {"sft/step"}:
            if name.startswith("sft/"):
                axis = "sft/step" if name.startswith("sft/step/") else "iteration"
                arrived.setdefault(name, []).append((row[axis], row[name]))


def same(arrived, folder):
    wanted = expected(folder)
    assert set(arrived) == set(wanted) and any(name.startswith("sft/step/") for name in wanted)
    for name, points in wanted.items():
        assert [at for at, _ in arrived[name]] == [at for at, _ in points]
        assert [value for _, value in arrived[name]] == pytest.approx([value for _, value in points], rel=1e-6)  # float32


def test_tensorboard_gets_all_numbers(tmp_path, expert, init):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop(tmp_path, expert, init, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "ckpts"), size_guidance={"scalars": 0})
    events.Reload()
    same({tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, tmp_path)


def test_wandb_gets_all_numbers_offline(tmp_path, expert, init, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    loop(tmp_path, expert, init, "wandb")
    arrived: dict[str, list[tuple[int, float]]] = {}
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2 and len({path.name for path in files}) == 1  # One run, by its id, of two processes.
    for file in files:
        add(rows_of(file), arrived)
    same(arrived, tmp_path)


def rows_of(file):
    """Read wandb's file: a LevelDB log of blocks of 32 KiB, each of fragments: checksum (4), length (2), kind (1), bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, at + 4)
        if kind:  # 1 whole, 2 first, 3 middle, 4 last
            whole += content[at + 7 : at + 7 + length]
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        at += 7 + length if kind else 1
        at += 32768 - at % 32768 if 32768 - at % 32768 < 7 else 0


def test_trackio_gets_all_numbers(tmp_path, expert, init, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    loop(tmp_path, expert, init, "trackio")
    rows = SQLiteStorage.get_logs("gtrturbo", Place.of(tmp_path / "ckpts" / "0001").name)
    arrived: dict[str, list[tuple[int, float]]] = {}
    add(rows, arrived)
    same(arrived, tmp_path)


def test_a_service_whose_package_is_missing_is_refused_before_the_work_with_the_line_that_installs_it(
    tmp_path, expert, init, monkeypatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(tracker_services.importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    words = ["sft", str(expert), "--checkpoint", str(init), "--steps", "1", "--log", "wandb", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "pip install 'gtrturbo[wandb]'" in done.output and not (tmp_path / "out").exists()


def test_steps_count_on_over_the_artifacts_of_a_series(tmp_path):
    for name, steps in (("0000", 2), ("0001", 5), ("0010", 7), ("best", 11)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("{}\n" * steps)
    assert [steps_before(tmp_path / name) for name in ("0000", "0001", "0002", "0010", "0011", "best")] == [0, 2, 7, 7, 14, 0]


def test_loops_of_the_same_name_in_other_folders_are_other_runs():
    one, other = (Place.of(Path(f"/{parent}/demo/checkpoints/0003")) for parent in ("a", "b"))
    assert one.name != other.name and one.name.startswith("demo-") and (one.series, one.iteration) == ("checkpoints", 3)
