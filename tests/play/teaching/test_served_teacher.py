"""A corrector on a server: what it is asked, what of its answers counts, and that nothing is paid twice or lost."""

import json
import re
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.teachers.corrector_server import Corrector, serving
from gtrturbo.cli import app
from gtrturbo.config import DistillConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_turns
from gtrturbo.play.teaching import chat, templates
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.records import Demo, read_rows
from gtrturbo.tasks.loading import load_task

TASK = load_task("numberline", ["image=tiny"])
KEY = "sk-no-file-may-hold-this-0123456789"


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(chat, "BACKOFF", (0.01, 0.02, 0.04))


@pytest.fixture
def legal(turns):
    return [turn for turn in read_turns(turns) if turn.legal]


@pytest.fixture
def wrong(legal):
    """The turns that the corrector has to correct: the student misreads the picture, or goes the wrong way."""
    return [turn for turn in legal if not (turn.perception_correct and turn.action == good_action(turn))]


def good_action(turn):
    return "+" if turn.info["Current"] < turn.info["Target"] else "-"


@pytest.fixture
def distill(turns, tmp_path):
    def run(corrector, **settings):
        given = {"out": tmp_path / "out", "rollouts": turns, "teacher": "openai:solver", "mode": "correct"}
        given["hints"] = ("truth", "expert")
        given |= {"address": corrector.url, "answers": tmp_path / "answers", "at_once": 4}
        given |= settings
        given["teacher"] = given["teacher"] and Path(given["teacher"])
        return execute(DistillConfig(**given)).out

    return run


def demos(out):
    return list(read_rows(out / "demos.jsonl", Demo))


def questions(corrector):
    """What was asked, without repairs."""
    return {json.dumps(body["messages"]) for body in corrector.requests if len(body["messages"]) == 1}


def timing(out):
    return json.loads((out / "timing.json").read_text())


def test_a_corrector_is_silent_where_the_student_is_right_and_the_students_action_is_kept(distill, legal, wrong):
    with serving(Corrector()) as corrector:
        out = distill(corrector)
    written = demos(out)
    assert 0 < len(wrong) < len(legal) and len(written) == len(wrong)
    for demo, turn in zip(written, wrong, strict=True):
        text = demo.messages[-1]["content"][0]["text"]
        reply = TASK.read(text, turn.info)
        assert reply.action == turn.action and text[slice(*demo.masked_spans[0])] == turn.action
        assert reply.fields["thoughts"] == json.loads(TASK.expert_reply(turn.info))["thoughts"]
        assert TASK.perception_correct(reply, turn.info)
        assert demo.teacher == "openai:solver"
    metrics = read_manifest(out).metrics
    assert (metrics["turns"], metrics["demos"], metrics["unparsed"]) == (len(legal), len(wrong), 0)
    assert metrics["teacher_right"] == len(legal) - len(wrong) and metrics["teacher_wrong"] == len(wrong)
    assert (metrics["teacher_verdict_agreement"], metrics["right_share"]) == (1.0, 1.0)


def test_a_question_shows_picture_reply_and_hints_and_equal_ones_are_asked_once(distill, legal):
    with serving(Corrector()) as corrector:
        out = distill(corrector)
    assert len(corrector.requests) == len(questions(corrector)) <= len(legal)
    asked = {json.dumps(body["messages"][0]["content"][1]["text"]) for body in corrector.requests}
    for body in corrector.requests:
        [message] = body["messages"]
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
        assert body.keys() == {"model", "messages", "max_tokens", "temperature", "response_format"}
    assert any(turn.reply in json.loads(text) for text in asked for turn in legal)
    metrics, spent = read_manifest(out).metrics, timing(out)
    assert metrics["teacher_calls"] == len(legal)
    # Of equal questions one was paid for, and all count its tokens: what follows from answers does not depend on who paid.
    assert spent["paid_calls"] == len(corrector.requests)


def test_without_hints_the_truth_is_not_told(distill):
    with serving(Corrector()) as corrector, pytest.raises(GtrTurboError, match="holds no hints"):
        distill(corrector, hints=())
    assert corrector.requests == [] and corrector.tries >= 1


