"""What manifests and options alone tell is refused before torch, transformers and gymnasium's games are imported."""

import subprocess
import sys

import pytest

SAID = """
import sys
from gtrturbo.__main__ import main
try:
    main()
finally:
    print("torch" in sys.modules, "transformers" in sys.modules)
"""


def refused(*words: object) -> tuple[str, str]:
    """Run the command; return what it said, and whether torch and transformers were imported."""
    run = subprocess.run([sys.executable, "-c", SAID, *map(str, words)], capture_output=True, text=True, check=False)
    assert run.returncode in (1, 2), run.stderr
    return run.stderr, run.stdout.strip()


@pytest.fixture(params=["kind", "task", "option", "player", "scores", "check-task", "play"])
def mistake(request, tmp_path, init, turns, warm, expert):
    out = ("--out", tmp_path / "x")
    return {
        "kind": (
            ["rollout", "--checkpoint", turns, "--task", "numberline", *out],
            "holds turns (made by rollout), not checkpoint",
        ),
        "task": (["rollout", "--checkpoint", init, "--task", "nmberline", *out], "did you mean numberline?"),
        "option": (["eval", "--checkpoint", init, "--task", "numberline", "--env", "horizn=5", *out], "no option 'horizn'"),
        "player": (["ppo-step", "--checkpoint", warm, "--rollouts", expert, *out], "played by the task's expert"),
        "scores": (["ppo-step", "--checkpoint", warm, "--rollouts", turns, "--scores", turns, *out], "not scores"),
        "check-task": (["check-task", "nothing.py:TASK"], "there is no file nothing.py"),
        "play": (["play", "--task", "nmberline"], "did you mean numberline?"),
    }[request.param]


def test_a_mistake_is_told_before_anything_heavy_is_imported(mistake):
    words, sentence = mistake
    said, imported = refused(*words)
    assert sentence in said
    assert imported == "False False"


@pytest.mark.parametrize(
    ("typed", "meant"), [("tain", "run"), ("train", "run"), ("evaluate", "eval"), ("rollot", "rollout"), ("ppo", "ppo-step")]
)
def test_an_unknown_command_is_answered_with_the_one_that_is_meant(typed, meant):
    said, _ = refused(typed)
    assert f"Did you mean '{meant}'?" in said


def test_a_command_that_is_like_none_is_answered_without_a_guess():
    assert "Did you mean" not in refused("zzzz")[0]
