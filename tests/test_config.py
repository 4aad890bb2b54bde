"""Configs: what the command line, the YAML file and the manifest are made from."""

import math
from pathlib import Path

import pytest

from gtrturbo.config import (
    DistillConfig,
    EvalConfig,
    InitConfig,
    MergeConfig,
    PpoStepConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
    ShowConfig,
)
from gtrturbo.config.bounds import Between
from gtrturbo.config.building import build
from gtrturbo.config.fields import Field, Role, fields, input_paths, knobs, parse
from gtrturbo.errors import GtrTurboError

STAGES = (InitConfig, SftConfig, RolloutConfig, DistillConfig, PpoStepConfig, MergeConfig, EvalConfig)
EVERY = (*STAGES, RunConfig, ShowConfig)
EVERY_FIELD = [(config, field) for config in EVERY for field in fields(config)]
NAMES = [f"{config.__name__}.{field.name}" for config, field in EVERY_FIELD]


def field_of(config: type, name: str) -> Field:
    return next(field for field in fields(config) if field.name == name)


@pytest.mark.parametrize(("config", "field"), EVERY_FIELD, ids=NAMES)
def test_every_field_has_a_help_sentence(config, field):
    assert len(field.help.split()) >= 3 and field.help.endswith(".")


LEARNED = [
    (config, field) for config in (DistillConfig, PpoStepConfig, MergeConfig) for field in fields(config) if not field.roles
]
# What decides how an update is computed or repeated, not what is learned.
AS_IS = {
    "seed", "dtype", "engine", "served_model", "micro_batch_tokens", "gradient_checkpointing",
    "include", "exclude", "rank", "expert", "mode", "task", "address", "reply_format", "probe",
}  # fmt: skip


@pytest.mark.parametrize(("config", "field"), LEARNED, ids=[f"{config.__name__}.{field.name}" for config, field in LEARNED])
def test_every_default_that_changes_what_is_learned_says_where_it_is_from(config, field):
    assert field.name in AS_IS or any(word in field.help for word in ("paper", "measured", "ours", "mergekit"))


@pytest.mark.parametrize("config", EVERY)
def test_every_config_says_what_its_command_does(config):
    assert config.__doc__ and not config.__doc__.startswith(config.__name__)


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (MergeConfig, {"density": 3.0}, "density must be in (0, 1], got 3.0."),
        (MergeConfig, {"density": 0.0}, "density must be in (0, 1], got 0.0."),
        (InitConfig, {"lora_rank": -1}, "lora-rank must be in [0, 65536], got -1."),
        (InitConfig, {"seed": -1}, "seed must be in [0, 18446744073709551615], got -1."),
        (InitConfig, {"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, got float16."),
        (RolloutConfig, {"task": "numberline", "episodes": 0}, "episodes must be in [1, 1000000000], got 0."),
        (RolloutConfig, {"task": "numberline", "temperature": 0.0}, "temperature must be in [1e-06, 1e+06], got 0.0."),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_range_and_the_value(config, values, said):
    with pytest.raises(GtrTurboError) as error:
        config(out=Path("x"), **values)
    assert str(error.value) == said


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(bad):
    with pytest.raises(GtrTurboError, match=f"scale must be .*, got {bad}"):
        MergeConfig(out=Path("x"), scale=bad)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (MergeConfig, {"density": 1.0}),
        (InitConfig, {"lora_rank": 0, "lora_alpha": None}),
        (EvalConfig, {"checkpoint": Path("c"), "task": "numberline", "temperature": 0.0}),
    ],
)
def test_the_ends_of_closed_bounds_and_none_where_allowed_are_accepted(config, values):
    config(out=Path("x"), **values)


def test_knobs_leave_out_artifacts_places_and_runtime_settings():
    config = PpoStepConfig(
        out=Path("o"),
        checkpoint=Path("c"),
        rollouts=Path("r"),
        scores=Path("s"),
        demos=(Path("d"),),
        device="cpu",
        overwrite=True,
    )
    assert not knobs(config).keys() & {"out", "overwrite", "device", "checkpoint", "rollouts", "scores", "demos"}
    assert {"epochs", "clip_range", "seed", "dtype"} <= knobs(config).keys()


