"""YAML files: what is read as it seems, and what is refused."""

import os

import pytest

from gtrturbo.config.yaml_files import read_yaml
from gtrturbo.errors import GtrTurboError


@pytest.fixture
def read(tmp_path):
    def read_content(content: str):
        file = tmp_path / "settings.yaml"
        file.write_text(content)
        return read_yaml(file)

    return read_content


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a: 10", {"a": 10}),
        ("a: -3", {"a": -3}),
        ("a: 0.5", {"a": 0.5}),
        ("a: 1.0e-5", {"a": 1e-5}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: 'x: y'", {"a": "x: y"}),
        ("a: [b, c]", {"a": ["b", "c"]}),
        ("a: '1:30'", {"a": "1:30"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: " + "9" * 41, {"a": "9" * 41}),
    ],
)
def test_what_is_plain_is_read_as_it_seems(read, content, value):
    assert read(content) == value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: 1\na: 2", "line 2: the key a is there twice"),
        ("b: {a: 1, a: 1}", "line 1: the key a is there twice"),
        ("a: 1:30", "1:30 is another number in YAML than it seems"),
        ("a: 1:30.5", "1:30.5 is another number"),
        ("a: 010", "010 is another number"),
        ("a: 0x10", "0x10 is another number"),
        ("a: 1_000", "1_000 is another number"),
        ("a: 1_000.5", "1_000.5 is another number"),
        ("a: &x [*x]", r"\*x is an alias inside of an alias"),
        ("a: &x [1]\nb: &y [*x, *x]\nc: [*y]", r"\*x is an alias inside of an alias"),
        ("a: &x 1\nb: [" + ", ".join(["*x"] * 101) + "]", "one of too many"),
        ("a: " + "[" * 5000, "nested too deeply|is no YAML|line 1"),
        ("a: [", "line 1"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: \x07", "is no YAML"),
        ("? [a, b]\n: 1", "line 1"),
    ],
)
def test_what_reads_as_something_else_is_refused_with_its_line(read, content, told):
    with pytest.raises(GtrTurboError, match=told):
        read(content)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "settings.yaml")
    with pytest.raises(GtrTurboError, match="is no regular file"):
        read_yaml(tmp_path / "settings.yaml")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "settings.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(GtrTurboError, match=f"has {1 << 40} bytes"):
        read_yaml(tmp_path / "settings.yaml")
