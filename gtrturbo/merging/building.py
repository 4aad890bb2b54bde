"""How the compiled loops are built, and where they are kept: in a folder that nobody but the user can write to, or nowhere.

The name of a library holds a hash of sources, flags, compiler and processor, and one of its own content, so that what is loaded
is what was built. Where the cache is no safe place, they are built anew for this process, which takes seconds, and that is said.
"""

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.inside import open_inside, remove_whole
from gtrturbo.store.own_cache import user_cache

LOOPS = ("streams.c", "mapping.c", "kernel.c", "bfloat16.c", "avx512.c", "products.c")
SOURCES = [Path(__file__).with_name(name) for name in LOOPS]
HEADERS = [Path(__file__).with_name(name) for name in ("kernel.h", "narrow.h", "eights.h", "factors.h")]
# Each operation is rounded on its own: contraction into fused multiply-adds would give other bytes than torch. The last two
# change no result here (nothing traps, and no sum is ever −0), and without them loops with choices are not vectorised.
FLAGS = (
    "-O3", "-march=native", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-Wno-psabi",
)  # fmt: skip
COMPILERS = ("cc", "gcc", "clang")
LONGEST = 600  # seconds of a build
OTHERS = stat.S_IWGRP | stat.S_IWOTH
BUILDING = "build-"


@contextmanager
def built() -> Iterator[Path]:
    """Yield the compiled library, as it was built before or built now; it need not be there after the block.

    Raises:
        GtrTurboError: there is no compiler, or it fails.
    """
    compiler = _compiler()
    name = f"kernel-{_fingerprint(compiler)}"
    try:
        folder = _cache()
        kept = _kept(folder, name) or _keep(_compile(compiler, folder), folder, name)
    except (_UnsafeError, OSError) as error:
        stderr.print(f"the merge's loops are built for this process alone: {_reason(error)}", style="yellow", soft_wrap=True)
    else:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="gtrturbo-") as own:
        yield _compile(compiler, Path(own))


class _UnsafeError(Exception):
    """Others can write to where libraries are to be kept."""


def _reason(error: Exception) -> str:
    return f"{error.filename} cannot be used ({error.strerror})." if isinstance(error, OSError) else str(error)


def _compiler() -> list[str]:
    """Return the words that the compiler is called by: those of CC, or the first that is there."""
    named = os.environ.get("CC", "").strip()
    try:
        words = shlex.split(named)
    except ValueError as error:
        raise GtrTurboError(f"CC is {named}, which is no command: {error}.") from None
    if not words:
        words = [found for name in COMPILERS if (found := shutil.which(name))][:1]
    if not words:
        raise GtrTurboError(f"no C compiler: there is none of {', '.join(COMPILERS)}.")
    if not (found := shutil.which(words[0])):
        raise GtrTurboError(f"no C compiler: CC is {named}, and there is no such program.")
    return [found, *words[1:]]


def _fingerprint(compiler: list[str]) -> str:
    """Name a build by source, flags, compiler and processor: a home folder may be shared by machines that differ."""
    cpu, program = Path("/proc/cpuinfo"), Path(compiler[0]).resolve()
    features = [line for line in cpu.read_text().splitlines() if line.startswith(("flags", "Features"))] if cpu.exists() else []
    version = [str(program), str(program.stat().st_size), str(program.stat().st_mtime_ns)]
    parts = [*(path.read_text() for path in (*HEADERS, *SOURCES)), *FLAGS, *compiler, *version, platform.machine(), *features[:1]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _cache() -> Path:
    """Return the folder that libraries are kept in, made if it is not there, once it is known to be the user's own.

    Raises:
        _UnsafeError: others can write there, or put another folder in its place.
        OSError: it cannot be made.
    """
    cache = user_cache()
    if cache is None:
        raise _UnsafeError("you have no home folder.")
    folder = cache.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise _UnsafeError(f"{folder} is no folder of your own.")
    if found.st_mode & OTHERS == stat.S_IWGRP:  # As a umask of 002 makes folders; libraries of others in it are not taken.
        folder.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IWGRP)
    elif found.st_mode & OTHERS:
        raise _UnsafeError(f"others can write to {folder}; to keep them there: chmod go-w {shlex.quote(str(folder))}")
    for above in folder.resolve().parents:
        held = above.stat()
        if held.st_uid not in (0, os.geteuid()) or (held.st_mode & stat.S_IWOTH and not held.st_mode & stat.S_ISVTX):
            raise _UnsafeError(f"others can put another folder in the place of {folder}, through {above}.")
    return folder


def _kept(folder: Path, name: str) -> Path | None:
    """Find a library whose content is what its name says; one that is not goes away."""
    for file in sorted(folder.glob(f"{name}-*.so")):
        found = file.lstat()
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS and found.st_nlink == 1
        if own and file.name == f"{name}-{_content(file)}.so":
            return file
        remove_whole(file)
    return None


def _content(file: Path) -> str:
    with open_inside(file.parent, file.name) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _keep(library: Path, folder: Path, name: str) -> Path:
    kept = folder / f"{name}-{_content(library)}.so"
    library.replace(kept)
    remove_whole(library.parent)
    return kept


def _compile(compiler: list[str], within: Path) -> Path:
    """Build the library in a new folder.

    Raises:
        GtrTurboError: the compiler fails; what it says comes along.
    """
    for left in within.glob(f"{BUILDING}*"):  # Of a process that was killed.
        if time.time() - left.lstat().st_mtime > LONGEST:
            remove_whole(left)
    folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=within))
    library = folder / "kernel.so"
    try:
        _run([*compiler, *FLAGS, "-o", str(library), *map(str, SOURCES), "-lm"])
        if library.is_symlink() or not library.is_file():
            raise GtrTurboError(f"the C compiler {shlex.join(compiler)} leaves no library.")
        library.chmod(0o700)
    except BaseException:
        remove_whole(folder)
        raise
    return library


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(words, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST)
    except OSError as error:
        raise GtrTurboError(f"the C compiler {words[0]} cannot be started: {error.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise GtrTurboError(f"the C compiler {words[0]} does not end.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines()
        first = next((line for line in said if "error" in line.lower()), said[0] if said else f"exit code {done.returncode}")
        raise GtrTurboError(f"the C compiler {words[0]} fails: {first.strip()[:300]}")
