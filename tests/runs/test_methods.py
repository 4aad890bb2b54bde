"""Methods as records: what the table says, what cannot be said, and a record from the user's own file."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from parsed import parsed
from small_runs import run_config
from typer.testing import CliRunner

import gtrturbo
from gtrturbo.algorithms.credit import CREDITS
from gtrturbo.cli import app
from gtrturbo.config.choices import AMONG_GROUPS, BUILT_IN_CREDITS, BUILT_IN_ENGINES
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.agents import ENGINES
from gtrturbo.runs.method import Method, teacher_of
from gtrturbo.runs.methods import METHODS, method_of
from gtrturbo.runs.plan import plan
from gtrturbo.runs.script import shell

PACKAGE = Path(gtrturbo.__file__).parent
NEWEST = Path(__file__).parents[1] / "plugins" / "newest_loss_method.py"
OWN = f"{NEWEST}:METHOD"


# The table


def test_turbo_loss_is_turbo_kl_with_the_kl_of_distributions_as_a_loss():
    told = ("ppo-step.kl-estimator=full", "distill.top-logprobs=512", "ppo-step.kl-placement=loss")
    assert plan(run_config(method="turbo-loss", merge_every=2)) == plan(run_config(method="turbo-kl", merge_every=2, set=told))
    assert plan(run_config(method="turbo-loss")) != plan(run_config(method="turbo-kl"))


def test_what_a_method_says_may_be_set_otherwise():
    steps = plan(run_config(method="turbo-loss", set=("ppo-step.kl-estimator=k2", "distill.top-logprobs=0")))
    assert {step.config.kl_estimator for step in steps if step.stage == "ppo-step"} == {"k2"}
    with pytest.raises(GtrTurboError, match="distill keeps none"):
        plan(run_config(method="turbo-loss", set=("distill.top-logprobs=0",)))


def test_a_method_of_every_teacher_is_planned(monkeypatch):
    """A record that is in no table decides the plan by its fields alone."""
    taught = {
        "merged": ["teachers/0000", "teachers/0001"],
        "newest": ["checkpoints/0000", "checkpoints/0001"],
        "static": ["checkpoints/0000", "checkpoints/0000"],
        "given": ["big", "big"],
    }
    for teacher, expected in taught.items():
        method = Method(summary="", teacher=teacher, annotation="logprobs", guidance="advantage", environment=0.5)
        monkeypatch.setitem(METHODS, "mine", method)
        given = {"teacher": Path("big")} if teacher == "given" else {}
        steps = plan(run_config(method="mine", **given))
        found = [step.config.teacher.as_posix().removeprefix("r/") for step in steps if step.stage == "distill"]
        assert found == expected
        updates = [step.config for step in steps if step.stage == "ppo-step"]
        assert {(update.kl_placement, update.environment_coef) for update in updates} == {("advantage", 0.5)}
        assert ("merge" in {step.stage for step in steps}) == (teacher == "merged")


@pytest.mark.parametrize(("teacher", "expected"), [("merged", ["teachers/0000"] * 3), ("newest", ["checkpoints/0000"] * 3)])
def test_a_teacher_that_is_never_made_anew_is_that_of_the_first_update(monkeypatch, teacher, expected):
    method = Method(summary="", teacher=teacher, annotation="logprobs", guidance="reward", refresh="never")
    monkeypatch.setitem(METHODS, "mine", method)
    steps = plan(run_config(method="mine", iterations=3))
    assert [step.config.teacher.as_posix().removeprefix("r/") for step in steps if step.stage == "distill"] == expected
    assert [step.config.checkpoints for step in steps if step.stage == "merge"] == ([()] if teacher == "merged" else [])
    with pytest.raises(GtrTurboError, match="merges no teachers"):
        plan(run_config(method="mine", merge_every=2))


def test_a_teacher_that_moves_on_evidence_is_merged_after_the_newest_checkpoint_has_played(monkeypatch):
    method = Method(summary="", teacher="merged", refresh="ahead", annotation="logprobs", guidance="reward")
    monkeypatch.setitem(METHODS, "mine", method)
    steps = plan(run_config(method="mine", iterations=3))
    assert [step.stage for step in steps if step.iteration == 3 and step.stage != "eval"] == [
        "rollout",
        "merge",
        "distill",
        "ppo-step",
    ]
    merges = [step.config for step in steps if step.stage == "merge"]
    assert [[path.as_posix() for path in merge.ahead] for merge in merges] == [
        ["r/rollouts/0000"],
        ["r/rollouts/0000", "r/rollouts/0001"],
        ["r/rollouts/0000", "r/rollouts/0001", "r/rollouts/0002"],
    ]
    assert [path.as_posix() for path in merges[2].checkpoints] == ["r/checkpoints/0001", "r/checkpoints/0002"]


@pytest.mark.parametrize("teacher", ["merged", "newest", "static", "given"])
def test_a_teacher_of_every_kind_is_told_what_its_method_or_else_the_run_says(monkeypatch, teacher):
    taught = {"teacher": teacher, "annotation": "distributions", "top_logprobs": 8, "guidance": "loss", "beside": "imitation"}
    monkeypatch.setitem(METHODS, "mine", Method(summary="", hints=("outcome",), **taught))
    given = {"method": "mine"} | ({"teacher": Path("big")} if teacher == "given" else {})
    for asked, told in (((), ("outcome",)), (("truth", "expert"), ("truth", "expert"))):
        steps = plan(run_config(**given, hints=asked))
        assert {step.config.hints for step in steps if step.stage == "distill"} == {told}
        assert {step.config.hints for step in steps if step.stage in ("rollout", "eval")} == {()}
        assert all(parsed(line).hints == told for line in shell(steps).splitlines() if line.startswith("gtrturbo distill"))


@pytest.mark.parametrize(("method", "more"), [("ppo", {}), ("grpo", {}), ("gtr", {})])
def test_nobody_is_told_where_no_model_teaches(method, more):
    with pytest.raises(GtrTurboError, match=f"--hints are for a model that teaches, and --method {method} has none"):
        plan(run_config(method=method, hints=("truth",), **more))
    assert plan(run_config(method="gtr", teacher=Path("big"), hints=("truth",)))


def test_the_code_of_a_task_is_named_to_who_is_told_what_it_knows():
    for hint, named in (("truth", "lake.py:TASK"), ("outcome", None)):
        steps = plan(run_config(method="turbo-loss", task="lake.py:TASK", hints=(hint,)))
        assert {step.config.task for step in steps if step.stage == "distill"} == {named}


def test_opsd_is_the_start_told_the_truth_as_a_loss_and_no_reward():
    steps = plan(run_config(method="opsd"))
    asked = [step.config for step in steps if step.stage == "distill"]
    assert {(each.teacher.as_posix(), each.mode, each.hints) for each in asked} == {("r/checkpoints/0000", "kl", ("truth",))}
    updates = [step.config for step in steps if step.stage == "ppo-step"]
    assert {(each.kl_estimator, each.kl_placement, each.environment_coef) for each in updates} == {("full", "loss", 0.0)}


def test_imitation_goes_beside_a_kl(monkeypatch):
    """Both channels of one teacher: its scores of this update's turns, and all its thoughts since the start."""
    taught = {"teacher": "merged", "annotation": "distributions", "top_logprobs": 8, "guidance": "loss"}
    monkeypatch.setitem(METHODS, "mine", Method(summary="", beside="imitation", **taught))
    steps = plan(run_config(method="mine", iterations=2))
    asked = [
        (step.config.out.as_posix(), step.config.mode, step.config.top_logprobs) for step in steps if step.stage == "distill"
    ]
    assert asked[2:] == [("r/guidance/0001", "kl", 8), ("r/demos/0001", "thoughts", 0)]
    assert {step.config.teacher.as_posix() for step in steps if step.stage == "distill"} == {"r/teachers/0000", "r/teachers/0001"}
    last = [step.config for step in steps if step.stage == "ppo-step"][-1]
    assert last.scores.as_posix() == "r/guidance/0001"
    assert [path.as_posix() for path in last.demos] == ["r/demos/0000", "r/demos/0001"]


