"""Stages called from Python: the artifacts of the command line, id by id, and what a notebook shows while they work."""

import inspect
import sys
import types

import pytest
from typer.testing import CliRunner

import gtrturbo
from gtrturbo import console
from gtrturbo.cli import ORDER, app
from gtrturbo.config import RunConfig
from gtrturbo.config.fields import Role, fields
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import eval as eval_stage
from gtrturbo.stages.table import STAGES
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest

GAME = {"task": "numberline", "env": ["image=tiny", "horizon=2"], "num_envs": 4}
PLAY = {**GAME, "max_new_tokens": 48}


def words(options):
    """Write keyword arguments as a command line's words."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{name.replace('_', '-')}"
            continue
        for each in value if isinstance(value, list) else [value]:
            yield from (f"--{name.replace('_', '-')}", str(each))


def test_every_stage_called_from_python_has_the_id_that_it_has_from_the_command_line(tmp_path, warm, monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    told, called = tmp_path / "told", tmp_path / "called"

    def both(command, out, *positional, inputs=None, **options):
        """Do a stage in both ways, each on its own inputs, and return the two ids."""
        inputs = inputs or {}
        line = [command, *(str(told / each) for each in positional), *words(options), "--out", str(told / out)]
        line += [word for name, each in inputs.items() for word in (f"--{name}", str(told / each))]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        function = getattr(gtrturbo, {"eval": "evaluate"}.get(command, command.replace("-", "_")))
        given = {name: called / each for name, each in inputs.items()}
        made = function(*([called / each for each in positional],) if positional else (), out=called / out, **given, **options)
        assert made.path == made.out == called / out and made.metrics == read_manifest(told / out).metrics
        assert made.id == artifact_id(told / out), command
        return command

    start = {"checkpoint": warm}
    done = {
        both("init", "init", seed=3),
        both("rollout", "expert", expert=True, episodes=6, **GAME),
        both("sft", "taught", "expert", inputs={"checkpoint": "init"}, steps=3, batch_size=4, learning_rate=1e-3),
        both("rollout", "turns", inputs=start, episodes=4, temperature=0.9, on_invalid_reply="noop", **PLAY),
        both("distill", "scores", inputs={"teacher": "init", "rollouts": "turns"}, top_logprobs=3),
        both(
            "ppo-step", "next", inputs={**start, "rollouts": "turns", "scores": "scores"}, epochs=1, gamma=0.5, detach_value=True
        ),
        both("merge", "teacher", "next", "taught", inputs={"base": "init"}, density=0.5, weights="ema:0.5", normalize=False),
        both("eval", "eval", inputs={"checkpoint": "teacher"}, episodes=4, **PLAY),
    }
    assert done == set(ORDER)


def test_a_run_from_python_is_the_run_of_the_command(tmp_path, warm, monkeypatch):
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)
    sets = ["eval.max-new-tokens=48", "rollout.max-new-tokens=48", "ppo-step.epochs=1"]
    options = {"method": "turbo-kl", "env": ["horizon=2"], "iterations": 1, "episodes": 4, "eval_episodes": 4, "set": sets}
    line = ["run", *words({**options, "start": warm}), "--out", str(tmp_path / "told")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    made = gtrturbo.run(start=warm, out=tmp_path / "called", **options)
    assert made.path == tmp_path / "called/checkpoints/0001" and made.id == artifact_id(tmp_path / "told/checkpoints/0001")
    assert made.metrics == read_manifest(tmp_path / "told/evals/0001").metrics and "success_rate" in made.metrics


@pytest.mark.parametrize("name", ["init", "sft", "rollout", "distill", "ppo_step", "merge", "evaluate", "run"])
def test_a_function_has_the_names_and_defaults_of_its_command(name):
    command = {"evaluate": "eval"}.get(name, name.replace("_", "-"))
    config = RunConfig if name == "run" else STAGES[command].config
    parameters = inspect.signature(getattr(gtrturbo, name)).parameters
    known = {field.name: field for field in fields(config) if field.name not in ("dry_run", "more_teachers")}
    assert parameters.keys() == known.keys()
    for field in known.values():
        default = inspect.Parameter.empty if field.required else field.default
        assert parameters[field.name].default == default or parameters[field.name].default is default
        assert (parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY) == (Role.POSITIONAL not in field.roles)


def test_turns_are_read_from_a_path_a_text_and_a_result(turns, tmp_path):
    read = gtrturbo.load_turns(turns)
    assert read == gtrturbo.load_turns(str(turns)) and len({turn.episode for turn in read}) == 8
    result = Result(out=turns, id="", metrics={})
    assert gtrturbo.load_turns(result) == read and (turns / read[0].images[0]).is_file()
    with pytest.raises(GtrTurboError, match="nowhere"):
        gtrturbo.load_turns(tmp_path / "nowhere")


class Line:
    """What a notebook shows below a cell, as `IPython.display.display` gives it back."""

    def __init__(self, first):
        self.texts = [first["text/plain"]]

    def update(self, data, *, raw):
        assert raw
        self.texts.append(data["text/plain"])


def test_in_a_notebook_progress_is_a_line_below_the_cell(monkeypatch):
    lines = []

    def display(data, *, raw, display_id):
        assert raw and display_id
        lines.append(Line(data))
        return lines[-1]

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(console.stderr, "is_jupyter", True)
    monkeypatch.setattr(console, "SECONDS_BETWEEN", 0.0)
    with console.progress_bar("sft", 3) as bar:
        bar.advance(note="loss 0.5\x1b[31m")
        bar.advance(2)
    (line,) = lines
    assert line.texts[0].startswith("sft 0/3") and line.texts[-1].startswith("sft 3/3") and "loss 0.5" in line.texts[-1]
    assert "\x1b" not in "".join(line.texts)


def test_a_notebook_is_not_told_of_work_faster_than_it_can_show(monkeypatch):
    shown = []
    line = types.SimpleNamespace(update=lambda data, raw: shown.append(data))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=lambda *_, **__: line))
    monkeypatch.setattr(console.stderr, "is_jupyter", True)
    monkeypatch.setattr(console, "SECONDS_BETWEEN", 1000.0)
    with console.progress_bar("episodes", 50) as bar:
        for _ in range(50):
            bar.advance()
    assert len(shown) <= 2