@pytest.mark.parametrize("config", STAGES)
def test_every_field_that_is_a_path_has_a_role_so_that_no_path_gets_into_a_manifest(config):
    paths = [field for field in fields(config) if "Path" in str(field.kind)]
    assert paths and all(field.roles for field in paths)


def test_knobs_do_not_depend_on_where_things_lie():
    here = SftConfig(out=Path("a"), data=(Path("d"),), checkpoint=Path("c"))
    there = SftConfig(out=Path("b"), data=(Path("e"),), checkpoint=Path("f"), device="cuda", overwrite=True)
    assert knobs(here) == knobs(there)


def test_lists_are_lists_in_knobs_as_json_gives_them_back():
    assert knobs(RolloutConfig(out=Path("o"), task="numberline", env=("image=tiny",)))["env"] == ["image=tiny"]


def test_input_paths_are_the_artifacts_that_were_given():
    config = PpoStepConfig(out=Path("o"), checkpoint=Path("c"), rollouts=Path("r"), demos=(Path("d"), Path("e")))
    assert input_paths(config) == {"checkpoint": Path("c"), "rollouts": Path("r"), "demos": (Path("d"), Path("e"))}


@pytest.mark.parametrize(
    ("config", "name", "text", "value"),
    [
        (SftConfig, "steps", "7", 7),
        (SftConfig, "learning_rate", "3e-4", 3e-4),
        (SftConfig, "learning_rate", 1, 1.0),
        (SftConfig, "data", ["a", "b"], (Path("a"), Path("b"))),
        (SftConfig, "data", "a", (Path("a"),)),
        (RolloutConfig, "expert", "True", True),
        (RolloutConfig, "expert", False, False),
        (RolloutConfig, "checkpoint", None, None),
        (RolloutConfig, "env", "horizon=5", ("horizon=5",)),
        (RolloutConfig, "on_invalid_reply", "noop", "noop"),
        (InitConfig, "lora_alpha", "8", 8.0),
        (SftConfig, "steps", 3.0, 3),
        (RolloutConfig, "out", 3, Path("3")),
    ],
)
def test_text_and_yaml_values_become_the_fields_type(config, name, text, value):
    parsed = parse(field_of(config, name), text)
    assert parsed == value and isinstance(parsed, type(value))


@pytest.mark.parametrize(
    ("config", "name", "text", "said"),
    [
        (SftConfig, "steps", "many", "steps must be a whole number, got 'many'."),
        (SftConfig, "steps", "3.5", "steps must be a whole number, got '3.5'."),
        (SftConfig, "steps", 3.5, "steps must be a whole number, got 3.5."),
        (SftConfig, "steps", float("inf"), "steps must be a whole number, got inf."),
        (SftConfig, "steps", True, "steps must be a whole number, got True."),
        (SftConfig, "steps", None, "steps must be a whole number, got None."),
        (SftConfig, "learning_rate", "fast", "learning-rate must be a number, got 'fast'."),
        (RolloutConfig, "expert", "yes", "expert must be true or false, got 'yes'."),
        (RolloutConfig, "task", ["a"], "task must be text, got ['a']."),
        (RolloutConfig, "out", True, "out must be a path, got True."),
        # As YAML has them: !!set {a}, !!binary aGk=, and more digits than a double has.
        (SftConfig, "learning_rate", {"a"}, "learning-rate must be a number, got {'a'}."),
        (SftConfig, "steps", {"a"}, "steps must be a whole number, got {'a'}."),
        (RolloutConfig, "task", b"hi", "task must be text, got b'hi'."),
        (SftConfig, "steps", Path("3"), f"steps must be a whole number, got {Path('3')!r}."),
        (SftConfig, "steps", 10**400, f"steps must be a whole number, got {'1' + '0' * 27}...{'0' * 29}."),
    ],
)
def test_a_value_of_another_type_is_refused(config, name, text, said):
    with pytest.raises(GtrTurboError) as error:
        parse(field_of(config, name), text)
    assert str(error.value) == said


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(GtrTurboError) as error:
        build(MergeConfig, {"out": "x", "densty": 0.5})
    assert (error.value.what, error.value.fix) == ("unknown setting densty.", "did you mean density?")
    with pytest.raises(GtrTurboError) as error:
        build(MergeConfig, {"out": "x", "xyz": 0.5})
    assert error.value.what == "unknown setting xyz."
    assert error.value.fix == (
        "known: out, overwrite, log, verify-inputs, checkpoints, base, ahead, method, weights, density, gamma, parameters, "
        "trim, scale, normalize, task-vectors, include, exclude, "
        "saturate, missing, rank, seed, recipe, cache, state, verify, dry-run, threads, device"
    )


