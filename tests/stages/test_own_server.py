"""A vLLM that is started for a stage: with which flags, that it answers, and that nothing of it stays."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play import own_server as own
from gtrturbo.play.failures import AwayError, EndedError, RefusedError, TriedInVainError
from gtrturbo.play.lora_serving import legal_rank
from gtrturbo.play.own_server import environment_of, flags_of, last_words, own_server
from gtrturbo.play.server import Server
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.safetensors_files import read_layout

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture
def config(vllm_python, warm, tmp_path) -> RolloutConfig:
    return RolloutConfig(
        out=tmp_path / "turns", checkpoint=warm, episodes=2, max_new_tokens=16, engine="vllm", vllm_python=vllm_python, **TASK
    )


def test_a_stage_starts_its_server_and_ends_it(config, tmp_path, warm):
    manifest = read_manifest(execute(config).out)
    assert manifest.metrics["probe_gap_mean"] < 1e-5 and manifest.config["engine"] == "vllm"
    assert "vllm_python" not in manifest.config
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["words"] == ["-m", "vllm.entrypoints.openai.api_server"] and told["lora"] == "1"
    assert told["flags"][:2] == ["--model", str(warm.resolve())]
    with pytest.raises(ProcessLookupError):
        os.kill(told["pid"], 0)


def test_a_trained_checkpoint_is_served_without_its_value_head_and_optimiser(config, ppo):
    assert {"value_head.safetensors", "optimizer.safetensors"} < {file.name for file in ppo.glob("*.safetensors")}
    assert read_manifest(execute(replace(config, checkpoint=ppo)).out).metrics["probe_gap_mean"] < 1e-5
    assert read_layout(ppo).unread == ()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("No module named vllm", "No module named vllm"),
        (
            "(Worker 3) ERROR at.py:9 ValueError: no x\nRuntimeError: Engine core failed. See root cause above.",
            "ValueError: no x",
        ),
    ],
)
def test_a_server_that_does_not_start_is_told_by_its_last_words(config, monkeypatch, said, cause):
    monkeypatch.setenv("FAKE_VLLM_FAILS", said)
    with pytest.raises(GtrTurboError, match=rf"the last that it says is: {cause}\nsee .*\.log; --vllm-python") as told:
        execute(config)
    Path(str(told.value).partition("see ")[2].partition(";")[0]).unlink()
    assert not config.out.exists()


def test_a_cause_that_is_told_in_brackets_loses_the_one_that_closes_them(tmp_path):
    log = tmp_path / "log"
    log.write_text("python: Error while finding 'vllm.x' (ModuleNotFoundError: No module named 'vllm')")
    assert last_words(log) == "ModuleNotFoundError: No module named 'vllm'"
    log.write_text("ValueError: no room (of 3)")
    assert last_words(log) == "ValueError: no room (of 3)"


def test_what_would_make_another_server_of_it_is_not_in_its_environment():
    given = {"VLLM_API_KEY": "secret", "VLLM_DP_SIZE": "2", "VLLM_MODEL_REDIRECT_PATH": "x", "VLLM_LOGGING_LEVEL": "DEBUG"}
    kept = environment_of(given | {"PATH": "/bin"}, on_cpu=False)
    assert kept == {"VLLM_LOGGING_LEVEL": "DEBUG", "PATH": "/bin", "PYTHONSAFEPATH": "1"} | own.AROUND
    assert environment_of({"OMP_NUM_THREADS": "4"}, on_cpu=True)["OMP_NUM_THREADS"] == "4"


def test_a_key_of_vllm_and_the_current_folders_modules_do_not_reach_the_server(config, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    execute(config)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["key"] is None and told["safe"] == "1"


def test_a_server_of_our_own_that_asks_for_a_key_is_not_mended_by_one():
    with answering_401() as url:
        hints = []
        for own_one in (lambda: None, None):
            with pytest.raises(RefusedError) as told:
                Server("vllm", url, own=own_one).roots()
            hints.append(told.value.fix)
    assert ["OPENAI_API_KEY" in hint for hint in hints] == [False, True] and "is sent none" in hints[0]


@contextmanager
def answering_401():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_python_that_is_none_is_refused(warm, tmp_path):
    play = RolloutConfig(out=tmp_path / "turns", checkpoint=warm, engine="vllm", vllm_python=str(tmp_path / "no"), **TASK)
    with pytest.raises(GtrTurboError, match=r"/no is no program that can be run\.\nname the Python of"):
        execute(play)
    with (
        pytest.raises(GtrTurboError, match=r"cannot be run: No such file or directory\.\nname a Python"),
        own_server(warm, play.vllm_python, dtype="auto"),
    ):
        pass


def test_flags_follow_from_the_checkpoint(warm, lora, tmp_path):
    whole = flags_of(warm, dtype="auto", port=7, on_cpu=False)
    assert whole == [
        "--model", str(warm.resolve()), "--host", "127.0.0.1", "--port", "7", "--logprobs-mode", "processed_logprobs",
        "--dtype", "float32", "--max-model-len", "auto",
    ]  # fmt: skip
    adapted = flags_of(lora, dtype="bfloat16", port=7, on_cpu=True)
    assert adapted[1] == str((lora / "base").resolve()) and adapted[9] == "bfloat16"
    assert adapted[10:] == [
        "--max-model-len", "auto",
        "--enable-lora", "--enable-tower-connector-lora", "--max-lora-rank", "8", "--max-num-batched-tokens", "16384",
        "--enforce-eager",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "legal"), [(1, 1), (2, 8), (8, 8), (9, 16), (128, 128), (129, 256), (500, 512)])
def test_a_rank_is_rounded_up_to_what_vllm_takes(rank, legal):
    assert legal_rank(rank) == legal


def test_a_rank_that_vllm_does_not_take_is_refused_before_a_server_is_started(lora, tmp_path):
    adapter = shutil.copytree(lora, tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"rank_pattern": {"q_proj": 20}}))
    flags = flags_of(adapter, dtype="auto", port=7, on_cpu=False)
    assert flags[flags.index("--max-lora-rank") + 1] == "32"
    file.write_text(json.dumps(content | {"r": 600}))
    with (
        pytest.raises(GtrTurboError, match=r"up to rank 512, and this one has 600\.\n.*--engine hf"),
        own_server(adapter, str(tmp_path / "nowhere"), dtype="auto"),
    ):
        pass


# One that answers at once, and does nothing else.
QUICK = """#!{python} -S
import sys, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = b'{{"data": [{{"id": "served"}}]}}' if self.path == "/v1/models" else b""
        self.send_response(200 if self.path in ("/health", "/v1/models") else 500)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        print("torch.OutOfMemoryError: no memory left", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A Python that serves at once; what is logged goes to a folder of its own."""
    file, logs = tmp_path / "python", tmp_path / "logs"
    file.write_text(QUICK.format(python=sys.executable))
    file.chmod(0o755)
    logs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(logs))
    monkeypatch.setattr(own, "GLANCE", 0.02)
    return str(file)


def logs_of(quick) -> list[Path]:
    return list((Path(quick).parent / "logs").iterdir())


def test_a_proxy_is_not_asked_for_a_server_of_this_machine(quick, warm, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(own, "PATIENCE", 20.0)
    with own_server(warm, quick, dtype="auto") as server:
        assert Server("vllm", server.url).model == "served"
    assert logs_of(quick) == []


def test_a_server_that_ends_in_the_middle_is_told_at_once_with_its_last_words(quick, warm):
    began = time.monotonic()
    with pytest.raises(EndedError, match=r"ended in the middle .*exit code -9.*OutOfMemoryError: no memory left") as told:  # noqa: SIM117
        with own_server(warm, quick, dtype="auto") as started:
            server = Server("vllm", started.url, own=started.require_running)
            os.kill(started.process.pid, signal.SIGKILL)
            started.process.wait()
            server.roots()
    assert time.monotonic() - began < 10
    [log] = logs_of(quick)
    assert str(log) in told.value.fix


def test_a_log_stays_only_where_a_message_names_it(quick, warm, tmp_path):
    with pytest.raises(GtrTurboError, match="cannot be run"), own_server(warm, str(tmp_path / "no"), dtype="auto"):
        pass
    with pytest.raises(GtrTurboError, match="of another kind"), own_server(warm, quick, dtype="auto"):
        raise GtrTurboError("of another kind.")
    assert logs_of(quick) == []
    with pytest.raises(GtrTurboError, match=r"answered 500") as told, own_server(warm, quick, dtype="auto") as server:
        raise AwayError(server.url, TriedInVainError("answered 500"))
    [log] = logs_of(quick)
    assert str(log) in told.value.fix


def test_old_logs_of_processes_that_were_killed_are_removed_and_no_others(quick, warm):
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    logs = Path(quick).parent / "logs"
    old, new, running, others = (
        logs / name
        for name in (f"gtrturbo-vllm-{ended.pid}-a.log", f"gtrturbo-vllm-{ended.pid}-b.log", f"gtrturbo-vllm-{os.getpid()}-c.log",
                     "gtrturbo-vllm-x.log")
    )  # fmt: skip
    for log in (old, new, running, others):
        log.touch()
        if log != new:
            os.utime(log, (0, 0))
    with own_server(warm, quick, dtype="auto") as server:
        assert server.log.name.startswith(f"gtrturbo-vllm-{os.getpid()}-")
        assert set(logs.iterdir()) == {new, running, others, server.log}
    assert set(logs_of(quick)) == {new, running, others}


def test_a_server_ends_with_this_process_however_that_ends(quick, warm, monkeypatch):
    taken = []
    monkeypatch.setattr(own, "take_along", lambda numbers: taken.extend(numbers) or (lambda: taken.append("called off")))
    with own_server(warm, quick, dtype="auto") as server:
        assert taken == [-server.process.pid] == [-os.getpgid(server.process.pid)]
    assert taken[1:] == ["called off"]


def test_a_server_of_our_own_gets_no_key(quick, warm, monkeypatch):
    from gtrturbo.play import wire

    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    sent, opened = [], wire.open_in_time
    monkeypatch.setattr(wire, "open_in_time", lambda asked, *how: sent.append(dict(asked.headers)) or opened(asked, *how))
    with own_server(warm, quick, dtype="auto") as server:
        Server("vllm", server.url, own=server.require_running).roots()
        Server("vllm", server.url).roots()
    assert ["Authorization" in headers for headers in sent] == [False, True]


def test_what_steers_a_terminal_is_left_out_of_the_last_words_whole(tmp_path):
    log = tmp_path / "log"
    log.write_text("\x1b[1;31mRuntimeError: \x1b]0;a title\x07no \x1b(Broom\x1b[0m \x9b31mleft\x1b[K\x1b=\n")
    assert last_words(log) == "RuntimeError: no room left"
    log.write_text("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x1b\\ \x1b]0;never ended\nlast")
    assert last_words(log) == "last"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="another system")
def test_what_the_server_started_in_a_session_of_its_own_ends_with_it(quick, warm, tmp_path, monkeypatch):
    number, program = tmp_path / "number", Path(quick)
    starting = f"import subprocess; subprocess.run(['sh', '-c', 'setsid sleep 300 & echo $! > {number}'])\n"
    head, _, rest = program.read_text().partition("\n")
    program.write_text(f"{head}\n{starting}{rest}")
    with own_server(warm, quick, dtype="auto"):
        child = int(number.read_text())
        os.kill(child, 0)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
