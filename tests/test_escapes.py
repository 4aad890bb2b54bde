"""What reaches a terminal, a page or a spreadsheet: texts of others, which steer none of them."""

import ast
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import make_run
from rich import box
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

import gtrturbo
from gtrturbo.cli import app
from gtrturbo.config import RolloutConfig
from gtrturbo.console import PlainConsole, progress_bar
from gtrturbo.distributed.escapes import complain, one_line, say, shell_word, visible, write_in_any_encoding
from gtrturbo.report.page import details, listing, page, paragraph, section, table
from gtrturbo.runs.plan import Step
from gtrturbo.runs.script import command
from gtrturbo.show.comparison import csv_cell
from gtrturbo.show.text import stdout

STEERING = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x9d0;x\x9c", "a\rb",
    "a\bb", "\x00", "\x7f", "\u202eevil", "\u2066x", "\u200fx", "\u061cx", "\u2028x", "\u2029x", "\ufeffx", "\U000e0041x",
    "\udc80", "\tx", "\x0c",
]  # fmt: skip
HARMLESS = ["grün", "日本語", "👩\u200d🔬", "می\u200cخواهم", "a b", "[bold]", ":smile:", "−1 × σ"]


def steers(text: str) -> bool:
    """Tell, by the ranges of the standards, whether a text could steer: C0, DEL, C1, marks and overrides of direction, halves."""
    odd = [*range(0x0A), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F)]
    odd += [*range(0x2060, 0x2070), 0xFEFF, *range(0xD800, 0xE000), *range(0xE0000, 0xE0080)]
    return any(ord(character) in odd for character in text)


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_a_terminal_is_replaced_one_for_one(text):
    assert steers(text) and not steers(visible(text)) and len(visible(text)) == len(text)
    assert not steers(one_line(text + "\n" + text)) and "\n" not in one_line(text + "\n" + text)


@pytest.mark.parametrize("text", HARMLESS)
def test_letters_of_all_languages_stay(text):
    assert visible(text) == text


@pytest.mark.parametrize("text", STEERING)
def test_nothing_that_is_printed_steers(capfd, text):
    say(text)
    complain(text)
    for console in (PlainConsole(file=sys.stdout), PlainConsole(file=sys.stdout, force_terminal=True, color_system=None)):
        console.print(text, soft_wrap=True)
        grid = Table(text, title=text, caption=text)
        grid.add_row(text, Text(text))
        console.print(grid)
    out, err = capfd.readouterr()
    assert not steers(out) and not steers(err) and out and err


@pytest.mark.parametrize("text", ["[/red]", "[bold", "[link=http://x]y[/link]", "[red]x[/red]", ":boom:", "[@click=x]"])
def test_markup_in_a_name_is_text(capfd, text):
    console = PlainConsole(file=sys.stdout, force_terminal=True, color_system="truecolor")
    console.print(text, soft_wrap=True)
    console.print(Table(text, title=text))
    with progress_bar(text, 2) as bar:
        bar.advance(1, note=text)
    assert capfd.readouterr().out.count(text) >= 2