def test_the_kl_of_single_tokens_as_a_loss_is_the_one_whose_gradient_is_the_kls(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method(summary="", teacher="static", annotation="logprobs", guidance="loss"))
    updates = [step.config for step in plan(run_config(method="mine")) if step.stage == "ppo-step"]
    assert {(update.kl_placement, update.kl_estimator) for update in updates} == {("loss", "k2")}


def test_a_method_whose_expert_teaches_takes_no_other_teacher(monkeypatch):
    method = Method(summary="", teacher="expert", annotation="thoughts", guidance="imitation")
    monkeypatch.setitem(METHODS, "mine", method)
    assert {step.config.expert for step in plan(run_config(method="mine")) if step.stage == "distill"} == {True}
    with pytest.raises(GtrTurboError, match="--method mine brings its own teacher"):
        plan(run_config(method="mine", teacher=Path("big")))


def test_a_given_teacher_falls_back_to_what_the_record_says():
    assert [teacher_of(METHODS[name], given=False) for name in ("gtr", "static-kl", "opd")] == ["expert", "static", "none"]
    assert {teacher_of(METHODS[name], given=True) for name in ("gtr", "static-kl", "opd")} == {"given"}
    assert teacher_of(METHODS["turbo-kl"], given=True) == "merged"


def test_credit_and_the_size_of_a_group_are_handed_to_the_stages(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method(summary="", credit="group", group_size=2))
    steps = plan(run_config(method="mine"))
    assert {step.config.credit for step in steps if step.stage == "ppo-step"} == {"group"}
    assert [step.config.group_size for step in steps if step.stage == "rollout"] == [1, 2, 2]  # The first is the expert's.