def test_provenance_is_true(distill, tmp_path):
    with serving(Corrector()) as corrector:
        out = distill(corrector, address=corrector.url + "/v1/chat/completions")
    manifest = read_manifest(out)
    assert manifest.config["teacher"] == "openai:solver" and manifest.config["address"] == corrector.url
    assert manifest.inputs.keys() == {"rollouts"} and manifest.renderer is None
    assert manifest.plugins.keys() == {"prompt", "repair_prompt"} and manifest.plugins["prompt"]["name"] == "correct.txt"
    [about] = json.loads((out / "teacher.json").read_text())
    assert about["models"] == ["solver-2026-01-31"] and about["fingerprints"] == ["fp_solver"]
    assert about["forms"] == {"schema": about["calls"]} and about["at_its_own_temperature"] == 0
    assert about["address"] == corrector.url and about["sampling"] == {"temperature": 0.2, "max_tokens": 256}
    # Another text of the question is another artifact.
    mine = tmp_path / "mine.txt"
    mine.write_text(templates.PROMPTS.joinpath("correct.txt").read_text() + "\nBe kind.\n")
    with serving(Corrector()), pytest.raises(GtrTurboError, match=r"was made with another text of mine.txt \(--prompt"):
        distill(corrector, prompt=mine)


@pytest.mark.parametrize(
    ("style", "repairs"), [("strict", False), ("fenced", False), ("prose", True), ("truncated", True), ("refusing", True)]
)
def test_every_style_of_answer_is_read_or_repaired(distill, wrong, style, repairs):
    with serving(Corrector(style=style)) as corrector:
        out = distill(corrector)
    metrics = read_manifest(out).metrics
    assert metrics["demos"] == len(wrong) and metrics["unparsed"] == 0
    assert (metrics["teacher_repairs"] > 0) == repairs and metrics["teacher_repairs"] == metrics["teacher_repaired"]
    assert (metrics["teacher_truncated"] > 0) == (style == "truncated")
    repairing = [body for body in corrector.requests if len(body["messages"]) == 3]
    assert all("could not be read" in body["messages"][2]["content"][0]["text"] for body in repairing)


@pytest.mark.parametrize("style", ["prose", "refusing", "declining"])
def test_a_useless_corrector_ends_in_an_error_and_no_artifact(distill, tmp_path, style, legal):
    with serving(Corrector(style=style, repairs=False)) as corrector, pytest.raises(GtrTurboError) as error:
        distill(corrector)
    assert f"none of the {len(legal)} replies of teacher openai:solver could be used" in error.value.what
    assert not (tmp_path / "out").exists()
    assert len(questions(corrector)) == corrector.tries / (
        1 if style == "declining" else 2
    )  # One repair of each, not of what declines.


