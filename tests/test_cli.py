"""The command line: what it prints, where, with which exit code, and what it does not import."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from parsed import CONFIGS, parsed
from rich.cells import cell_len
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import gtrturbo
from gtrturbo.cli import app
from gtrturbo.cli.help import EXAMPLES, GROUPS, OFTEN, HelpLayout
from gtrturbo.config import InitConfig, RolloutConfig
from gtrturbo.config.fields import Role, fields
from gtrturbo.runs.plan import Step
from gtrturbo.runs.script import command
from gtrturbo.stages import execute
from gtrturbo.store.ids import short

BIN = Path(sys.executable).parent
HEAVY = {"torch", "transformers", "peft", "gymnasium", "scipy"}
PLACED = {Role.RUNTIME, Role.POSITIONAL}
PLAY = ["--task", "numberline", "--env", "image=tiny", "--max-new-tokens", "48", "--temperature", "1.0"]


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    # Stages go offline by setting this variable; monkeypatch takes it back.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def gtrturbo_(*words: object):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object, code: int) -> list[str]:
    """Run a command that must fail without a traceback; return the lines of its stderr."""
    result = gtrturbo_(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)  # not an error that would reach the user as a traceback
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line]  # rich 14.0 ends a bar with an empty line.


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | more


def modules_after(*commands: list[str]) -> set[str]:
    """Run commands in one fresh process and name the heavy modules that it then holds."""
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from gtrturbo.cli import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, result.output\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, env=environment(), check=False
    )
    assert process.returncode == 0, process.stderr
    return HEAVY & set(json.loads(process.stdout))


# Help


def test_help_of_every_command_imports_nothing_heavy():
    assert modules_after(["--help"], ["--version"], *([name, "--help"] for name in CONFIGS)) == set()


def test_help_names_every_command():
    listed = gtrturbo_("--help").stdout
    assert all(f" {name} " in listed for name in CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_tells_every_setting_with_its_sentence(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    help_text = " ".join(gtrturbo_(name, "--help").stdout.split())
    for field in [field for field in fields(CONFIGS[name]) if not field.rest_of]:  # Those are told with the first.
        assert field.help in help_text
        assert field.option in help_text or field.name.upper() in help_text  # lists of artifacts are positional
        for choice in field.choices:
            assert choice in help_text


@pytest.mark.parametrize("name", CONFIGS)
def test_help_shows_first_what_must_be_given_and_what_is_read_and_ends_in_examples(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = gtrturbo_(name, "--help").stdout
    options, _, rest = told.partition("╭─ Options")[2].partition("╰")
    needed = [field for field in fields(CONFIGS[name]) if field.required and Role.POSITIONAL not in field.roles]
    assert all(f"│ {field.option} " in options for field in needed)
    assert "--debug" in rest and "--debug" not in options
    assert f"gtrturbo {name} " in rest.partition("Examples:")[2]
    assert max(map(cell_len, told.splitlines())) <= 80


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, lines in EXAMPLES.items() for words in lines])
def test_the_examples_of_help_are_commands(name, words):
    assert isinstance(parsed([name, *shlex.split(words)]), CONFIGS[name])


def test_every_setting_that_is_not_shown_first_has_a_group_of_its_own():
    stages = {name: CONFIGS[name] for name in OFTEN}
    for name, config in stages.items():
        known = {field.name: field for field in fields(config) if not field.rest_of}
        assert {*OFTEN[name]} <= known.keys()
        later = [field for field in known.values() if field.roles.isdisjoint(PLACED) and HelpLayout(name).place(field)[0]]
        assert [field.name for field in later if not any(field.name in names for names in GROUPS.values())] == []
    grouped = [each for names in GROUPS.values() for each in names]
    assert len(grouped) == len({*grouped})


@pytest.mark.parametrize("name", CONFIGS)
def test_short_help_option_works_too(name):
    assert gtrturbo_(name, "-h").stdout == gtrturbo_(name, "--help").stdout


def test_no_command_prints_the_help():
    assert "ppo-step" in gtrturbo_().output


def test_version():
    result = gtrturbo_("--version")
    assert (result.exit_code, result.stdout) == (0, f"gtrturbo {gtrturbo.__version__}\n")


def test_python_m_gtrturbo_is_the_same_command():
    process = subprocess.run([sys.executable, "-m", "gtrturbo", "--version"], capture_output=True, text=True, check=True)
    assert process.stdout == f"gtrturbo {gtrturbo.__version__}\n"


# Settings


@pytest.fixture
def yaml_file(tmp_path):
    def write(**settings: object) -> Path:
        file = tmp_path / "settings.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    return write


def test_flags_win_over_yaml_which_wins_over_defaults(yaml_file):
    file = yaml_file(**{"lora-rank": 4, "lora_alpha": 7, "seed": 1})
    config = parsed(["init", "--out", "x", "--config", str(file), "--seed", "2"])
    assert config == InitConfig(out=Path("x"), lora_rank=4, lora_alpha=7.0, seed=2)
    assert config.dtype == "auto"


def test_a_required_option_may_come_from_yaml(yaml_file):
    assert parsed(["init", "-c", str(yaml_file(out="x"))]).out == Path("x")


def test_a_switch_may_come_from_yaml(yaml_file):
    assert parsed(["rollout", "--out", "x", "-c", str(yaml_file(task="numberline", expert=True))]).expert is True


def test_a_zero_on_the_command_line_wins_over_yaml(yaml_file):
    assert parsed(["init", "--out", "x", "-c", str(yaml_file(seed=5)), "--seed", "0"]).seed == 0


def test_a_list_on_the_command_line_replaces_the_one_in_yaml(yaml_file):
    file = str(yaml_file(task="numberline", env=["image=tiny", "horizon=5"]))
    assert parsed(["rollout", "--out", "x", "-c", file]).env == ("image=tiny", "horizon=5")
    assert parsed(["rollout", "--out", "x", "-c", file, "--env", "horizon=7"]).env == ("horizon=7",)


def test_numbers_in_yaml_may_be_written_as_1e_5(tmp_path):
    (tmp_path / "s.yaml").write_text("learning-rate: 1e-5\n")  # which YAML 1.1 reads as text
    line = ["sft", "--out", "x", "--checkpoint", "c", "-c", str(tmp_path / "s.yaml"), "data"]
    assert parsed(line).learning_rate == 1e-5


def test_positional_lists_keep_their_order():
    assert parsed("merge --out t --base b c/2 c/1 c/3").checkpoints == (Path("c/2"), Path("c/1"), Path("c/3"))


def test_unknown_yaml_key_names_the_known_ones(yaml_file):
    file = yaml_file(**{"lora-rnak": 4})
    assert refused("init", "--out", "x", "--config", file, code=2) == [
        f"{file}: unknown setting lora-rnak.",
        "did you mean lora-rank?",
    ]
    file = yaml_file(xyz=4)
    what, fix = refused("init", "--out", "x", "--config", file, code=2)
    assert what == f"{file}: unknown setting xyz."
    assert fix.startswith("known: out, overwrite, log, verify-inputs, model, revision, task, env, family, chat-template,")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"seed": True}, "seed must be a whole number"),
        ({"lora-rank": -1}, "lora-rank must be"),
        ({"device": "gpu"}, "no device gpu"),
    ],
)
def test_a_wrong_value_in_yaml_names_the_file(yaml_file, setting, told):
    file = yaml_file(**setting)
    what = refused("sft" if "device" in setting else "init", "--out", "x", "--config", file, code=2)[0]
    assert what.startswith(f"{file}: ") and told in what


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [\n", b"", b"\xff\xfe\x00"])
def test_yaml_without_settings_is_refused(tmp_path, content):
    (tmp_path / "s.yaml").write_bytes(content)
    assert str(tmp_path / "s.yaml") in refused("init", "--out", "x", "--config", tmp_path / "s.yaml", code=2)[0]


def test_absent_yaml_is_refused(tmp_path):
    lines = refused("init", "--out", "x", "--config", tmp_path / "no.yaml", code=2)
    assert lines == [f"{tmp_path}/no.yaml does not exist.", "check its spelling."]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("merge --out t --base b --density 3.0", "density must be in (0, 1], got 3.0."),
        ("merge --out t --base b --density 0", "density must be in (0, 1], got 0."),
        ("init --out t --lora-rank -1", "lora-rank must be in [0, 65536], got -1."),
        ("init --out t --lora-rank four", "lora-rank must be a whole number, got 'four'."),
        ("init --out t --lora-rank 1.5", "lora-rank must be a whole number, got '1.5'."),
        ("rollout --out t --task numberline --temperature 0", "temperature must be in [1e-06, 1e+06], got 0.0."),
        ("rollout --out t --task numberline --temperature nan", "temperature must be in [1e-06, 1e+06], got nan."),
        ("rollout --out t --task numberline --temperature inf", "temperature must be in [1e-06, 1e+06], got inf."),
        ("ppo-step --out t --checkpoint c --rollouts r --gamma 1.01", "gamma must be in [0, 1], got 1.01."),
        (
            "ppo-step --out t --checkpoint c --rollouts r --format-valid=-inf",
            "format-valid must be in [-1e+09, 1e+09], got -inf.",
        ),
        ("run --out t --iterations x", "iterations must be a whole number, got 'x'."),
        ("init --out t --dtype float16", "dtype must be one of auto, float32, bfloat16, got float16."),
        ("run --out t --set sft.steps=x", "steps must be a whole number, got 'x'."),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_2(line, told):
    assert refused(*line.split(), code=2) == [told]


@pytest.mark.parametrize(
    ("line", "lacking", "mend"),
    [
        ("init", "--out", "--out PATH"),
        ("rollout", "--out, --task", "--out PATH --task NAME"),
        ("sft --out t --checkpoint c", "DATA", "DATA"),
        ("show", "ARTIFACT", "ARTIFACT"),
    ],
)
def test_what_is_missing_is_named_with_how_it_is_added(line, lacking, mend):
    assert refused(*line.split(), code=2) == [f"missing: {lacking}.", f"add: {mend}"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("init --out t --lora-rnak 4", "--lora-rnak"),
        ("run --out t --method ppo --teacher c", "leave out --teacher, or use --method gtr, opd, static-kl, static-loss."),
        ("run --out t --method opd", "add: --teacher CHECKPOINT"),
        ("run --out t --method sarsa", "there is no method 'sarsa'."),
        ("run --out t --set foo", "--set foo is not STAGE.OPTION=VALUE."),
        ("run --out t --set sft.foo=1", "see: gtrturbo sft --help"),
        ("init --out t extra", "extra is a value without an option. See: gtrturbo init --help"),
        ("play numberline", "Write: --task numberline"),
        ("eval ckpts/0001 --task numberline --out e", "Write: --checkpoint ckpts/0001"),
        ("run --env horizon 5 --out r", "Write: --env horizon=5"),
        ("innit", "innit"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_word(line, told):
    assert told in " ".join("\n".join(refused(*line.split(), code=2)).replace("│", " ").split())


# Output


def test_a_shell_can_catch_the_path(init, tmp_path):
    # The call finds its artifact made, so it is quick.
    script = 'ckpt=$(gtrturbo init --out "$1")\nprintf "[%s]" "$ckpt"\ngtrturbo show "$ckpt" --check >/dev/null && printf ok'
    process = subprocess.run(
        ["bash", "-euc", script, "-", str(init)], capture_output=True, text=True, env=environment(), check=True
    )
    assert process.stdout == f"[{init}]ok"


def test_same_call_again_prints_the_path_and_imports_nothing_heavy(init, expert, warm, turns_config, turns, ppo_config, ppo):
    configs = [("rollout", turns_config), ("ppo-step", ppo_config), ("init", InitConfig(out=init))]
    lines = [command(Step(stage, config)) for stage, config in configs]
    assert modules_after(*(line.split()[1:] for line in lines)) == set()
    for line, (_, config) in zip(lines, configs, strict=True):
        before = (config.out / "stage.json").stat()
        result = gtrturbo_(*line.split()[1:])
        assert (result.exit_code, result.stdout) == (0, f"{config.out}\n")
        assert (config.out / "stage.json").stat() == before


def test_metrics_go_to_stderr_in_one_line(turns, turns_config):
    stderr = gtrturbo_(*command(Step("rollout", turns_config)).split()[1:]).stderr
    assert stderr.startswith("success_rate ") or " success_rate " in stderr
    assert stderr.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(tmp_path):
    words = ("distill", "--out", tmp_path / "d", "--rollouts", tmp_path / "none", "--teacher", tmp_path / "none")
    assert len(refused(*words, code=1)) == 2
    result = gtrturbo_(*words, "--debug")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback (most recent call last)" in result.stderr
    assert "ids.py" in result.stderr
    assert result.stderr.splitlines()[-2:] == [f"{tmp_path}/none does not exist.", "check its spelling."]


def test_overwrite_replaces(tmp_path):
    out, words = tmp_path / "a", ("rollout", "--expert", "--task", "numberline", "--env", "image=tiny", "--episodes", 2)
    assert gtrturbo_(*words, "--out", out).exit_code == 0
    first = (out / "stage.json").read_bytes()
    what, fix = refused(*words, "--out", out, "--seed", 1, code=1)
    assert what == f"{out} exists and was made with --seed 0, not 1."
    assert fix == "choose another --out, or add --overwrite."
    assert (out / "stage.json").read_bytes() == first
    assert gtrturbo_(*words, "--out", out, "--seed", 1, "--overwrite").exit_code == 0
    assert json.loads((out / "stage.json").read_text())["config"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_interrupt_leaves_nothing_and_exits_130(tmp_path):
    out, partial = tmp_path / "turns", tmp_path / ".turns.partial"
    words = ["rollout", "--expert", "--task", "numberline", "--env", "image=tiny", "--episodes", "1000000", "--out", str(out)]
    process = subprocess.Popen(
        [BIN / "gtrturbo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell that runs the tests in the background makes them ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(3):  # As a person does: Python drops one that arrives while it disposes of an object.
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
            break
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    # What was played is kept for the next try, and nothing else.
    left = [path.name for path in tmp_path.iterdir()]
    on = "the same command goes on from what was finished"
    on += "" if left else "|nothing of this stage is kept yet, which the same command begins anew"
    assert left in ([], [".turns.journal"]) and re.fullmatch(f"interrupted by SIGINT; ({on})\\.\n", stderr)


# What goes wrong, and what the last line says to do about it


def test_an_error_that_no_sentence_tells_is_one_line_that_names_its_kind_and_the_way_to_its_trace(monkeypatch, tmp_path):
    def fails(config):
        raise KeyError("of\na kind")

    monkeypatch.setattr("gtrturbo.cli.execute", fails)
    words = ("init", "--out", tmp_path / "c")
    what, fix = refused(*words, code=70)
    assert what.startswith("unexpected error: KeyError at test_cli.py line ")
    assert fix == "this is a fault of gtrturbo; for the full trace give the same command again with --debug."
    assert "Traceback (most recent call last)" in gtrturbo_(*words, "--debug").stderr


def test_an_error_of_the_operating_system_is_a_sentence(tmp_path):
    (tmp_path / "a").write_text("")
    assert refused("init", "--out", tmp_path / "a" / "b", code=1) == [
        f"{tmp_path}/a is no folder.",
        "move it away, or name another place.",
    ]


def test_unfinished_input(tmp_path, warm):
    (tmp_path / "turns").mkdir()
    lines = refused("ppo-step", "--out", tmp_path / "p", "--checkpoint", warm, "--rollouts", tmp_path / "turns", code=1)
    assert lines == [
        f"{tmp_path}/turns has no stage.json: the stage did not finish.",
        "run it again with the same --out.",
    ]


def test_absent_input(tmp_path):
    lines = refused("eval", "--out", tmp_path / "e", "--checkpoint", tmp_path / "none", *PLAY, code=1)
    assert lines == [f"{tmp_path}/none does not exist.", "check its spelling."]


def test_input_of_another_kind(tmp_path, warm, init):
    lines = refused("distill", "--out", tmp_path / "d", "--rollouts", warm, "--teacher", init, code=1)
    assert lines == [f"{warm} holds checkpoint (made by sft), not turns.", "make one with: gtrturbo rollout …"]


def test_scores_of_other_turns(tmp_path, warm, turns, scores, turns_config):
    others = execute(replace(turns_config, out=tmp_path / "others", episodes=2, seed=1))
    words = ("ppo-step", "--out", tmp_path / "p", "--checkpoint", warm, "--rollouts", others.out, "--scores", scores)
    what, fix = refused(*words, code=1)
    made_for = json.loads((scores / "stage.json").read_text())["inputs"]["rollouts"]
    assert what == f"scores were made for turns {short(made_for)}, but --rollouts is {short(others.id)}."
    assert fix == f"run: gtrturbo distill --rollouts {others.out} --mode kl …"


def test_turns_of_another_checkpoint(tmp_path, init, turns):
    what, fix = refused("ppo-step", "--out", tmp_path / "p", "--checkpoint", init, "--rollouts", turns, code=1)
    assert what.startswith(f"the turns in {turns} were played by ")
    assert fix == f"run: gtrturbo rollout --checkpoint {init} …"


def test_another_knob_than_the_artifact_was_made_with(ppo, ppo_config):
    line = command(Step("ppo-step", replace(ppo_config, clip_range=0.2)))
    what, fix = refused(*line.split()[1:], code=1)
    assert what == f"{ppo} exists and was made with --clip-range 0.1, not 0.2."
    assert fix == "choose another --out, or add --overwrite."


def test_a_folder_that_is_no_artifact_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        lines = refused("init", "--out", tmp_path / "mine", *more, code=1)
        assert lines == [f"{tmp_path}/mine exists and is no artifact of gtrturbo.", "choose another --out."]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_checkpoint_with_tensors_that_the_base_lacks(tmp_path, init):
    other = tmp_path / "other"
    shutil.copytree(init, other, ignore=shutil.ignore_patterns("stage.json", "timing.json"))
    tensors = load_file(other / "model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {"model.extra": tensors[name]}, other / "model.safetensors", {"format": "pt"})
    lines = refused("merge", "--out", tmp_path / "t", "--base", init, other, "--missing", "error", code=1)
    assert lines == [
        f"checkpoint {other} has 1 tensors that the base lacks (first: model.extra).",
        "merge needs checkpoints of one base.",
    ]
    assert not (tmp_path / "t").exists()


def test_merge_of_nothing(tmp_path):
    what, fix = refused("merge", "--out", tmp_path / "t", code=1)
    assert what == "there is nothing to merge: no checkpoints and no --base."
    assert "--base" in fix


def test_policy_that_never_follows_the_format(tmp_path, init):
    mute = execute(RolloutConfig(out=tmp_path / "r", checkpoint=init, task="numberline", env=("image=tiny",), episodes=1,
                                 max_new_tokens=4, on_invalid_reply="end"))  # fmt: skip
    what, fix = refused("ppo-step", "--out", tmp_path / "p", "--checkpoint", init, "--rollouts", mute.out, code=3)
    assert what == f"every turn of {mute.out} is illegal (1 of 1): the policy does not follow the format."
    assert fix == "warm it up with: gtrturbo sft …"
    assert not (tmp_path / "p").exists()


def test_a_loss_that_is_not_finite_writes_nothing(tmp_path, warm, turns):
    words = ("--checkpoint", warm, "--rollouts", turns, "--learning-rate", 1e9, "--minibatch-size", 8)
    what, fix = refused("ppo-step", "--out", tmp_path / "p", *words, code=3)
    assert " is nan at epoch 0, minibatch " in what
    assert fix.startswith(f"nothing was written; inspect with: gtrturbo show {turns} --turn ")
    assert list(tmp_path.iterdir()) == []
    row = fix.rsplit(" ", 1)[1]
    assert gtrturbo_("show", turns, "--turn", row).exit_code == 0  # the command that is named works


TASKS_LISTED = (
    "built in: numberline, ezpoints, blackjack, points24, frozenlake, sokoban, alfworld, gym:ID, minigrid:ID, miniwob:ID; "
    "one of your own: package.module:NAME or path/to/file.py:NAME."
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rollout --out t --task numberline", "give one of the two."),
        (
            "rollout --out t --task chess --expert",
            TASKS_LISTED,
        ),
        ("rollout --out t --task numberline --expert --env colour=1", "its options are: image, line, horizon."),
        ("rollout --out t --task numberline --expert --env image", "its options are: image, line, horizon."),
    ],
)
def test_a_mistake_names_its_mend_in_the_last_line(line, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(*line.split(), code=1)[-1] == told
    assert list(tmp_path.iterdir()) == []


EXPERT = "rollout --out t --task numberline --expert"
SERVED = "--engine vllm:http://localhost:8000"
IN_TURN = "merge the last teacher and the next checkpoint in turn, each a merge of its own."
TWO = "write two commands: distill, then ppo-step --scores, or sft of its demos"


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        (f"{EXPERT} --illegal end", "there is no option illegal any more.", "write: --on-invalid-reply"),
        (f"{EXPERT} --novice 1", "there is no option novice any more.", "write: --random-expert-share"),
        ("run --out t --isolate", "there is no option isolate any more.", "write: --subprocess"),
        ("merge --out t --only model.* a", "there is no option only any more.", "write: --include"),
        (f"{EXPERT} --engine openai", "--engine openai asks a server, and none is named.", f"write it as in {SERVED}"),
        ("run --out t --set rollout.illegal=end", "there is no option illegal any more.", "write: --on-invalid-reply"),
        ("distill --out t --rollouts r --expert --mode sft", "mode sft is called thoughts now.", "write: --mode thoughts"),
    ],
)
def test_an_old_spelling_is_refused_with_the_new_one(line, what, fix):
    assert refused(*line.split(), code=2) == [what, fix]


def test_hints_that_were_a_switch_are_refused_with_what_to_write(tmp_path):
    (tmp_path / "old.yaml").write_text("hints: true\n")
    told = refused(*f"run --out t -c {tmp_path / 'old.yaml'}".split(), code=2)
    assert told == [f"{tmp_path / 'old.yaml'}: hints true is called truth, expert now.", "write: --hints truth --hints expert"]
    assert "it takes a value, and --seed is an option" in " ".join(
        refused(*["run", "--out", "t", "--hints", "--seed", "3"], code=2)
    )
    [what] = refused("run", "--out", "t", "--hints", "thruth", code=2)
    assert what == "hints must be among truth, expert, outcome, got thruth."


@pytest.mark.parametrize(
    ("line", "option", "fix"),
    [
        (f"{EXPERT} --server vllm", "server", f"write: {SERVED}, or sglang:…, or openai:… for any other kind."),
        ("eval --out t --task numberline --base-url http://x", "base-url", f"write: {SERVED}"),
        (
            f"{EXPERT} --max-concurrency 2",
            "max-concurrency",
            "as many are asked for at once as --num-envs, of a teacher 64: leave it out.",
        ),
        ("distill --out t --micro-batch-size 3 --rollouts r", "micro-batch-size", "write: --micro-batch-tokens"),
        ("distill --out t --rollouts r --student c", "student", f"{TWO}."),
        ("distill --out t --rollouts r --update epochs=1", "update", f"{TWO}, with these options."),
        (
            "merge --out t --sign count a",
            "sign",
            "write: --parameters count=true for --sign count.",
        ),
        (
            "merge --out t --adapter-space factors a",
            "adapter-space",
            "write: --parameters factors=true for --adapter-space factors.",
        ),
        (
            "merge --out t --recursive a",
            "recursive",
            IN_TURN,
        ),
        ("report r --price-per-call 1", "price-per-call", "write: --price call=…"),
        ("report r --price-per-million-tokens 1", "price-per-million-tokens", "write: --price million-tokens=…"),
        ("report r --price-per-hour 1", "price-per-hour", "write: --price hour=…"),
        ("report r --currency EUR", "currency", "write: --price currency=…"),
    ],
)
def test_an_option_that_was_folded_into_another_names_that(line, option, fix):
    assert refused(*line.split(), code=2) == [f"there is no option {option} any more.", fix]


@pytest.mark.parametrize(
    "line", ["merge --out t --compat release a", "distill --out t --rollouts r --teacher c --compat release"]
)
def test_what_is_gone_names_what_is_in_its_place(line):
    assert "examples/reproduce/release.py" in refused(*line.split(), code=2)[-1]


def test_a_command_in_a_folder_that_is_gone_says_so(tmp_path):
    (tmp_path / "gone").mkdir()
    words = ["sh", "-c", f"cd gone; rmdir ../gone; exec {sys.executable} -m gtrturbo init --out ../out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and list(tmp_path.iterdir()) == []
    assert done.stderr == "the folder that this command is given in is gone.\nchange to another: cd\n"