def test_grpo_and_gigpo_are_ppo_with_another_credit_on_groups_of_eight():
    for method, credit in (
        ("grpo", ("ppo-step.credit=group",)),
        ("gigpo", ("ppo-step.credit=step-group", "ppo-step.gamma=0.95")),
    ):
        told = ("rollout.group-size=8", *credit)
        assert plan(run_config(method=method)) == plan(run_config(method="ppo", set=told))
        smaller = plan(run_config(method=method, group_size=4))
        assert smaller == plan(run_config(method="ppo", group_size=4, set=told[1:])) != plan(run_config(method=method))


def test_a_methods_own_discount_counts_over_the_tasks_and_under_the_users():
    for task in ("numberline", "ezpoints"):
        assert {step.config.gamma for step in plan(run_config(method="gigpo", task=task)) if step.stage == "ppo-step"} == {0.95}
    chosen = plan(run_config(method="gigpo", set=("ppo-step.gamma=0.5",)))
    assert {step.config.gamma for step in chosen if step.stage == "ppo-step"} == {0.5}


def test_a_credit_among_groups_is_refused_where_there_are_none():
    assert {name for name, credit in CREDITS.items() if credit.needs_groups} == set(AMONG_GROUPS)
    assert {name for name, credit in CREDITS.items() if not credit.needs_values} == set(AMONG_GROUPS)
    assert list(CREDITS) == list(BUILT_IN_CREDITS)
    assert list(ENGINES) == list(BUILT_IN_ENGINES)
    with pytest.raises(GtrTurboError, match="--credit step-group compares episodes of one deal") as error:
        plan(run_config(method="ppo", set=("ppo-step.credit=step-group",)))
    assert error.value.fix == "add: --group-size 8"
    with pytest.raises(GtrTurboError, match="--episodes 12 is no multiple of --group-size 8") as error:
        plan(run_config(method="grpo", episodes=12))
    assert error.value.fix == "give: --episodes 16"


def test_no_other_file_of_the_package_compares_names_of_methods():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            texts = [text.value for part in parts for text in ast.walk(part) if isinstance(text, ast.Constant)]
            found += [f"{file.name}:{node.lineno}: {text}" for text in texts if text in METHODS]
    assert found == []


# What cannot be said