def test_what_a_server_says_never_steers_the_terminal(distill, turns, tmp_path):
    with serving(Corrector(style="prose", repairs=False)) as corrector:
        command = ["distill", "--rollouts", str(turns), "--teacher", "openai:solver", "--mode", "correct"]
        command += ["--hints", "truth", "--hints", "expert"]
        command += ["--address", corrector.url, "--answers", str(tmp_path / "answers"), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and "could be used" in result.output and "\x1b" not in result.output
        corrector.faults = ["400"] * 999
        result = CliRunner().invoke(app, [*command, "--temperature", "0.7"])
    assert result.exit_code == 1 and "refused the request (400)" in result.output and "\x1b" not in result.output


def test_a_rerun_pays_for_nothing(distill, tmp_path):
    with serving(Corrector(wrong=0.3)) as corrector:
        first = distill(corrector)
        calls = corrector.tries
        again = distill(corrector, out=tmp_path / "again")
        assert corrector.tries == calls
        assert (again / "stage.json").read_bytes() == (first / "stage.json").read_bytes()
        assert timing(again)["paid_calls"] == 0 < timing(first)["paid_calls"] == calls
        # A question that is another one is asked: sampling, model.
        distill(corrector, out=tmp_path / "hotter", temperature=0.9)
        assert corrector.tries == 2 * calls


def test_a_damaged_answer_is_asked_again(distill, tmp_path):
    with serving(Corrector()) as corrector:
        distill(corrector)
        calls = corrector.tries
        file = next((tmp_path / "answers").rglob("*.json"))
        file.write_bytes(file.read_bytes()[:-20])
        distill(corrector, out=tmp_path / "again")
    assert corrector.tries == calls + 1


def test_a_budget_of_calls_stops_and_goes_on(distill, tmp_path):
    with serving(Corrector()) as corrector:
        with pytest.raises(GtrTurboError, match=r"--max-calls 5 allows no further call to .*\. 5 of \d+ questions are answered"):
            distill(corrector, max_calls=5)
        assert corrector.tries == 5 and not (tmp_path / "out").exists()
        distill(corrector)
        assert corrector.tries == len(questions(corrector))


PRICES = "dated: 2026-01-31\ncurrency: USD\nmodels: {solver: {input: 2, cached: 1, output: 8, call: 0.001}}\n"


def test_a_budget_of_money_is_never_overdrawn_and_a_ledger_counts_what_was_paid_before(distill, tmp_path):
    prices, ledger = tmp_path / "prices.yaml", tmp_path / "calls.jsonl"
    prices.write_text(PRICES)
    with serving(Corrector()) as corrector:
        for _ in range(2):  # The second time nothing is left.
            with pytest.raises(GtrTurboError, match=r"and --max-cost is 0\.03"):
                distill(corrector, max_cost=0.03, prices=prices, ledger=ledger)
            asked = corrector.tries
            paid = [json.loads(line)["cost"] for line in ledger.read_text().splitlines()]
            assert 0 < len(paid) == asked and sum(paid) <= 0.03
        out = distill(corrector, prices=prices, ledger=ledger)
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(rows) == corrector.tries
    spent = timing(out)
    assert spent["paid_calls"] == len(rows) - asked and spent["paid"] == pytest.approx(
        sum(row["cost"] for row in rows[asked:]), abs=1e-6
    )
    metrics = read_manifest(out).metrics
    read, again, written = (metrics[f"teacher_{name}_tokens"] for name in ("input", "cached", "output"))
    # Money by hand: dollars per million tokens, and a tenth of a cent per call.
    expected = ((read - again) * 2 + again * 1 + written * 8) / 1e6 + metrics["teacher_calls"] * 0.001
    assert spent["cost"] == pytest.approx(expected, abs=1e-6) and spent["currency"] == "USD"
    assert spent["prices_dated"] == "2026-01-31"


@pytest.mark.parametrize("fault", ["429", "429:0", "500", "slow:3", "half", "bad", "garbled"])
def test_what_may_pass_is_waited_for_and_costs_nothing_of_the_result(distill, tmp_path, fault):
    with serving(Corrector()) as corrector:
        calm = distill(corrector)
        calls, corrector.faults = corrector.tries, [fault, "", fault]
        out = distill(corrector, out=tmp_path / "again", answers=tmp_path / "others", answer_timeout=2.0)
        assert corrector.tries == calls + calls + 2
    assert (out / "stage.json").read_bytes() == (calm / "stage.json").read_bytes()


def test_a_server_that_says_when_to_come_back_is_left_alone_by_all_until_then(distill, tmp_path):
    with serving(Corrector(faults=["429:1"])) as corrector:
        distill(corrector, at_once=1)
    assert corrector.at[1] - corrector.at[0] >= 1.0
    with (
        serving(Corrector(faults=["429:7200"])) as corrector,
        pytest.raises(GtrTurboError, match="asks to wait for 7200 seconds"),
    ):
        distill(corrector, answers=tmp_path / "others", out=tmp_path / "more")


def test_requests_at_once_are_bounded(distill):
    with serving(Corrector(seconds=0.02)) as corrector:
        distill(corrector, at_once=3)
    assert 1 < corrector.most_running <= 3


def test_after_a_server_that_died_only_what_is_missing_is_paid_for(distill, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(Corrector(faults=[""] * 9 + ["500"] * 999), port) as dying, pytest.raises(GtrTurboError, match="answered 500"):
        distill(dying, at_once=1)
    answered = len(dying.requests)
    assert answered == 9 and not (tmp_path / "out").exists()
    with pytest.raises(GtrTurboError, match="cannot be reached"):
        distill(dying)
    with serving(Corrector(), port) as risen:
        distill(risen)
    with serving(Corrector()) as calm:
        distill(calm, out=tmp_path / "calm", answers=tmp_path / "others")
    assert len(risen.requests) == risen.tries == calm.tries - answered


def test_a_server_is_sent_what_it_takes(distill):
    with serving(Corrector(no_schema=True, new_limit=True)) as corrector:
        out = distill(corrector, at_once=1)
    assert {body["response_format"]["type"] for body in corrector.requests} == {"json_object"}
    assert all("max_completion_tokens" in body and "temperature" not in body for body in corrector.requests)
    assert corrector.tries == len(corrector.requests) + 3  # Each of the three is found out once.
    [about] = json.loads((out / "teacher.json").read_text())  # What it was asked and did not take is not told as if it had.
    assert about["forms"] == {"json": about["calls"]} and about["at_its_own_temperature"] == about["calls"] > 0


@pytest.mark.parametrize("refuses", ["no_schema", "new_limit"])
def test_what_many_requests_are_refused_for_at_once_is_left_out_once(distill, refuses):
    with serving(Corrector(seconds=0.1, **{refuses: True})) as corrector:
        distill(corrector, at_once=16)
    forms = {body["response_format"]["type"] for body in corrector.requests}
    assert forms == {"json_object" if refuses == "no_schema" else "json_schema"}


def test_the_schema_is_of_the_tasks_reply(distill, tmp_path):
    with serving(Corrector()) as corrector:
        distill(corrector)
        schema = corrector.requests[0]["response_format"]["json_schema"]["schema"]
        reply = schema["properties"]["reply"]["anyOf"][0]
        assert schema["required"] == ["verdict", "reply"] and reply["properties"]["current number"] == {"type": "integer"}
        assert reply["properties"]["action"]["enum"] == ["-", "+"] and reply["additionalProperties"] is False
        with pytest.raises(GtrTurboError, match="reply-format must be one of"):
            distill(corrector, reply_format="xml")
        distill(corrector, out=tmp_path / "text", reply_format="text")
    assert "response_format" not in corrector.requests[-1]


def test_no_key_is_in_any_file_or_message(distill, tmp_path, monkeypatch, turns, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Corrector(key=KEY, echo=KEY, faults=["500", "429:0"])) as corrector:
        distill(corrector, ledger=tmp_path / "calls.jsonl")
        corrector.faults = ["400"]
        with pytest.raises(GtrTurboError) as refused:
            distill(corrector, out=tmp_path / "more", temperature=0.3, reply_format="text")
        with serving(Corrector()) as elsewhere:
            corrector.faults = [f"away:{elsewhere.url}/v1/chat/completions"] * 9
            with pytest.raises(GtrTurboError, match="sends the request on"):
                distill(corrector, out=tmp_path / "more", temperature=0.4)
            assert elsewhere.tries == 0
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key-that-is-wrong")
        with pytest.raises(
            GtrTurboError, match=r"refused the request \(401\)[^\n]*\nthe key of OPENAI_API_KEY was sent"
        ) as wrong_key:
            distill(corrector, out=tmp_path / "more", temperature=0.5)
    assert KEY not in str(refused.value) and "not now" in str(refused.value)
    assert "sk-another" not in str(wrong_key.value)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 20 and not any(KEY.encode() in file.read_bytes() for file in files)
    assert KEY not in "".join(capsys.readouterr())


def test_thoughts_of_a_model_on_a_server(distill, legal):
    with serving(Corrector()) as corrector:
        out = distill(corrector, mode="thoughts")
    assert len(demos(out)) == len(legal) and read_manifest(out).plugins["prompt"]["name"] == "thoughts.txt"
    assert not any(
        "student" in body["messages"][0]["content"][1]["text"].split("The following")[0] for body in corrector.requests
    )


def test_a_wrong_corrector_is_told(distill, legal):
    with serving(Corrector(wrong=0.5)) as corrector:
        metrics = read_manifest(distill(corrector)).metrics
    assert 0.2 < metrics["teacher_verdict_agreement"] < 0.9 and metrics["right_share"] < 0.9


KNOWING = {"teacher": None, "expert": True, "at_once": 16}  # As many as by default.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "kl", "hints": ()}, r"openai:solver gives no log-probs of the student's tokens"),
        ({"address": None}, "is on a server, and none is named"),
        ({"address": "http://me:word@127.0.0.1:9"}, "--address holds a user's name or password"),
        ({"teacher": "openai:"}, "names no model"),
        ({"max_cost": 1.0}, "--max-cost needs to know what a call costs"),
        ({"prompt": "no-such.txt"}, "no-such.txt for --prompt"),
        (KNOWING | {"address": None, "answers": None}, "--hints are not for the expert, who knows all"),
        (KNOWING, "--address is for a teacher on a server"),
        ({"teacher_weights": "1,2"}, "--teacher-weights is for several teachers"),
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_is_asked(distill, tmp_path, settings, said):
    with serving(Corrector()) as corrector, pytest.raises(GtrTurboError, match=re.escape(said) if "(" in said else said):
        settings = {name: tmp_path / value if name == "prompt" else value for name, value in settings.items()}
        distill(corrector, **settings)
    assert corrector.tries == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Correct: $replly", "asks for \\$replly, which is not known"),
        ("It costs $ 5", "holds a \\$ that begins no name"),
        ("Correct: $reply", "--hints has no place in .*mine.txt"),
    ],
)
def test_a_template_that_is_none_is_refused(distill, tmp_path, text, said):
    (tmp_path / "mine.txt").write_text(text)
    with serving(Corrector()) as corrector, pytest.raises(GtrTurboError, match=said):
        distill(corrector, prompt=tmp_path / "mine.txt")


