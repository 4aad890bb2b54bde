"""What the README and the other pages tell a reader to type and to open is there."""

import itertools
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from parsed import CONFIGS, parsed

from gtrturbo.config.fields import fields
from gtrturbo.play.teaching.taught import Taught, usefulness
from gtrturbo.play.teaching.templates import read_templates, templates_of
from gtrturbo.play.teaching.worded import WordedTeacher
from gtrturbo.store.turns import read_turns
from gtrturbo.tasks.loading import load_task

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell", "console")
OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "<"}


def shell_lines(text: str) -> list[str]:
    """Take the lines of all shell blocks, with continued lines joined and prompts removed."""
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language in SHELL]
    return [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]


def gtrturbo_calls(line: str) -> list[list[str]]:
    """Take the words of each gtrturbo command in a line of shell, also those in $(…) and after && or |."""
    calls = []
    for start in re.finditer(r"(?:^|[\s(])gtrturbo(?=\s)", line):
        rest, depth = line[start.end() :], 0
        for index, letter in enumerate(rest):  # A command in $(…) ends at the bracket that closes it.
            depth += (letter == "(") - (letter == ")")
            if depth < 0:
                rest = rest[:index]
                break
        lexer = shlex.shlex(rest, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in OPERATORS:
                break
            words.append(word)
        if words and words[0] in (*CONFIGS, "--help", "--version"):
            calls.append(words)
        elif words and start.start() == 0:
            calls.append(words)  # A line that starts with gtrturbo is a command, so a wrong stage is an error.
    return calls


def described_calls() -> list[tuple[str, list[str]]]:
    return [
        (page.name, call)
        for page in PAGES
        for line in shell_lines(page.read_text(encoding="utf-8"))
        if not line.startswith("#")
        for call in gtrturbo_calls(line)
    ]


def test_the_reader_of_shell_blocks_finds_what_is_there():
    text = """
```sh
pip install gtrturbo          # not a command of gtrturbo
gtrturbo init --out a  # the first
ckpt=$(gtrturbo sft --checkpoint a --out b data) && gtrturbo show "$ckpt" | head
gtrturbo merge --base a \\
  --out t ckpts/*
```
```python
gtrturbo init --out nothing
```
"""
    calls = [call for line in shell_lines(text) for call in gtrturbo_calls(line)]
    assert calls == [
        ["init", "--out", "a"],
        ["sft", "--checkpoint", "a", "--out", "b", "data"],
        ["show", "$ckpt"],
        ["merge", "--base", "a", "--out", "t", "ckpts/*"],
    ]


def test_every_command_that_is_shown_parses():
    for page, call in described_calls():
        if call[0] in ("--help", "--version"):
            continue
        try:
            parsed(call)
        except AssertionError as error:
            pytest.fail(f"{page}: {error}")


def targets(makefile: Path) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    spoken = [*shell_lines(text), *re.findall(r"`(make [^`]*)`", text)]
    for line in spoken:
        for command in re.findall(r"(?:^|&& |; )make\b([^#&;|]*)", line):
            words = shlex.split(command)
            folder = words[words.index("-C") + 1] if "-C" in words else "."
            names = [word for i, word in enumerate(words) if word[0] != "-" and "=" not in word and words[i - 1] != "-C"]
            assert set(names) <= targets(ROOT / folder / "Makefile"), f"{page.name}: {line}"


def tree_paths(block: str) -> list[str]:
    """Read a drawn tree: names at deeper indentation lie in the folder above; what follows two spaces is a comment."""
    found, open_folders = [], []
    for line in block.splitlines():
        drawn = re.sub(r"[│├└─|`]", " ", line)
        names = re.split(r"\s{2,}", drawn.strip())[0].split()
        if not names:
            continue
        indent = len(drawn) - len(drawn.lstrip())
        open_folders = [(depth, folder) for depth, folder in open_folders if depth < indent]
        parent = open_folders[-1][1] if open_folders else ""
        found += [parent + name for name in names if re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", name)]
        if names[0].endswith("/"):
            open_folders.append((indent, parent + names[0]))
    return found


def test_the_reader_of_trees_finds_what_is_there():
    drawn = "gtrturbo/\n  cli.py      one adapter\n  envs/       games\n    task.py cards.py  the rules\n"
    drawn += "  loop.py\nMakefile  two targets\n"
    names = ["gtrturbo/", "gtrturbo/cli.py", "gtrturbo/envs/", "gtrturbo/envs/task.py", "gtrturbo/envs/cards.py"]
    assert tree_paths(drawn) == [*names, "gtrturbo/loop.py", "Makefile"]
    assert tree_paths("gtrturbo/\n├── cli.py\n└── envs/\n    └── task.py\n")[1:] == [names[1], names[2], names[3]]


SOURCE = ("gtrturbo", "tests", "examples", "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    trees = [body for _, body in FENCE.findall(text) if re.match(rf"({'|'.join(SOURCE)})/(\s|$)", body)]
    named = [path for tree in trees for path in tree_paths(tree)]
    named += re.findall(rf"[`(\s]((?:{'|'.join(SOURCE)})/[\w./\-]*[\w/])[`)\s#]", FENCE.sub("", text))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["commands", "metrics", "messages"])
def test_a_page_that_is_made_from_the_code_is_current(page):
    written = runpy.run_path(str(ROOT / "docs" / f"{page}.py"))["page"]()
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == written, f"run: python -m docs.{page}"


def test_the_readme_fits_on_two_screens():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_function_that_an_equation_is_said_to_be_in_is_there():
    named = re.findall(r"`(gtrturbo/[\w/]+\.py):(\w+)`", (ROOT / "docs" / "paper-to-code.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    for path, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}:{name}"


def test_every_page_is_in_the_sites_contents():
    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for part in contents for page in ([part] if isinstance(part, str) else next(iter(part.values())))}
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} | {"index.md"}


def test_every_number_that_a_stage_records_is_explained(init, warm, turns, ppo, scores):
    explained = runpy.run_path(str(ROOT / "docs" / "metrics.py"))["METRICS"]
    for folder in (init, warm, turns, ppo, scores):
        manifest = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        assert [name for name in manifest["metrics"] if manifest["stage"] not in explained[name].stages] == []


def test_every_number_of_a_teacher_in_words_is_explained(expert):
    explained = runpy.run_path(str(ROOT / "docs" / "metrics.py"))["METRICS"]
    teacher = WordedTeacher(lambda questions, schema: [], read_templates(templates_of(None, None, corrects=True)), corrects=True)
    task = load_task("numberline", ("image=tiny",))
    taught = [Taught(turn, turn.reply, task.read(turn.reply, turn.info), "expert") for turn in read_turns(expert)]
    written = {*teacher.metrics, *teacher.parts, *teacher.token_metrics, *usefulness(task, taught)}
    assert {"usable_share", "differing_share", "right_share", "teacher_wrong"} <= written
    assert [name for name in sorted(written) if name not in explained or "distill" not in explained[name].stages] == []


def test_the_page_of_commands_names_every_setting():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(CONFIGS)
    for name, config in CONFIGS.items():
        rows = [line for line in sections[name].splitlines() if line.startswith("| `")]
        assert len(rows) == len([field for field in fields(config) if not field.rest_of])
        for field, row in zip([each for each in fields(config) if not each.rest_of], rows, strict=True):
            assert field.option in row or field.name.upper() in row
            assert field.help.replace("|", "\\|") in row
            assert all(choice in row for choice in field.choices)


def test_an_option_that_nothing_uses_has_a_reason_to_stay():
    unused = runpy.run_path(str(ROOT / "docs" / "options.py"))["unused"]()
    assert [key for key, reason in unused.items() if not reason] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    cells, wrong = 0, []
    for line, after in itertools.pairwise([*lines, ""]):
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if re.match(r"\|[ :|-]+\|$", after):
            cells = count
        wrong += [line] if count not in (0, cells) else []
    assert wrong == []