TAUGHT = {"summary": "", "teacher": "merged", "annotation": "logprobs", "guidance": "reward"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"teacher": "wise"}, "teacher must be one of none, merged, static, newest, given, expert, got wise."),
        ({"annotation": "grades"}, "annotation must be one of none, logprobs, distributions, thoughts, got grades."),
        ({"guidance": "hope"}, "guidance must be one of none, reward, advantage, return, loss, imitation, got hope."),
        ({"refresh": "sometimes"}, "refresh must be one of every, ahead, never, got sometimes."),
        ({"environment": -1.0}, "environment must be in [0, 1e+09], got -1.0."),
        ({"environment": "all"}, "environment of a method must be a number, got 'all'."),
        ({"credit": 3}, "credit of a method must be text, got 3."),
        ({"teacher": "none"}, "annotation logprobs without a teacher."),
        ({"annotation": "none", "guidance": "none"}, "teacher merged annotates nothing."),
        ({"guidance": "imitation"}, "guidance imitation is not made of annotation logprobs."),
        ({"guidance": "none"}, "guidance none is not made of annotation logprobs."),
        ({"annotation": "thoughts"}, "guidance reward is not made of annotation thoughts."),
        ({"teacher": "expert"}, "a scripted expert has no log-probs."),
        ({"teacher": "given", "fallback": "expert"}, "a scripted expert has no log-probs."),
        ({"fallback": "static"}, "fallback static beside teacher merged."),
        ({"teacher": "newest", "refresh": "ahead"}, "refresh ahead with teacher newest."),
        ({"annotation": "thoughts", "guidance": "imitation", "beside": "imitation"}, "imitation beside guidance imitation."),
        ({"hints": ("thruth",)}, "hints must be among truth, expert, outcome, got thruth."),
        ({"hints": ("truth", "truth")}, "hints holds truth twice."),
        ({"hints": "truth"}, "hints of a method must be a tuple of texts, got 'truth'."),
        ({"hints": ("truth",), "teacher": "none", "annotation": "none", "guidance": "none"}, "hints for no model that teaches."),
        (
            {"hints": ("truth",), "teacher": "given", "fallback": "expert", "annotation": "thoughts", "guidance": "imitation"},
            "hints for no model that teaches.",
        ),
        ({"annotation": "distributions"}, "top_logprobs 0 with annotation distributions."),
        ({"top_logprobs": 8}, "top_logprobs 8 with annotation logprobs."),
        ({"teacher": "none", "annotation": "none", "guidance": "none", "environment": 0.0}, "environment 0 without a teacher"),
    ],
)
def test_a_record_that_cannot_be_is_refused_by_its_field(changed, told):
    with pytest.raises(GtrTurboError) as error:
        Method(**(TAUGHT | changed))  # type: ignore[arg-type]
    assert error.value.what.startswith(told)


# One of the user's own


def test_a_method_of_the_users_own_prints_its_shell():
    result = CliRunner().invoke(app, ["run", "--out", "r", "--iterations", "2", "--method", OWN, "--dry-run"])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if line.startswith("gtrturbo")]
    assert lines == shell(plan(run_config(method=OWN))).splitlines()[2:]
    taught = [parsed(line) for line in lines if line.startswith("gtrturbo distill")]
    assert [(config.teacher.as_posix(), config.top_logprobs) for config in taught] == [
        ("r/checkpoints/0000", 16),
        ("r/checkpoints/0001", 16),
    ]
    updates = [parsed(line) for line in lines if line.startswith("gtrturbo ppo-step")]
    assert {(update.kl_estimator, update.kl_placement) for update in updates} == {("full", "loss")}


def test_a_method_is_found_in_a_module_too(monkeypatch):
    monkeypatch.syspath_prepend(NEWEST.parent)
    assert method_of("newest_loss_method:METHOD") == method_of(OWN)


def refused(*words: str) -> list[str]:
    result = CliRunner().invoke(app, ["run", "--out", "r", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()


def test_an_unknown_method_is_refused_before_anything_else():
    what, fix = refused("--method", "turbo-k", "--set", "nonsense", "--dry-run")
    assert what == "there is no method 'turbo-k'."
    assert fix.startswith("did you mean turbo-kl") and f"built in: {', '.join(METHODS)}" in fix


def test_what_is_no_method_is_refused_by_what_it_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def method():\n    pass\n\n\nTABLE = {}\n")
    for name, told in (("method", "function"), ("TABLE", "dict")):
        what, fix = refused("--method", f"{file}:{name}")
        assert what == f"{file}:{name} is a {told}, not a Method."
        assert "from gtrturbo.runs.methods import Method" in fix


def test_a_record_that_cannot_be_names_the_users_own_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from gtrturbo.runs.methods import Method\n\nMETHOD = Method(summary='', teacher='wise')\n")
    [what] = refused("--method", f"{file}:METHOD")
    assert what == f"{file} line 3: teacher must be one of none, merged, static, newest, given, expert, got wise."


def test_the_help_says_a_sentence_of_every_method(monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    told = " ".join(CliRunner().invoke(app, ["run", "--help"]).stdout.split())
    assert [name for name, method in METHODS.items() if f"{name}: {method.summary}" not in told] == []


def test_records_can_be_changed_as_any_dataclass():
    assert replace(METHODS["turbo-kl"], guidance="return").guidance == "return"
    with pytest.raises(GtrTurboError):
        replace(METHODS["turbo-kl"], guidance="imitation")