def test_demos_of_several_teachers_in_parts(distill, legal, tmp_path):
    with serving(Corrector()) as corrector:
        out = distill(corrector, mode="thoughts", more_teachers=(Path("openai:other"),), teacher_weights="3,1")
    names = [demo.teacher for demo in demos(out)]
    assert len(names) == len(legal) and set(names) == {"openai:solver", "openai:other"}
    assert names.count("openai:solver") > 1.5 * names.count("openai:other")
    assert read_manifest(out).config["teacher"] == ["openai:solver", "openai:other"]
    assert {body["model"] for body in corrector.requests} == {"solver", "other"}
    # What each was asked, and what both were paid for together.
    about = {each["teacher"]: each for each in json.loads((out / "teacher.json").read_text())}
    for name in ("solver", "other"):
        assert about[f"openai:{name}"]["calls"] == names.count(f"openai:{name}")
    tokens = [each["tokens"] for each in about.values()]
    assert sum(each["input"] for each in tokens) == read_manifest(out).metrics["teacher_input_tokens"] > 0
    assert timing(out)["paid_calls"] == len(corrector.requests)


@pytest.mark.parametrize("more", ["openai:other", "openai:solver"])
def test_numbers_of_several_teachers_are_of_all_their_answers(distill, tmp_path, legal, more):
    both = {"more_teachers": (Path(more),)}
    with serving(Corrector(wrong=0.5)) as corrector:
        alone = read_manifest(distill(corrector)).metrics
        mixed = read_manifest(distill(corrector, out=tmp_path / "both", **both)).metrics
    assert mixed == alone and 0 < alone["teacher_verdict_agreement"] < 1 and alone["teacher_calls"] == len(legal)


