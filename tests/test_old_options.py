"""Every option that a command had once is refused with what to write instead, which is an option that there is."""

import re

import pytest
from typer.testing import CliRunner

from docs.commands import CONFIGS
from docs.options import BEFORE, gone_of, shown
from gtrturbo.cli import app
from gtrturbo.config.fields import fields
from gtrturbo.config.renamed import FLAGS, old_options

# What docs/commands.md listed at one time and does not list now, by command, as read from its history.
SERVED = "base-url max-concurrency server"
HAD = {
    "sft": "micro-batch-size",
    "rollout": f"{SERVED} illegal novice",
    "distill": f"{SERVED} compat micro-batch-size student update",
    "ppo-step": "micro-batch-size",
    "merge": "adapter-space compat only recursive sign",
    "eval": f"{SERVED} illegal",
    "run": "isolate",
    "report": "currency price-per-call price-per-hour price-per-million-tokens",
}
ALL = [(command, option) for command, options in HAD.items() for option in options.split()]
NAMED = re.compile(r"--[a-z][\w-]*")


@pytest.mark.parametrize(("command", "option"), ALL)
def test_an_option_that_is_gone_is_answered_with_one_that_there_is(command, option):
    flag = option in FLAGS
    for spelling in (f"--{option}", *([f"--no-{option}"] if flag else [])):
        done = CliRunner().invoke(app, [command, spelling, *([] if flag else ["x"])])
        told = done.stderr.splitlines()
        assert (done.exit_code, done.stdout, told[0]) == (2, "", f"there is no option {option} any more.")
        assert len(told) == 2 and told[1]
        known = {field.option for config in CONFIGS.values() for field in shown(config)}
        # An option that is gone itself is named where its values are told apart.
        assert set(NAMED.findall(told[1])) - {f"--{option}"} <= known


def test_requests_at_once_are_an_option_for_teachers_on_a_server():
    answers = {command: CliRunner().invoke(app, [command, "--max-concurrency", "2"]).stderr for command in ("distill", "eval")}
    assert "write: --at-once for a teacher openai:MODEL" in answers["distill"] and "--at-once" not in answers["eval"]


@pytest.mark.parametrize(("command", "option"), ALL)
def test_it_is_answered_beside_help_too(command, option):
    done = CliRunner().invoke(app, [command, f"--{option}", *([] if option in FLAGS else ["x"]), "--help"])
    assert (done.exit_code, done.stdout) == (2, "") and done.stderr.startswith(f"there is no option {option} any more.\n")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("merge --recursiv", "--recipe"),
        ("merge --signn x", "--missing"),
        ("report --currenc EUR", ""),
        ("rollout --ilegal x", "--log"),
    ],
)
def test_an_option_that_is_gone_is_no_suggestion(line, meant):
    done = CliRunner().invoke(app, line.split(), terminal_width=200)
    said = done.stderr.partition("No such option")[2]
    assert done.exit_code == 2 and meant in said
    assert not {"--recursive", "--no-recursive", "--sign,", "--currency", "--illegal"} & set(re.findall(r"--[\w-]+,?", said))
    assert "--sign)" not in said


def test_every_old_option_that_is_answered_was_one():
    answered = {
        (command, old.replace("_", "-"))
        for command, config in CONFIGS.items()
        for old in old_options(config, frozenset(field.name for field in fields(config)))
    }
    assert answered == set(ALL)


def test_what_is_counted_as_gone_was_there_before():
    assert sum(BEFORE.values()) == 183
    assert {name: len(gone_of(name)) for name in BEFORE if gone_of(name)} == {
        "rollout": 5, "distill": 7, "merge": 5, "eval": 4, "run": 1, "report": 4,
    }  # fmt: skip
