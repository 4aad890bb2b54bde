"""What teachers write and what updates read go together, and an option of --set reaches the steps that it has a part in."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import run_config

from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.execute import check
from gtrturbo.runs.method import Method
from gtrturbo.runs.methods import METHODS
from gtrturbo.runs.plan import plan
from gtrturbo.store.pruned import prune

BLIND = f"{Path(__file__).parents[2] / 'examples/reproduce/release.py'}:BLIND"
TERSE = Path(__file__).parents[1] / "plugins" / "terse_teacher.py"
BESIDE = Method(summary="", teacher="merged", annotation="distributions", top_logprobs=8, guidance="loss", beside="imitation")


def asked_of(**settings) -> list:
    return [step.config for step in plan(run_config(**settings)) if step.stage == "distill"]


LATE = [
    (
        {"method": "static-loss", "teacher": Path("a"), "more_teachers": (Path("b"),)},
        "--method static-loss keeps the likeliest tokens of one checkpoint that teaches, and 2 are given.",
        "use --method opd or static-kl, or name one checkpoint as --teacher.",
    ),
    (
        {"set": ("rollout.hints=truth",)},
        "--set rollout.hints is of an expert's turns, and a checkpoint plays there.",
        "give: --set expert.hints=truth",
    ),
    (
        {"start": Path("c"), "set": ("rollout.hints=truth",)},
        "--hints are for an expert's turns, and a checkpoint plays.",
        "leave it out, or add: --expert",
    ),
    (
        {"set": ("rollout.expert=true",)},
        "--set rollout.expert cannot be set: a checkpoint plays what it learns from.",
        "leave it out.",
    ),
    (
        {"set": ("expert.expert=false",)},
        "a rollout needs either --checkpoint or --expert.",
        "give one of the two.",
    ),
    (
        {"set": ("distill.mode=thoughts",)},
        "--set distill.mode=thoughts writes demos, and --method turbo-kl learns from scores.",
        "leave it out, or use --method turbo-sft or gtr.",
    ),
    (
        {"method": "turbo-sft", "set": ("distill.mode=kl",)},
        "--set distill.mode=kl writes scores, and --method turbo-sft learns from demos.",
        "leave it out, or use --method turbo-kl or static-kl.",
    ),
    (
        {"set": ("distill.engine=openai:http://localhost:1",)},
        "scores are the teacher's log-probs, computed here.",
        "leave out --engine openai:http://localhost:1, or --mode kl.",
    ),
    (
        {"set": ("ppo-step.credit=group", "ppo-step.kl-placement=return", "rollout.group-size=8"), "episodes": 8},
        "--kl-placement return enters the value targets, and credit group has none.",
        "use --kl-placement reward or advantage.",
    ),
    (
        {"method": "opd", "teacher": Path("a"), "more_teachers": (Path("b"),), "teacher_weights": "1,2,3"},
        "--teacher-weights has 3 numbers for 2 teachers.",
        "give one for each, such as 2,1.",
    ),
    (
        {"method": "gtr", "teacher": Path("a"), "set": ("distill.prompt=q.txt",)},
        "--prompt is for a teacher on a server, or a model with --mode correct.",
        "leave it out, or name one: --teacher openai:MODEL",
    ),
    (
        {"lora_rank": 8, "set": ("init.lora-alpha=16",)},
        "--set init.lora-alpha is of an adapter, which a built-in model gets after its warm start.",
        "give: --set adapter.lora-alpha=16",
    ),
    (
        {"lora_rank": 8, "set": ("init.lora-target=q_proj", "init.lora-target=v_proj")},
        "--set init.lora-target is of an adapter, which a built-in model gets after its warm start.",
        "give: --set adapter.lora-target=q_proj --set adapter.lora-target=v_proj",
    ),
]


@pytest.mark.parametrize(("settings", "what", "fix"), LATE)
def test_what_a_later_stage_would_refuse_is_refused_by_the_plan(settings, what, fix):
    with pytest.raises(GtrTurboError) as error:
        plan(run_config(**settings))
    assert (error.value.what, error.value.fix) == (what, fix)


def test_what_changes_nothing_is_no_setting_of_another_step():
    assert plan(run_config(set=("rollout.expert=false", "rollout.random-expert-share=0"))) == plan(run_config())


def test_a_teacher_of_ones_own_has_no_distributions(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("def TEACHER(questions):\n    return [-1.0 * q.response_ids for q in questions]\n")
    with pytest.raises(GtrTurboError) as error:
        plan(run_config(method="static-loss", teacher=Path(f"{code}:TEACHER")))
    told = f"--method static-loss keeps the likeliest tokens of one checkpoint that teaches, and {code}:TEACHER gives none."
    assert (error.value.what, error.value.fix) == (told, "use --method opd or static-kl, or name one checkpoint as --teacher.")
    assert plan(run_config(method="static-kl", teacher=Path(f"{code}:TEACHER")))


def test_a_mixture_is_taken_where_the_user_keeps_no_distributions():
    kept = ("distill.top-logprobs=0", "ppo-step.kl-estimator=k2")
    assert plan(run_config(method="static-loss", teacher=Path("a"), more_teachers=(Path("b"),), set=kept))


def test_the_published_kl_goes_with_every_method_of_a_kl():
    """Its mode keeps no likeliest tokens, which turbo-gated asks for and the published estimator does not need."""
    told = (f"distill.mode={BLIND}", f"ppo-step.kl-estimator={BLIND}_KL", "ppo-step.kl-placement=return")
    for method in ("turbo-gated", "turbo-kl"):
        assert {each.top_logprobs for each in asked_of(method=method, set=told)} == {0}
    with pytest.raises(GtrTurboError, match=r"needs log-probs of the tokens sampled, .*BLIND need not tell\.\nadd the one that"):
        plan(run_config(method="turbo-kl", set=told[:1]))


def test_the_code_of_a_task_is_named_to_who_is_told_by_set_and_to_a_teacher_that_is_code(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("def TEACHER(questions):\n    return [-1.0 * q.response_ids for q in questions]\n")
    own = {"task": "lake.py:TASK", "method": "static-kl"}
    for more, named in (
        ({"set": ("distill.hints=truth",)}, "lake.py:TASK"),
        ({"set": ("distill.hints=outcome",)}, None),
        ({"teacher": Path(f"{code}:TEACHER")}, "lake.py:TASK"),
        ({"teacher": Path("big")}, None),
    ):
        assert {each.task for each in asked_of(**own, **more)} == {named}


# Two steps of one name


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", BESIDE)

    def asked(*settings: str) -> tuple:
        *_, scores, demos = asked_of(method="mine", set=settings)
        assert (scores.out.parent.name, demos.out.parent.name) == ("guidance", "demos")
        return scores, demos

    return asked


def test_an_option_reaches_the_one_of_two_distills_that_it_has_a_part_in(beside):
    plain = beside()
    hot = beside("distill.temperature=0.7", "distill.retries=1", "distill.max-new-tokens=40")
    assert hot == (plain[0], replace(plain[1], temperature=0.7, retries=1, max_new_tokens=40))
    served = beside("distill.engine=vllm:http://localhost:1", "distill.served-model=m")
    assert served == (plain[0], replace(plain[1], engine="vllm:http://localhost:1", served_model="m"))
    assert beside("distill.top-logprobs=64") == (replace(plain[0], top_logprobs=64), plain[1])
    assert beside("distill.mode=correct") == (plain[0], replace(plain[1], mode="correct", retries=plain[1].retries))
    both = beside("distill.seed=3", "distill.micro-batch-tokens=100", "distill.hints=truth")
    assert both == tuple(replace(each, seed=3, micro_batch_tokens="100", hints=("truth",)) for each in plain)


def test_an_option_that_neither_of_two_distills_has_a_part_in_is_refused(beside):
    with pytest.raises(GtrTurboError, match="--reply-format is for a teacher on a server"):
        beside("distill.temperature=0.7", "distill.reply-format=json")
    with pytest.raises(GtrTurboError, match="distill keeps none"):
        beside("distill.top-logprobs=0")


# Files of the user's own, which the plan does not read


def looked_at(**settings) -> None:
    config = run_config(**settings)
    check(config, plan(config))


def test_files_that_a_teacher_would_be_asked_with_are_read_before_any_work(tmp_path):
    served = {"out": tmp_path / "r", "method": "gtr", "teacher": Path("openai:m"), "address": "http://localhost:1"}
    files = {
        "odd.txt": "$reply and $who",
        "plain.txt": "$prompt",
        "own.yaml": "dated: 2026-01-01\ncurrency: USD\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for more, said in (
        ({"set": (f"distill.prompt={tmp_path}/gone.txt",)}, r"there is no file .*gone.txt for --prompt"),
        ({"set": (f"distill.repair-prompt={tmp_path}/odd.txt",)}, r"odd.txt asks for \$reply, which is not known"),
        ({"hints": ("truth",), "set": (f"distill.prompt={tmp_path}/plain.txt",)}, "--hints has no place in .*plain.txt"),
        ({"prices": tmp_path / "gone.yaml"}, "gone.yaml"),
        ({"prices": tmp_path / "own.yaml"}, "--prices says nothing of m"),
    ):
        with pytest.raises((GtrTurboError, FileNotFoundError), match=said):
            looked_at(**served, **more)
    looked_at(**served, set=(f"distill.prompt={tmp_path}/plain.txt",))


def test_a_start_whose_optimiser_was_pruned_is_refused_before_any_work(ppo, tmp_path):
    start = tmp_path / "0001"
    shutil.copytree(ppo, start)
    prune(start, ["optimizer.safetensors"], remake="gtrturbo ppo-step …")
    with pytest.raises(GtrTurboError) as error:
        looked_at(out=tmp_path / "r", method="ppo", start=start)
    assert error.value.what == f"optimizer.safetensors of {start} was pruned, and ppo-step reads it."
    assert error.value.fix == "make it again with: gtrturbo ppo-step …"
    looked_at(out=tmp_path / "r", method="ppo", start=start, iterations=0)
