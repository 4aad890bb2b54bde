"""What compare calls a method: runs of other code, teachers or schedules are no seeds of one."""

import json
from pathlib import Path

import pytest
from made_runs import make_run, timed

from gtrturbo.analysis.groups import group_runs, method_names
from gtrturbo.analysis.history import read_history
from gtrturbo.errors import GtrTurboError
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing

METHOD = "from gtrturbo.runs.methods import Method\nM = Method(summary='{}')\n"


def names(*runs: Path) -> list[str]:
    return method_names([read_history(run) for run in runs])


def update(run: Path, stage: str, folder: str, **plugins: str) -> None:
    """Make an artifact of a run by code of the user's own: the sha256 of the file by option."""
    told = {option: {"name": f"my.py:{option.upper()}", "sha256": sha256} for option, sha256 in plugins.items()}
    with writing(run / folder / "0001", Provenance(stage, "checkpoint", {}, {}, told)):
        pass
    timed(run / folder / "0001", 1.0)


def digits(digit: str) -> str:
    return 64 * digit


def test_a_method_that_was_edited_between_two_seeds_is_two_methods(tmp_path):
    runs = []
    for seed, words in enumerate(("one", "one", "other")):
        (tmp_path / "m.py").write_text(METHOD.format(words))
        runs.append(make_run(tmp_path / f"{seed}", f"{tmp_path}/m.py:M", seed, {0: [1, 0]}))
    first, second, third = names(*runs)
    assert names(*runs[:2]) == ["m.py:M", "m.py:M"]
    assert first == second != third
    sha256 = json.loads((runs[2] / "run.json").read_text())["sources"]["m.py:M"]
    assert third == f"m.py:M m.py sha256={sha256[:6]}"


def test_methods_of_one_name_from_two_folders_are_two_methods(tmp_path):
    runs = []
    for seed, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(METHOD.format(folder))
        runs.append(make_run(tmp_path / f"{seed}", f"{tmp_path / folder}/m.py:M", seed, {0: [1, 0]}))
    assert len(group_runs([read_history(run) for run in runs])) == 2


@pytest.mark.parametrize(
    ("stage", "folder", "option"),
    [
        ("ppo-step", "checkpoints", "credit"),
        ("ppo-step", "checkpoints", "guard"),
        ("merge", "teachers", "method"),
        ("distill", "guidance", "teacher"),
        ("distill", "demos", "prompt"),
        ("rollout", "rollouts", "task"),
        ("eval", "evals", "engine"),
    ],
)
def test_code_of_a_stage_that_was_edited_between_two_seeds_is_told(tmp_path, stage, folder, option):
    runs = [make_run(tmp_path / f"{seed}", "turbo-kl", seed, {0: [1, 0]}) for seed in range(3)]
    for run, digit in zip(runs, "aab", strict=True):
        update(run, stage, folder, **{option: digits(digit)})
    assert names(*runs) == [f"turbo-kl my.py sha256={6 * digit}" for digit in "aab"]
    assert names(*runs[:2]) == ["turbo-kl", "turbo-kl"]


def test_a_run_that_has_not_come_to_its_own_code_is_not_told_from_others(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", "turbo-kl", seed, {0: [1, 0]}) for seed in range(2)]
    update(runs[0], "ppo-step", "checkpoints", credit=digits("a"))
    assert names(*runs) == ["turbo-kl", "turbo-kl"]


def test_one_edited_file_that_two_stages_took_is_told_once(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", "turbo-kl", seed, {0: [1, 0]}) for seed in range(2)]
    for run, digit in zip(runs, "ab", strict=True):
        update(run, "ppo-step", "checkpoints", credit=digits(digit), guard=digits(digit))
        update(run, "merge", "teachers", method=digits(digit))
    assert names(*runs) == ["turbo-kl my.py sha256=aaaaaa", "turbo-kl my.py sha256=bbbbbb"]


def test_weights_of_teachers_are_part_of_the_name(tmp_path):
    runs = [
        make_run(
            tmp_path / f"{seed}",
            "opd",
            seed,
            {0: [1, 0]},
            teacher=Path("a"),
            more_teachers=(Path("b"),),
            teacher_weights=weights,
        )
        for seed, weights in enumerate(("9,1", "1,9"))
    ]
    assert names(*runs) == ["opd teacher-weights=9,1", "opd teacher-weights=1,9"]


def test_iterations_are_part_of_the_name_where_the_learning_rate_falls_over_them(tmp_path):
    def runs(**settings) -> list[Path]:
        made = [tmp_path / f"{len(list(tmp_path.iterdir()))}-{count}" for count in (25, 50)]
        return [
            make_run(out, "ppo", seed, {0: [1, 0]}, iterations=count, **settings)
            for seed, (out, count) in enumerate(zip(made, (25, 50), strict=True))
        ]

    assert names(*runs(model="Qwen/Qwen2.5-VL-3B-Instruct")) == ["ppo iterations=25", "ppo iterations=50"]
    assert names(*runs()) == ["ppo", "ppo"]
    said = ("ppo-step.schedule-updates=50",)
    assert names(*runs(model="Qwen/Qwen2.5-VL-3B-Instruct", set=said)) == ["ppo", "ppo"]


def test_a_label_that_is_also_a_methods_name_is_told_apart_from_it(tmp_path):
    labelled = make_run(tmp_path / "a", "turbo-gated", 0, {0: [1, 0]}, label="ppo")
    plain = make_run(tmp_path / "b", "ppo", 1, {0: [1, 0]})
    assert names(labelled, plain) == ["ppo (label)", "ppo"]
    assert names(labelled) == ["ppo"]


def test_two_runs_of_one_method_and_seed_are_told_how_to_name_one(tmp_path):
    twice = [read_history(make_run(tmp_path / name, "ppo", 0, {0: [1, 0]})) for name in "ab"]
    with pytest.raises(GtrTurboError) as error:
        group_runs(twice)
    assert "the same options" in str(error.value.fix) and str(error.value.fix).endswith("--label NAME")
