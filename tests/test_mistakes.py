"""Mistakes that a newcomer makes: each is answered with what is wrong and what mends it, before any work, without a traceback."""

import shutil

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from gtrturbo.cli import app

ANEW = ("init", "sft x --checkpoint x", "ppo-step --checkpoint x --rollouts x", "merge x y")
MISTAKES = {
    # What is typed: what is said of it.
    "tain --task numberline": "Did you mean 'run'?",
    "run --lr 1e-3 --out r": "--set sft.learning-rate=… or --set ppo-step.learning-rate=…",
    "run --batch-size 32 --out r": "--set ppo-step.minibatch-size=…",
    "ppo-step --lr 1e-3": "It is given as --learning-rate",
    "sft --data expert --out s": "It is given as DATA, without a name before",
    "run": "missing: --out. add: --out PATH",
    "eval --checkpoint WARM --out e": "missing: --task.",
    "run --out r --task nmberline": "did you mean numberline?",
    "run --out r --method turbo": "did you mean turbo-kl or turbo-sft or turbo-loss?",
    "run --out r --episodes many": "episodes must be a whole number, got 'many'.",
    "run --out r --episodes -5": "episodes must be in [1, 1000000000], got -5.",
    "run --out r --set learning-rate=1e-3": "learning-rate",
    "run --out r --set ppo-step.lr=1e-3": "did you mean ppo-step.learning-rate?",
    "run --out r --set ppo-step.kl-coef=3 --method ppo": "--kl-coef has no part in an update without --scores.",
    "run --out r --method ppo --teacher WARM": "leave out --teacher, or use --method gtr",
    "run --out r --method opd": "add: --teacher CHECKPOINT",
    "run --out r --model tniy": "did you mean tiny?",
    "run --out r --model Qwen/Qwen2.5-VL-7B-Instruct": "was not fetched before, and the hub is not reached.",
    "run --config none.yaml": "none.yaml does not exist.",
    "init --model tiny --out MINE": "exists and is no artifact of gtrturbo.",
    "rollout --out r --task numberline --checkpoint nothing": "nothing does not exist.",
    "rollout --out r --task numberline --env horizn=5 --checkpoint WARM": "has no option 'horizn'",
    "rollout --out r --task gym:CartPol-v1 --checkpoint WARM": "the closest are: CartPole-v1",
    "rollout --out r --task my_task.py --checkpoint WARM": "my_task.py is a file, and a task is something in it.",
    "eval --out e --task numberline --checkpoint TURNS": "holds turns (made by rollout), not checkpoint.",
    "ppo-step --out c --checkpoint WARM --rollouts EXPERT": "were played by the task's expert",
    "ppo-step --out c --checkpoint WARM --rollouts TURNS --kl-placement loss": "--kl-placement has no part",
    "ppo-step --out c --checkpoint WARM --rollouts TURNS --scores TURNS": "not scores",
    "distill --out g --rollouts TURNS": "distill needs either --teacher or --expert.",
    "distill --out g --rollouts TURNS --expert --mode kl": "use --mode thoughts with --expert, or give --teacher.",
    "merge --out m": "name checkpoints, or --base CHECKPOINT.",
    "merge --out m ckpts/*": "the shell left its * as it is.",
    "merge --out m --method tie WARM": "did you mean ties?",
    "merge --out m --density 80 WARM": "density must be in (0, 1], got 80.",
    "merge --out WARM --base WARM WARM": "--out",
    "compare WARM": "which says how the run was made. name the folders that gtrturbo run wrote.",
    "compare runs": "it holds 2 runs. name those that are meant: runs/a runs/b",
    "compare runs/a/evals": "it is a part of a run. name the run: runs/a",
    "report runs/a/run.json": "is a file, and the folder of a run is meant. name the run: runs/a",
    "report notes.txt": "is a file, and the folder of a run is meant. name the folders that gtrturbo run wrote.",
    "run --out /proc/x": "nothing can be made in /proc. name another place.",
    "init --out /proc/x/y": "nothing can be made in /proc. name another place.",
    "export nothere --to trl --out q": "nothere does not exist. check its spelling.",
    "sft --out x --checkpoint WARM turns/7": "turns/7 does not exist. did you mean turns/0007?",
    "sft --out x --checkpoint WARM turns/9x": "turns/9x does not exist. there are: turns/0007",
    "check-task nofile.py": "there is no file nofile.py to take a task from. check its spelling.",
    "play --task my_taks.py": "there is no file my_taks.py to take a task from. beside it: my_task.py.",
    "show nothing": "name the folder of an artifact or of a run.",
    "report RUN --out NOTES": "exists and is no page that report wrote.",
    "export TURNS --to trll --out x": "to must be one of hf, trl, trl-preference, atif, parquet, got trll.",
    "push WARM name": "write it as ORG/NAME",
    "play --task blackjac": "did you mean blackjack?",
    "check-task nothing.py:TASK": "there is no file nothing.py",
}


@pytest.fixture
def places(tmp_path, monkeypatch, warm, turns, expert):
    """What the words in capitals stand for, and a folder of one's own to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    (tmp_path / "notes.txt").write_text("…")
    (tmp_path / "my_task.py").write_text("TASK = None\n")
    (tmp_path / "run").mkdir()
    for name in "ab":
        make_run(tmp_path / "runs" / name, "ppo", 0, {0: [1, 0]})
    shutil.copytree(turns, tmp_path / "turns" / "0007")
    return {"WARM": warm, "TURNS": turns, "EXPERT": expert, "MINE": "mine", "NOTES": "notes.txt", "RUN": "run"}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_told_with_its_mend_and_leaves_nothing(places, typed, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, [str(places.get(word, word)) for word in typed.split()])
    told = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), result.output
    assert MISTAKES[typed] in told
    assert "Traceback" not in told and len(told) < 1000
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("typed", "on"),
    [
        ("check-task numberline", ""),
        ("rollout --expert --task numberline --out x", "; the same command goes on from what was finished"),
        ("eval --checkpoint x --task numberline --out x", "; the same command goes on from what was finished"),
        ("distill --rollouts x --teacher x --out x", "; the same command goes on from what was finished"),
        ("run --task numberline --out x", "; the same command goes on from what was finished"),
        *((f"{stage} --out x", "; nothing of this stage is kept yet, which the same command begins anew") for stage in ANEW),
    ],
)
def test_only_what_keeps_something_is_said_to_go_on(monkeypatch, typed, on):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gtrturbo.tasks.loading.load_task", interrupt)
    monkeypatch.setattr("gtrturbo.cli.execute", interrupt)
    result = CliRunner().invoke(app, typed.split())
    assert result.exit_code == 130
    assert result.stderr == f"interrupted by SIGINT{on}.\n"
