"""Ways to die: at the n-th file operation, in the middle of a write, or of a full disk. Each is set up in the child itself.

Operations are what Python's audit events tell, and what they do not (fsync, writes by offset, safetensors' own files).
"""

import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

AUDITED = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "os.utime",
    "fcntl.flock",
    "os.chown", "shutil.copyfile", "shutil.rmtree", "shutil.move", "tempfile.mkdtemp", "tempfile.mkstemp",
}  # fmt: skip
UNAUDITED = {
    "os": ("fsync", "write", "pwrite", "posix_fallocate", "ftruncate", "copy_file_range", "sendfile"),
    "safetensors.torch": ("serialize_file",),
    "safetensors.numpy": ("serialize_file",),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Operations:
    """Counts the file operations of this process below `root`; at number `at` it does what `act` says."""

    def __init__(self, root: Path, at: int, act: Callable[[], None]) -> None:
        self.root, self.at, self.act, self.count = f"{root}/", at, act, 0

    def install(self) -> None:
        for module, names in UNAUDITED.items():
            loaded = importlib.import_module(module)
            for name in names:
                setattr(loaded, name, self._counting(name, getattr(loaded, name)))
        sys.addaudithook(self._audit)

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            if name == "serialize_file" or self._is_ours(given[0] if given else None):
                self._step()
            return function(*given, **named)

        return counted

    def _is_ours(self, descriptor: Any) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{int(descriptor)}").startswith(self.root)
        except (OSError, TypeError, ValueError):
            return False

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if (event == "open" and self._opens_to_write(given)) or event in AUDITED:
            self._step()

    def _opens_to_write(self, given: tuple[Any, ...]) -> bool:
        path, _, flags = given
        if not isinstance(path, str | bytes | os.PathLike) or not isinstance(flags, int) or not flags & WRITES:
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.act()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def at_operation(root: Path, number: int, act: Callable[[], None] = die) -> Callable[[], None]:
    """Die before the n-th operation, counted from 1."""
    return lambda: Operations(root, number, act).install()


def counting(root: Path, told: Path) -> Callable[[], None]:
    """Count all operations and write their number to `told` when the process ends."""

    def install() -> None:
        import atexit

        operations = Operations(root, 0, die)
        operations.install()
        atexit.register(lambda: told.write_text(str(operations.count)))

    return install


def torn(size: int) -> Callable[[], None]:
    """Die when a file would grow beyond a size: the kernel writes up to there, and kills."""

    def install() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    return install


def full(size: int) -> Callable[[], None]:
    """Let every write beyond a size of a file fail, as on a disk that is full."""

    def install() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return install
