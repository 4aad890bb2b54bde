"""Stands in the place of `python -m vllm…`: serves a checkpoint as the flags say, and tells how it was started."""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

from fake_server import serving

from gtrturbo.models.checkpoint import load_policy


def weights_read(folder: Path) -> set[str]:
    """The files that vLLM 0.32 reads of a folder: all safetensors, or those of them that an index names."""
    index = folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else None
    return {file.name for file in folder.glob("*.safetensors") if named is None or file.name in named}


if __name__ == "__main__":
    flags = sys.argv[3:]
    told = {"words": sys.argv[1:3], "flags": flags, "pid": os.getpid(), "lora": os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]}
    told |= {"key": os.environ.get("VLLM_API_KEY"), "safe": os.environ.get("PYTHONSAFEPATH")}
    Path(os.environ["FAKE_VLLM"]).write_text(json.dumps(told))
    given = dict(pairwise(flags))
    if "FAKE_VLLM_FAILS" in os.environ:
        sys.exit(os.environ["FAKE_VLLM_FAILS"])
    if others := weights_read(Path(given["--model"])) - {"model.safetensors"}:
        sys.exit(f"ValueError: There is no module or parameter named after what {min(others)} holds")
    with serving(load_policy(Path(given["--model"]), device="cpu"), port=int(given["--port"])):
        time.sleep(600)