def test_our_own_styles_stay():
    console = PlainConsole(force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(Text("a\x1bb", "red"))
    assert captured.get() == "\x1b[31ma\u241bb\x1b[0m\n"


@pytest.mark.parametrize("text", ["x\x1b]0;t\x07y", "x\u202ey", "x\ny", "[/red]", "x\udc80y"])
@pytest.mark.parametrize(
    "words",
    [["show"], ["show", "--check"], ["report", "--samples"], ["eval", "--checkpoint"], ["compare"], ["--"], ["rollout", "--"]],
)
def test_what_is_typed_reaches_stderr_escaped(tmp_path, text, words):
    result = CliRunner().invoke(app, [*words, f"{tmp_path}/{text}", "--out", text, f"--{text}"])
    assert result.exit_code in (1, 2) and result.stderr and not steers(result.output)
    assert not isinstance(result.exception, UnicodeError | ValueError)


def test_a_name_with_a_line_break_forges_no_line(tmp_path):
    result = CliRunner().invoke(app, ["show", f"{tmp_path}/x\nrun: rm -rf ~"])
    assert [line for line in result.stderr.splitlines() if line.startswith("run:")] == []


def test_warnings_and_logs_of_others_are_one_line_each_that_steers_nothing(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import logging, warnings\n"
        "warnings.warn('a\\x1b[31m\\nforged: line')\n"
        "logging.getLogger('theirs').warning('b\\x1b]0;title\\x07\\nforged: line')\n"
    )
    words = [sys.executable, "-m", "gtrturbo", "check-task", f"{tmp_path}/loud.py:MISSING"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "MISSING" in lines[-2]
    assert lines[:2] == ["UserWarning: a␛[31m␊forged: line", "b␛]0;title␇␊forged: line"]
    assert not any(map(steers, lines))


def test_a_word_is_shown_and_run_as_the_same_bytes():
    for word in (*STEERING, *HARMLESS, "it's", "a\\b\x1b'", "x\ny", "$(touch x)\x1b", ""):
        if "\0" not in word:
            quoted = shell_word(word)
            assert not steers(quoted) and "\n" not in quoted
            run = subprocess.run(["bash", "-c", f"printf %s {quoted}"], check=True, capture_output=True)
            assert run.stdout == word.encode(errors="surrogateescape")


def test_a_remake_command_is_shown_as_it_is_run():
    config = RolloutConfig(out=Path("a b/\x1b[2J\u202e"), expert=True, task="numberline")
    line = command(Step("rollout", config))
    assert not steers(line) and "$'a b/\\x1b[2J\\xe2\\x80\\xae'" in line
    plain = RolloutConfig(out=Path("a b"), expert=True, task="numberline")
    assert shlex.split(command(Step("rollout", plain)))[2:] == ["--out", "a b", "--task", "numberline", "--expert"]


@pytest.mark.parametrize("text", [*STEERING, "<script>alert(1)</script>", '"><img src=x onerror=y>', "' onclick='x", "&lt;"])
def test_a_page_holds_texts_as_texts(text):
    parts = [paragraph(text), listing([text]), table(text, [text], [[text, text]]), details(text)]
    drawn = page(text, [section(text, *parts)])
    assert not steers(drawn) and drawn.encode()
    for odd in ("<script", "<img", "' onclick"):
        assert odd not in drawn.partition("</style>")[2]


@pytest.mark.parametrize("text", ["=1+1", "+1+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "-x", "+"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text):
    assert str(csv_cell(text)).startswith("'")


@pytest.mark.parametrize("value", ["-3", "+2.5", "-1e-5", -3, -0.25, None, True, "ppo", "a=b", "1-2", ""])
def test_numbers_and_names_stay_as_they_are(value):
    assert csv_cell(value) == value


PRINTING = (
    "print",
    "Console",
    "sys.stdout.write",
    "sys.stderr.write",
    "traceback.print_exception",
    "traceback.print_exc",
    "escape",
)


def test_nothing_is_printed_elsewhere():
    package = Path(gtrturbo.__file__).parent
    places = {
        (file.relative_to(package).as_posix(), ast.unparse(node.func))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in (
            "print",
            "Console",
            "sys.stdout.write",
            "sys.stderr.write",
            "traceback.print_exception",
            "traceback.print_exc",
            "escape",
        )
    }
    assert places == {("distributed/escapes.py", "print"), ("report/page.py", "escape")}


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "0.1-0.2 > a. ?r?"), ("cp1252", "0.1–0.2 > a… ür?"), ("utf-8", None)])
def test_what_an_encoding_has_not_is_printed_all_the_same(monkeypatch, encoding, shown):
    text, written = "0.1–0.2 → a… ür日", io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    write_in_any_encoding()
    say(text)
    with stdout() as console:
        console.print(Table("→", box=box.SIMPLE_HEAD))
    sys.stdout.flush()
    told = written.getvalue().decode(encoding)
    assert told.splitlines()[0] == (shown or text)
    assert ("─" in told) == (encoding == "utf-8") and ("---" in told) == (encoding != "utf-8")


def test_a_run_is_shown_in_a_terminal_without_unicode(tmp_path):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 1: [1, 1]})
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "gtrturbo", "compare", str(run)]
    result = subprocess.run(words, env=plain, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii() and b"numberline, iteration 1" in result.stdout
