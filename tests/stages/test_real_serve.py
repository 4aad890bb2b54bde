"""A corrector on a foreign server, `transformers serve`, as `make test-teachers` runs it: skipped without GTRTURBO_SERVE."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from tiny_families import says, students_llava

from gtrturbo.config import DistillConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.turns import read_turns
from gtrturbo.tasks.loading import load_task

PYTHON = os.environ.get("GTRTURBO_SERVE")
pytestmark = [pytest.mark.skipif(not PYTHON, reason="make test-teachers"), pytest.mark.timeout(1800)]
TASK = load_task("numberline", ["image=tiny"])
STARTS = 300  # seconds
AROUND = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def corrector(turns, tmp_path):
    """A model that says of every turn that it is wrong, and one thing that would be right; its server's address and process."""
    reply = json.loads(TASK.expert_reply(read_turns(turns)[0].info))
    answer = json.dumps({"verdict": "wrong", "reply": reply})
    model = says(answer, students_llava(tmp_path / "llava"), turns, tmp_path, asked="go on")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | AROUND, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until_there(server, address, tmp_path / "log")
        yield model, address, server, reply
    finally:
        server.kill()
        server.wait()


def until_there(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    for _ in range(STARTS):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())


def test_transformers_serve_corrects_and_what_it_said_outlives_it(corrector, turns, tmp_path):
    model, address, server, reply = corrector
    (tmp_path / "question.txt").write_text("go on")
    given = {"rollouts": turns, "teacher": Path(f"openai:{model}"), "address": address, "mode": "correct", "at_once": 2}
    given |= {"prompt": tmp_path / "question.txt", "temperature": 0.01, "answers": tmp_path / "answers", "answer_timeout": 300.0}
    out = execute(DistillConfig(out=tmp_path / "out", **given)).out
    legal = [turn for turn in read_turns(turns) if turn.legal]
    demos, metrics = list(read_rows(out / "demos.jsonl", Demo)), read_manifest(out).metrics
    assert len(demos) == len(legal) == metrics["teacher_wrong"] == metrics["teacher_calls"] and metrics["teacher_repairs"] == 0
    for demo, turn in zip(demos, legal, strict=True):
        found = TASK.read(demo.messages[-1]["content"][0]["text"], turn.info)
        assert found.action == turn.action and found.fields["thoughts"] == reply["thoughts"]
    assert metrics["teacher_input_tokens"] > 0 and metrics["teacher_output_tokens"] >= len(legal)
    [about] = json.loads((out / "teacher.json").read_text())
    assert any(str(model) in name for name in about["models"]) and about["address"] == address
    # It says by itself that it serves another model, and that is told in one sentence.
    with pytest.raises(GtrTurboError, match=r"refused the request \(400\)"):
        execute(DistillConfig(out=tmp_path / "other", **given | {"teacher": Path("openai:other")}))
    server.kill()
    server.wait()
    again = execute(DistillConfig(out=tmp_path / "again", **given)).out
    assert (again / "stage.json").read_bytes() == (out / "stage.json").read_bytes()
