"""A few cases of each kind of the campaign, drawn anew with each version of the list; `make campaign` runs thousands."""

import json
import os
import subprocess
import sys
from pathlib import Path

NAMES = [
    "kills/rollout/",
    "kills/distill-scores/",
    "mutations/turns",
    "options/eval",
    "options/ppo-step",
    "server/chat",
    "server/wires",
]
EACH = 9


def test_a_sample_of_the_campaign_finds_no_fault(tmp_path, init, expert, warm, turns, scores):
    there = {"init": init, "expert": expert, "warm": warm, "turns": turns, "scores": scores}
    given = [word for name, folder in there.items() for word in ("--have", f"{name}={folder}")]
    tests = Path(__file__).parents[1]
    campaign = subprocess.run(
        [sys.executable, "-m", "campaign", "--sample", str(EACH), "--out", tmp_path, *given, *NAMES],
        env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
    kinds = {result["name"].split("/")[0] for result in results}
    assert len(results) == 4 * EACH and kinds == {"kills", "mutations", "options", "server"}
