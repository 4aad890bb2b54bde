"""A plan as shell: a printed line says the whole step."""

from dataclasses import replace
from pathlib import Path

import pytest
from parsed import parsed
from small_runs import ASKED, run_config
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.runs.plan import plan
from gtrturbo.runs.script import command

ODD = (  # Values whose text a shell, or an option parser, could misread.
    "ppo-step.format-invalid=-2",
    "ppo-step.learning-rate=1.23456789e-05",
    "ppo-step.detach-value=false",
    "eval.temperature=0",
    "merge.include=model.layers.*",
    "rollout.env=a=b 'c",
    "adapter.lora-target=q_proj",
    "adapter.lora-target=v proj",
    "sft.dtype=bfloat16",
)


@pytest.mark.parametrize("odd", [(), ODD], ids=["plain", "odd values"])
@pytest.mark.parametrize("name", ASKED)
def test_a_printed_line_says_the_whole_step(name, odd):
    asked = run_config(**ASKED[name], out=Path("a run/$HOME"), overwrite=bool(odd), lora_rank=len(odd))
    stages = {"adapter", *(step.stage for step in plan(asked))}
    steps = plan(replace(asked, set=tuple(setting for setting in odd if setting.partition(".")[0] in stages)))
    for step in steps:
        assert parsed(command(step)) == step.config


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "--out", "r", "--method", "turbo-kl", "--iterations", "2", "--dry-run"])
    assert (result.exit_code, result.stderr) == (0, "")
    head, options, *lines = [line for line in result.stdout.splitlines() if not line.startswith("# ")]
    assert (head, options) == ("#!/usr/bin/env bash", "set -euo pipefail")
    assert [parsed(line) for line in lines] == [step.config for step in plan(run_config())]
    assert list(tmp_path.iterdir()) == []