def test_a_missing_value_is_named_as_its_option():
    with pytest.raises(GtrTurboError, match=r"missing: --checkpoint, --rollouts\."):
        build(PpoStepConfig, {"out": "x"})


def test_keys_may_be_written_with_dashes_or_underscores():
    values = {"out": "x", "data": ["d"], "checkpoint": "c"}
    assert build(SftConfig, values | {"batch-size": "4"}) == build(SftConfig, values | {"batch_size": 4})


def test_built_values_are_checked_too():
    with pytest.raises(GtrTurboError, match=r"density must be in \(0, 1\], got 3.0."):
        build(MergeConfig, {"out": "x", "density": "3.0"})


def test_a_number_without_bounds_must_still_be_a_number():
    with pytest.raises(GtrTurboError, match=r"format-valid must be .*, got nan"):
        build(PpoStepConfig, {"out": "x", "checkpoint": "c", "rollouts": "r", "format-valid": "nan"})


def test_positional_fields_are_lists_or_the_one_artifact_that_is_shown():
    positional = {f"{config.__name__}.{field.name}" for config, field in EVERY_FIELD if Role.POSITIONAL in field.roles}
    assert positional == {"SftConfig.data", "MergeConfig.checkpoints", "ShowConfig.artifact"}


@pytest.mark.parametrize(("config", "field"), EVERY_FIELD, ids=NAMES)
def test_every_number_has_a_range_with_two_finite_ends(config, field):
    if field.kind in (int, float):
        assert isinstance(field.bounds, Between)
        assert math.isfinite(field.bounds.low) and math.isfinite(field.bounds.high)


ODD_NUMBERS = ("9" * 5000, "nan", "inf", "-inf", "1e308", str(10**30), "٣", "1_0", "0x10", "1:30", "", " ", "[]", "1\0", "−1")
NUMBERS = [(config, field) for config, field in EVERY_FIELD if field.kind in (int, float)]


@pytest.mark.parametrize(("config", "field"), NUMBERS, ids=[f"{config.__name__}.{field.name}" for config, field in NUMBERS])
def test_odd_numbers_are_refused_in_a_short_sentence(config, field):
    needed = {other.name: "numberline" for other in fields(config) if other.required}
    for text in ODD_NUMBERS:
        with pytest.raises(GtrTurboError) as error:
            build(config, needed | {field.name: text})
        assert len(error.value.what) < 200
        assert error.value.what.startswith(f"{field.name.replace('_', '-')} must be ")


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (InitConfig, "seed", 2**64),
        (RolloutConfig, "temperature", 1e308),
        (RolloutConfig, "temperature", 1e-320),
        (EvalConfig, "temperature", 1e-320),
        (MergeConfig, "threads", 10**9),
        (RunConfig, "iterations", 10**9),
        (PpoStepConfig, "micro_batch_tokens", "9" * 5000),
        (PpoStepConfig, "micro_batch_tokens", "٣"),
        (MergeConfig, "density", "0.5,nan"),
        (MergeConfig, "density", "0.5,"),
        (ShowConfig, "episode", -1),
    ],
)
def test_a_number_beyond_what_can_be_worked_with_is_refused(config, name, value):
    needed = {
        other.name: Path("numberline") if other.kind is Path else "numberline" for other in fields(config) if other.required
    }
    with pytest.raises(GtrTurboError, match=f"^{name.replace('_', '-')} must be "):
        config(**needed | {name: value})


def test_the_largest_seed_and_the_greedy_temperature_are_taken():
    assert InitConfig(out=Path("x"), seed=2**64 - 1).seed == 2**64 - 1
    assert EvalConfig(out=Path("x"), checkpoint=Path("c"), task="numberline", temperature=0.0).temperature == 0


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "\udcff"])
def test_text_that_no_file_can_hold_is_refused(text):
    for name in ("out", "model", "revision"):
        with pytest.raises(GtrTurboError, match=f"^{name} must be "):
            build(InitConfig, {"out": "x"} | {name: text})