def test_a_ledger_inside_an_artifact_is_refused_by_its_option(distill, turns):
    with serving(Corrector()) as corrector, pytest.raises(GtrTurboError, match="choose another --ledger"):
        distill(corrector, ledger=turns / "calls.jsonl")
    assert corrector.tries == 0


def test_a_budget_is_of_all_teachers_together(distill, tmp_path):
    both = {"more_teachers": (Path("openai:other"),)}
    with serving(Corrector()) as corrector:
        distill(corrector, **both)
        calls = corrector.tries
        with pytest.raises(GtrTurboError, match=f"--max-calls {calls - 1} allows no further"):
            distill(corrector, max_calls=calls - 1, answers=tmp_path / "others", out=tmp_path / "more", **both)
        assert corrector.tries == 2 * calls - 1


def test_two_commands_at_once_ask_once(distill, tmp_path):
    with serving(Corrector(seconds=0.01)) as corrector:
        distill(corrector, out=tmp_path / "alone", answers=tmp_path / "others")
        calls = corrector.tries
        works = [threading.Thread(target=distill, args=(corrector,), kwargs={"out": tmp_path / name}) for name in ("a", "b")]
        for work in works:
            work.start()
        for work in works:
            work.join()
    # Threads of one process share its locks, so that a few questions may meet; another process waits (see the next test).
    assert calls <= corrector.tries - calls < 2 * calls + 1
    assert (tmp_path / "a" / "stage.json").read_bytes() == (tmp_path / "b" / "stage.json").read_bytes()


def test_options_of_a_teacher_leave_other_manifests_as_they_were(turns, tmp_path):
    out = execute(DistillConfig(out=tmp_path / "out", rollouts=turns, expert=True, mode="thoughts")).out
    new = {"teacher", "address", "hints", "reply_format", "teacher_weights", "more_teachers", "answers", "prices"}
    assert not read_manifest(out).config.keys() & new and read_manifest(out).plugins == {}
    assert replace(DistillConfig(out=tmp_path, rollouts=turns), teacher="x").more_teachers == ()
