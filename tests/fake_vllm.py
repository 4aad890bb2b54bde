"""Stands in the place of `python -m vllm…`: serves a checkpoint as the flags say, and tells how it was started."""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

from fake_server import serving

from gtrturbo.models.checkpoint import load_policy

if __name__ == "__main__":
    flags = sys.argv[3:]
    told = {"words": sys.argv[1:3], "flags": flags, "pid": os.getpid(), "lora": os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]}
    Path(os.environ["FAKE_VLLM"]).write_text(json.dumps(told))
    given = dict(pairwise(flags))
    if "FAKE_VLLM_FAILS" in os.environ:
        sys.exit("No module named vllm")
    with serving(load_policy(Path(given["--model"]), device="cpu"), port=int(given["--port"])):
        time.sleep(600)
