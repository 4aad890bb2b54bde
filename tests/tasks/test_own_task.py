"""A task that a user brings in a file: it is found, checked, played, trained on, and refused in plain words."""

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path

import own_tasks
import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import CheckTaskConfig, EvalConfig, InitConfig, RolloutConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.play.token_checks import tokens
from gtrturbo.runs.check_task import check_task, checks, renderer_of
from gtrturbo.runs.plan import plan
from gtrturbo.stages import execute
from gtrturbo.tasks.loading import load_task

ROOT = Path(__file__).parent.parent.parent
FILE = Path(own_tasks.__file__)
LAKE = ROOT / "examples" / "custom_task" / "frozen_lake.py"


def named(name: str) -> str:
    return f"{FILE}:{name}"


def gtrturbo_(*words: object, typed: str | None = None):
    return CliRunner().invoke(app, [str(word) for word in words], input=typed)


def verdicts(output: str) -> dict[str, str]:
    """Read the table of checks: by name the verdict."""
    return {line[8:26].strip(): line[:8].strip() for line in output.splitlines() if line[:1] not in ("", " ")}


def code_lines(text: str) -> int:
    """Count the lines that are neither blank, nor a comment, nor of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and at not in documented for at, line in lines)


def test_options_may_be_numbers_of_a_few_and_need_not_say_anything():
    assert load_task(named("SIZED")).options == {"size": 4, "limit": None}
    task = load_task(named("SIZED"), ["size=8", "limit=5"])
    assert task.make().length == 8 and task.max_turns == 5
    with pytest.raises(GtrTurboError, match="size must be 4 or 8, got '5'"):
        load_task(named("SIZED"), ["size=5"])


def test_the_example_has_at_most_forty_lines_of_code():
    assert code_lines('"""Doc."""\n\n# why\nx = 1\n\n\ndef f():\n    """Doc.\n\n    More.\n    """\n    return x\n') == 3
    assert 20 < code_lines(LAKE.read_text(encoding="utf-8")) <= 40


@pytest.mark.parametrize("name", ["WALK", "TAGS", "PAIRS", "DOORS", "LONG", "ALONE", "MUTE", "SHOUTS", "WHY"])
def test_a_sound_task_passes_every_check(name):
    result = gtrturbo_("check-task", named(name))
    assert result.exit_code == 0, result.output
    assert {"environment", "seeding", "spans", "tokens", "lengths", "success"} <= verdicts(result.stdout).keys()


def test_the_checks_count_what_was_played():
    said = {check.name: check.said for check in checks(own_tasks.WALK)[0]}
    assert said["prompts"] == "pictures in each: 1, of 28 × 28 pixels."
    assert said["known"] == "is JSON: place, won."
    assert said["starts"] == "24 seeds begin in 3 different ways."
    assert said["success"].startswith("the expert wins 1.00 of 8; by chance 0.")
    assert "1.00 with always one action" in said["success"]


def test_every_action_of_every_state_is_tried():
    # Of the three places where an episode may stand, the first allows one action and the other two three each; the expert and
    # the random expert both write a reply: 2 · (1 + 3 + 3).
    said = {check.name: check.said for check in checks(own_tasks.DOORS)[0]}
    assert said["spans"] == "the parser finds the characters of every allowed action, 14 tried."


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("DARK", "episodes", "the environment draws NoneType: neither is a picture of bytes"),
        ("SECRET", "environment", "holds env, a Corridor, which is no JSON"),
        ("ENDLESS", "endings", "set max_turns"),
        ("TWICE", "episodes", "1 image parts, and it names 2 pictures"),
        ("LIAR", "perception", "is not what truth says"),
        ("MISREAD", "expert's replies", "its action is none of back, on"),
        ("HOPELESS", "success", "mend the expert"),
        ("SHIFTED", "spans", "the parser finds"),
        ("FAR", "episodes", "not inside its"),
        ("LATE", "tokens", "holds the thoughts' end and the action's beginning"),
        ("MARK", "tokens", "holds characters of the thought and of the action's value"),
        ("UNSEEDED", "seeding", "draw from env.np_random alone"),
        ("CUTTING", "endings", "just at the limit"),
    ],
)
def test_what_is_wrong_is_one_check_that_failed_and_says_what_mends_it(name, check, words):
    result = gtrturbo_("check-task", named(name))
    assert result.exit_code == 1
    table = verdicts(result.stdout)
    assert table[check] == "FAILED"
    assert words in " ".join(result.stdout.split())
    assert f"{check}" in result.stderr and len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("check-task", named("NOT_A_TASK")), 1, "is a dict, not a Task."),
        (("check-task", named("NOTHING")), 1, "has no NOTHING to be a task."),
        (("check-task", named("LONG"), "--env", "size=3"), 1, "its options are: length, way, shy."),
        (("check-task", named("LONG"), "--env", "way=up"), 1, "way must be right or left, got 'up'."),
        (("check-task", named("WALK"), "--env", "length=3"), 1, "its options are: none."),
        (("check-task", named("WALK"), "--model", "nowhere"), 1, "tokens"),
        (("play", "--task", named("ALONE"), "--expert"), 1, "alone has no expert."),
        (("rollout", "--expert", "--task", named("SECRET"), "--out", "x"), 1, "which is no JSON."),
        (("rollout", "--expert", "--task", named("DARK"), "--out", "x"), 1, "neither is a picture of bytes"),
        (("rollout", "--expert", "--task", named("FAR"), "--out", "x"), 1, "not inside its"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(tmp_path, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    result = gtrturbo_(*words)
    assert result.exit_code == code
    assert told in result.stderr and len(result.stderr.splitlines()) <= 2


@pytest.mark.parametrize("words", [("check-task",), ("play", "--task"), ("rollout", "--expert", "--out", "x", "--task")])
def test_an_error_of_a_prompt_is_shown_by_the_users_own_line(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = gtrturbo_(*words, named("RAISES"))
    assert result.exit_code == 1
    code = "return ask(f\"{view.info['nowhere']}\")"
    line = FILE.read_text(encoding="utf-8").splitlines().index("    " + code) + 1
    assert result.stderr.splitlines() == [f"{FILE} line {line} raises KeyError: 'nowhere'", code]


def test_options_are_the_keywords_of_the_function_that_makes_the_task():
    task = load_task(named("LONG"), ["length=6", "way=left", "shy=true"])
    assert task.options == {"length": 6, "way": "left", "shy": True}
    assert task.name == "walk left" and task.max_turns == 12 and task.make().length == 6


def test_the_tokens_of_a_reply_are_told_apart_by_its_characters():
    # In "<answer>on" the tokenizer makes one token of ">on", which is no thought as long as the part begins before it.
    _, episodes = checks(own_tasks.TAGS)
    renderer, _ = renderer_of(CheckTaskConfig(task=named("TAGS")), own_tasks.TAGS)
    assert tokens(own_tasks.TAGS, episodes, renderer).passed
    late = tokens(own_tasks.LATE, episodes, renderer)
    assert late.passed is False and "'>" in late.said


@pytest.mark.parametrize("name", ["TAGS", "PAIRS", "DOORS"])
def test_expert_and_model_play_it_and_are_evaluated(tmp_path, name):
    task = named(name)
    played = execute(RolloutConfig(out=tmp_path / "expert", task=task, expert=True, episodes=4))
    assert played.metrics["success_rate"] == 1 and played.metrics["illegal_rate"] == 0
    born = execute(InitConfig(out=tmp_path / "init", task=task)).out
    turns = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=born, task=task, episodes=3, max_new_tokens=8)).out
    assert {turn.executed for turn in read_turns(turns)} <= {"back", "on", "stay"}
    judged = execute(EvalConfig(out=tmp_path / "eval", checkpoint=born, task=task, episodes=3, max_new_tokens=8))
    assert judged.metrics["chance_constant"] == 1  # Always on.
    # The prompt is no part of what is wrong with an untrained model's reply.
    assert judged.metrics["illegal_rate"] == 1


def test_a_prompt_sees_the_turns_before(tmp_path):
    turns = read_turns(execute(RolloutConfig(out=tmp_path / "a", task=named("PAIRS"), expert=True, episodes=6)).out)
    for before, turn in itertools.pairwise(turns):
        if before.episode == turn.episode:
            assert turn.images[0] == before.images[1]
            assert turn.messages[0]["content"][-1]["text"].endswith(": " + ", ".join(["on"] * turn.turn))


def test_play_shows_the_state_and_takes_numbers_texts_and_replies(tmp_path):
    first = '{"place": 0, "thoughts": "", "action": "back"}'
    result = gtrturbo_("play", "--task", named("WALK"), "--out", tmp_path, "--expert", typed=f"up\n{first}\n0\n1\non\non\non\n")
    assert result.exit_code == 0, result.output
    assert "user: go back or on" in result.stdout and "actions: 0 back  1 on" in result.stdout
    assert 'expert: {"place": ' in result.stdout and "'up' is neither an action nor a reply" in result.stdout
    assert "won, return 1." in result.stdout
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == result.stdout.count("\nturn ") and str(pictures[0]) in result.stdout


@pytest.mark.parametrize("typed", ["", "on\nq\n", "on\n"])
def test_play_ends_politely(tmp_path, typed):
    result = gtrturbo_("play", "--task", named("WALK"), "--seed", "5", "--out", tmp_path, typed=typed)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.endswith(f"left after {typed.count('on')} turns, return 0.\n") or "won, return 1." in result.stdout


def test_play_writes_no_picture_over_another_or_into_an_artifact(tmp_path):
    for _ in range(2):
        gtrturbo_("play", "--task", named("WALK"), "--out", tmp_path / "a", typed="q\n")
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == ["picture-0000.png", "picture-0001.png"]
    played = execute(RolloutConfig(out=tmp_path / "b", task=named("WALK"), expert=True, episodes=1)).out
    result = gtrturbo_("play", "--task", named("WALK"), "--out", played, typed="q\n")
    assert result.exit_code == 1 and "lies in the artifact" in result.stderr


def test_play_shows_the_episode_that_a_rollout_plays_first(tmp_path):
    played = execute(RolloutConfig(out=tmp_path / "b", task=named("WALK"), expert=True, episodes=1, seed=3)).out
    result = gtrturbo_("play", "--task", named("WALK"), "--seed", 3, "--out", tmp_path / "a", typed="q\n")
    assert f"known: {read_turns(played)[0].info}" in result.stdout


def test_an_action_of_a_task_with_a_parser_of_its_own_is_put_into_the_experts_reply(tmp_path):
    result = gtrturbo_("play", "--task", named("TAGS"), "--out", tmp_path, typed="back\nq\n")
    assert "back: reward 0" in result.stdout
    result = gtrturbo_(
        "play", "--task", named("MUTE"), "--out", tmp_path, typed="back\n<think></think><answer>back</answer>\nq\n"
    )
    assert "type a whole reply" in result.stdout and "back: reward 0" in result.stdout


def test_the_example_is_checked_from_the_command_line():
    words = [sys.executable, "-m", "gtrturbo", "check-task", f"{LAKE}:TASK", "--model", "small", "--env", "horizon=10"]
    environment = os.environ | {"SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts(done.stdout).values()) == {"passed", "-"}
    assert "the limit is 10 turns" in done.stdout and "nothing is missing" in done.stdout


def test_the_example_reads_its_options():
    task = load_task(f"{LAKE}:TASK", ["map_name=8x8", "slippery=true", "horizon=40"])
    assert task.options == {"map_name": "8x8", "slippery": True, "horizon": 40}
    info = task.know(env := task.make(), *env.reset(seed=0))
    assert len(info["lake"]) == 8 and info["row"] == info["column"] == 0
    with pytest.raises(GtrTurboError, match="4x4 or 8x8"):
        load_task(f"{LAKE}:TASK", ["map_name=5x5"])


def test_a_task_without_an_expert_begins_with_play_by_chance(tmp_path):
    asked = RolloutConfig(out=tmp_path / "a", task=named("ALONE"), expert=True, random_expert_share=1.0, episodes=9)
    turns = read_turns(execute(asked).out)
    assert {turn.reply for turn in turns} == {f'{{"thoughts": "try {way}", "action": "{way}"}}' for way in ("back", "on")}


def test_a_run_of_small_warms_up_mostly_on_chance_and_evaluates_with_samples(tmp_path):
    planned = plan(RunConfig(out=tmp_path, model="small", task=f"{LAKE}:TASK", method="ppo"))
    steps = {step.stage: step.config for step in planned}
    expert = next(step.config for step in planned if step.stage == "rollout")
    assert expert.expert and expert.random_expert_share == 0.8 and expert.env == ()
    assert (steps["init"].model, steps["init"].task) == ("small", f"{LAKE}:TASK")
    assert (steps["sft"].steps, steps["sft"].warmup_steps, steps["sft"].learning_rate) == (1400, 100, 2e-3)
    assert steps["eval"].temperature == steps["rollout"].temperature == 0.6
    assert steps["ppo-step"].gamma == 1 and steps["ppo-step"].minibatch_size == 256 and steps["ppo-step"].detach_value


def test_the_tokenizer_may_be_a_checkpoints(init):
    result = gtrturbo_("check-task", named("WALK"), "--model", init)
    assert result.exit_code == 0, result.output
    assert verdicts(result.stdout)["tokens"] == verdicts(result.stdout)["lengths"] == "passed"


def test_what_was_seen_fits_the_width_that_is_said(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    check_task(CheckTaskConfig(task="numberline"))
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= 72 and any(line.startswith(" " * 26) for line in told)
