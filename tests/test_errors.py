"""Errors of the operating system, as a user is told them: the right path, and what mends it."""

import ast
import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
import typer

import gtrturbo
from gtrturbo.cli.mistakes import ending
from gtrturbo.config.regular_files import open_regular, read_regular
from gtrturbo.errors import hidden, naming, of_system
from gtrturbo.store.files import write_whole


def told(work) -> str:
    with pytest.raises(OSError) as error:
        work()
    return str(of_system(error.value))


def test_a_missing_file_is_named(tmp_path):
    assert told((tmp_path / "none").read_bytes) == f"{tmp_path}/none does not exist.\ncheck its spelling."


def test_a_file_in_the_place_of_a_folder_is_named_and_not_what_should_lie_in_it(tmp_path):
    (tmp_path / "a").write_text("x")
    mend = "move it away, or name another place."
    assert told((tmp_path / "a" / "b" / "c").read_bytes) == f"{tmp_path}/a is no folder.\n{mend}"
    assert told((tmp_path / "a" / "b").mkdir) == f"{tmp_path}/a is no folder.\n{mend}"
    assert told(lambda: (tmp_path / "a").mkdir(exist_ok=True)) == f"{tmp_path}/a is no folder.\n{mend}"


def test_a_name_that_is_too_long_is_shortened(tmp_path):
    text = told((tmp_path / ("n" * 300)).mkdir)
    assert text.startswith("the path /") and "is too long" in text and len(text) < 400


def test_nothing_can_be_made_in_proc():
    assert told(Path("/proc/.turns.partial").mkdir) == "nothing can be made in /proc.\nname another place."


@pytest.mark.parametrize(
    ("made", "called"),
    [
        ("runs/.a.partial/model.safetensors", "runs/a"),
        (".page.html.0123456789abcdef", "page.html"),
        ("x/.t.journal/0.jsonl", "x/t"),
    ],
)
def test_a_place_in_which_something_is_being_made_is_called_as_its_user_does(made, called):
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), made)
    assert of_system(error).what == f"{called} may not be used: permission denied."


def test_what_is_printed_sends_nobody_to_a_file_that_an_installed_package_has_not():
    sent = []
    for file in sorted(Path(gtrturbo.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        owners = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(node.body[0].value) for node in owners if node.body and isinstance(node.body[0], ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
        sent += [(file.name, text.value) for text in texts if re.search(r"docs/\S*\.md|gtrturbo/\S*\.py", str(text.value))]
    assert sent == []


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert told((tmp_path / "loop").read_bytes).startswith(f"{tmp_path}/loop is a symbolic link that leads in a circle.")


def test_a_full_disk_names_the_file_and_says_to_go_on():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/run/model.safetensors")
    assert str(of_system(error)) == (
        "/data/run/model.safetensors cannot be written: its disk is full.\n"
        "make room there, then give the same command again: what was finished is kept."
    )


def test_what_an_open_file_or_a_library_raises_gets_the_path_that_it_lacks():
    with pytest.raises(OSError) as error, naming(Path("/data/x")):
        os.write(99_999, b"x")
    assert error.value.filename == "/data/x"
    with pytest.raises(OSError) as error, naming(Path("/data/x")):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "/data/x")
    with pytest.raises(OSError) as error, naming(Path("/data/x")):
        Path("/no/such/file").read_bytes()
    assert error.value.filename == "/no/such/file"
    with pytest.raises(RuntimeError), naming(Path("/data/x")):  # This one tells its own.
        raise RuntimeError('I/O error: No such file or directory (os error 2) at path "/data/y"')
    with pytest.raises(ValueError), naming(Path("/data/x")):
        raise ValueError("another")


def test_the_path_that_a_library_tells_is_told():
    error = hidden(RuntimeError('I/O error: No such file or directory (os error 2) at path "/data/y"'))
    assert error is not None
    assert str(of_system(error)) == "/data/y does not exist.\ncheck its spelling."
    assert hidden(RuntimeError("another")) is None


def test_reading_does_not_wait_for_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(Exception, match=f"{path} is no regular file, but a pipe or a device."):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_write_to_a_full_disk_leaves_what_was_there_and_nothing_else(small_disk):
    write_whole(small_disk / "file", b"before")
    with pytest.raises(OSError) as error:
        write_whole(small_disk / "file", bytes(1 << 20))
    assert str(of_system(error.value)).startswith(f"{small_disk}/file cannot be written: its disk is full.")
    assert read_regular(small_disk / "file") == b"before"
    assert os.listdir(small_disk) == ["file"]


CLOSED = "Connection closed by peer [::1]:1. Check the logs."
OF_GLOO = RuntimeError(f"[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] {CLOSED}")
OF_TORCH = type("DistNetworkError", (type("DistError", (RuntimeError,), {}),), {})(CLOSED)


@pytest.mark.parametrize("error", [OF_GLOO, OF_TORCH])
def test_an_error_of_processes_that_work_together_is_no_fault_of_ours(error, capsys):
    with pytest.raises(typer.Exit) as ended, ending(None, code=2):
        raise error
    told = capsys.readouterr().err
    assert ended.value.exit_code == 1
    assert "another process of this stage ended, or is not reached: Connection closed by peer [::1]:1.\n" in told
    assert "see what that one said last" in told and "gtrturbo" not in told and "gloo" not in told
