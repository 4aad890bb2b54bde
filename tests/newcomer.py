"""Follow the pages as a newcomer would: every shell block, in order, in a fresh copy of the repository. `make newcomer` runs it.

Each page has a copy of its own, as each begins anew. Left out are comments, and lines that name what a newcomer has to bring: a
model of the hub, a GPU's command, a server, a recipe, checkpoints of their own.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/quick-start.md", "docs/stages.md")
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
BROUGHT = ("Qwen/", "mergekit.yml", "torchrun", "http://", "https://", "runs/one", "ckpts/* ", "show merged", "make test")
LEFT_OUT = {".git", ".venv", "runs", "build", ".ruff_cache", ".pytest_cache", "__pycache__"}


def blocks(page: Path) -> list[str]:
    """Take the lines that are to be typed, block by block; a line that goes on is one."""
    found = []
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        typed = [
            line for line in lines if line.strip() and not line.startswith("#") and not any(word in line for word in BROUGHT)
        ]
        found.append("\n".join(line for line in typed if not line.startswith("cd gtrturbo")))
    return [block for block in found if block]


def left_out(folder: str, names: list[str]) -> set[str]:
    """Say what is not copied: of the repository's own folder all that is no part of it, further down what is compiled."""
    return (LEFT_OUT if Path(folder) == ROOT else {"__pycache__"}) & set(names)


def follow(page: str, venv: Path) -> None:
    """Type what a page says, in one shell; the first line that fails ends it.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    with tempfile.TemporaryDirectory(prefix="gtrturbo-newcomer-") as made:
        folder = Path(made) / "gtrturbo"
        shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
        (folder / ".venv").symlink_to(venv)
        script = "\n".join(["set -euxo pipefail", 'export PATH="$PWD/.venv/bin:$PATH"', *blocks(ROOT / page)])
        environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PAGER": "cat"}
        print(f"\n{page}", flush=True)
        subprocess.run(["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=True)


def main() -> None:
    """Follow the pages that are named, or all."""
    for page in sys.argv[1:] or PAGES:
        follow(page, Path(sys.prefix))


if __name__ == "__main__":
    main()
