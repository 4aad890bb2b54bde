"""A teacher of the user's own: a file that the package does not know, checked in all that it answers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import DistillConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.store.tensors import load_scores, load_turn_tokens
from gtrturbo.tasks.loading import load_task

TEACHER = f"{Path(__file__).parents[1]}/plugins/terse_teacher.py:TEACHER"
TASK = load_task("numberline", ["image=tiny"])


@pytest.fixture
def own(tmp_path, turns):
    """Distill with a teacher of a few lines."""

    def run(code: str, **settings):
        (tmp_path / "own.py").write_text("import numpy as np\n" + code)
        config = {"out": tmp_path / "out", "rollouts": turns, "teacher": tmp_path / "own.py:teach", "mode": "thoughts"}
        return execute(DistillConfig(**config | settings)).out

    return run


def demos(path) -> list[Demo]:
    return list(read_rows(path / "demos.jsonl", Demo))


def test_a_teacher_of_the_users_own_writes_demos_where_it_has_something_to_say(turns, tmp_path):
    command = ["distill", "--rollouts", str(turns), "--teacher", TEACHER, "--mode", "thoughts", "--out", str(tmp_path / "demos")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    legal = [turn for turn in read_turns(turns) if turn.legal]
    wrong = [turn for turn in legal if turn.action != ("+" if turn.info["Current"] < turn.info["Target"] else "-")]
    written = demos(tmp_path / "demos")
    assert 0 < len(written) == len(wrong) < len(legal)
    for demo, turn in zip(written, wrong, strict=True):
        reply = TASK.read(demo.messages[-1]["content"][0]["text"], {})
        assert reply.action == turn.action and "leads to" in reply.fields["thoughts"]
    manifest = read_manifest(tmp_path / "demos")
    told = {"turns": len(legal), "demos": len(wrong), "unparsed": 0, "usable_share": 1.0}
    assert {name: manifest.metrics[name] for name in told} == told
    assert {demo.teacher for demo in written} == {"terse_teacher.py:TEACHER"}
    assert manifest.inputs.keys() == {"rollouts"} and manifest.kind == "demos"
    code = Path(TEACHER.removesuffix(":TEACHER"))
    assert manifest.plugins == {"teacher": {"name": "terse_teacher.py:TEACHER", "sha256": sha256_file(code)}}


def test_a_teacher_of_the_users_own_gives_log_probs(turns, tmp_path):
    command = ["distill", "--rollouts", str(turns), "--teacher", TEACHER, "--out", str(tmp_path / "scores")]
    assert CliRunner().invoke(app, command).exit_code == 0
    rows = load_scores(tmp_path / "scores" / "scores.safetensors")
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    assert [*map(len, rows)] == [*map(len, tokens.response_ids)] and set(np.concatenate(rows)) == {np.float32(-0.5)}
    thought = np.concatenate(tokens.thought_mask)
    expected = (np.concatenate(tokens.sample_logprobs)[thought] + 0.5).mean()
    assert read_manifest(tmp_path / "scores").metrics["thought_kl_k1"] == pytest.approx(expected, abs=1e-5)


def test_a_question_holds_what_the_student_saw_said_and_knew(own, turns):
    out = own(
        """
def teach(questions):
    for question in questions:
        assert [part["type"] for part in question.messages[0]["content"]] == ["image", "text"]
        assert question.pictures[0].shape[2] == 3
        assert question.task.read(question.reply, question.info).action == question.action
    return [question.task.expert_reply(question.info) for question in questions]
"""
    )
    assert len(demos(out)) == sum(turn.legal for turn in read_turns(turns))


@pytest.mark.parametrize("mode", ["kl", "thoughts"])
def test_a_question_says_at_which_temperature_the_reply_was_sampled(own, turns, mode):
    sampled = read_manifest(turns).config["temperature"]
    answer = "np.full(len(q.response_ids), -0.5)" if mode == "kl" else "q.task.expert_reply(q.info)"
    asked = f"assert {{q.temperature for q in questions}} == {{{sampled}}} != {{1.0}}"
    own(f"def teach(questions):\n    {asked}\n    return [{answer} for q in questions]\n", mode=mode)


def test_scores_say_the_same_as_log_probs_alone_and_hold_no_likeliest_tokens(own, tmp_path):
    scores = "from gtrturbo.play.teachers import Scores\nfrom gtrturbo.store.tensors import TopLogprobs\n"
    rows = "[np.full(len(q.response_ids), -0.5) for q in questions]"
    alone = own(f"{scores}def teach(questions):\n    return Scores({rows})\n", mode="kl")
    assert set(np.concatenate(load_scores(alone / "scores.safetensors"))) == {np.float32(-0.5)}
    with pytest.raises(GtrTurboError, match="teach gives the likeliest tokens, too, which are kept of checkpoints alone"):
        own(f"{scores}def teach(questions):\n    return Scores({rows}, TopLogprobs([], [], []))\n", mode="kl", out=tmp_path / "b")


def test_what_does_not_parse_is_counted_and_asked_once(own, turns):
    legal = sum(turn.legal for turn in read_turns(turns))
    once = "assert all(question.attempt == 0 for question in questions)"
    odd = "[question.task.expert_reply(question.info) if question.row == 1 else 'no reply' for question in questions]"
    out = own(f"def teach(questions):\n    {once}\n    return {odd}\n", retries=3)
    metrics = read_manifest(out).metrics
    assert (metrics["turns"], metrics["demos"], metrics["unparsed"]) == (legal, 1, legal - 1)
    assert metrics["usable_share"] == pytest.approx(1 / legal)


def test_a_teacher_of_whose_replies_none_can_be_used_is_refused(own, turns, tmp_path):
    legal = sum(turn.legal for turn in read_turns(turns))
    with pytest.raises(
        GtrTurboError, match=f"none of the {legal} replies of teacher own.py:teach could be used. One .*'no reply'"
    ):
        own("def teach(questions):\n    return ['no reply'] * len(questions)\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "settings", "said"),
    [
        ("[None] * (len(questions) - 1)", {}, r"was asked \d+ questions and gives \d+ answers"),
        ("[7] * len(questions)", {}, "replies to question 0 with int"),
        ("1 / 0", {}, r"own.py line 3 raises ZeroDivisionError: division by zero\n.*return 1 / 0"),
        ("[q.response_ids[1:] * -1.0 for q in questions]", {"mode": "kl"}, r"of shape \[\d+\] for question 0, whose reply has"),
        ("[np.full(len(q.response_ids), np.nan) for q in questions]", {"mode": "kl"}, "gives nan for a token of question 0"),
        ("[np.full(len(q.response_ids), 0.5) for q in questions]", {"mode": "kl"}, "gives 0.5 for a token of question 0"),
        ("[['a'] * len(q.response_ids) for q in questions]", {"mode": "kl"}, "gives <U1 of shape"),
        ("[]", {"mode": "kl", "top_logprobs": 4}, "--top-logprobs is for checkpoints that teach"),
    ],
)
def test_what_a_teacher_answers_is_checked(own, body, settings, said, tmp_path):
    with pytest.raises(GtrTurboError, match=said):
        own(f"def teach(questions):\n    return {body}\n", **settings)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_cannot_do_what_the_mode_needs_says_what_it_can(own):
    code = "from gtrturbo.play.teachers import Teacher\nteach = Teacher(thoughts=len)\n"
    with pytest.raises(GtrTurboError, match=r"gives no logprobs\.\nit gives: thoughts\."):
        own(code, mode="kl")
    with pytest.raises(GtrTurboError, match="is no teacher: it is int"):
        own("teach = 3\n")


def test_a_mode_of_the_users_own_says_what_it_writes(own, tmp_path, warm):
    code = """
from gtrturbo.play.teachers import Mode
def write(teacher, questions):
    return [text and text.replace("  ", " ") for text in teacher.thoughts(questions)]
MODE = Mode(writes="demos", needs="thoughts", annotate=write)
"""
    out = own(code, teacher=None, expert=True, mode=f"{tmp_path}/own.py:MODE")
    assert read_manifest(out).kind == "demos" and demos(out)
    with pytest.raises(GtrTurboError, match="is no mode: it is function"):
        own(code, out=tmp_path / "x", teacher=None, expert=True, mode=f"{tmp_path}/own.py:write")


def test_an_unknown_mode_lists_those_that_there_are(own):
    with pytest.raises(GtrTurboError, match=r"there is no mode 'thought'\.\ndid you mean thoughts\?"):
        own("teach = len\n", mode="thought")


def test_the_task_of_turns_is_loaded_as_outside_code_only_if_it_is_named(own, turns, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(turns, theirs)
    manifest = (theirs / "stage.json").read_text()
    (theirs / "stage.json").write_text(manifest.replace('"task": "numberline"', '"task": "maze.py:TASK"'))
    with pytest.raises(GtrTurboError, match=r"was played on maze.py:TASK, code of your own.*\nadd: --task path/to/maze.py:TASK"):
        own("def teach(questions):\n    return [None for _ in questions]\n", rollouts=theirs)
    with pytest.raises(GtrTurboError, match=r"was played on maze.py:TASK, not numberline"):
        own("def teach(questions):\n    return [None for _ in questions]\n", rollouts=theirs, task="numberline")
