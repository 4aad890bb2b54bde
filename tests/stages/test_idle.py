"""An option that has no part in a stage under its other options is refused by name, before any work."""

from pathlib import Path

import pytest
from parsed import parsed
from test_early_refusals import refused

from gtrturbo.errors import GtrTurboError
from gtrturbo.stages.idle import require_effect

UPDATE = "ppo-step --checkpoint c --rollouts t --out x"
EXPERT = "rollout --expert --task numberline --out x"
PLAYS = "rollout --checkpoint c --task numberline --out x"
EVAL = "eval --checkpoint c --task numberline --out x"
TEACHES = "distill --teacher c --rollouts t --out x"
THINKS = f"{TEACHES} --mode thoughts"
KNOWS = "distill --expert --mode thoughts --rollouts t --out x"
ON_SERVER = "distill --teacher openai:m --address http://localhost:8000 --mode thoughts --rollouts t --out x"
OWN = "--engine own.py:ENGINE"
SERVER = "--engine vllm:http://localhost:8000"

IDLE = [
    *((f"{UPDATE} --credit {credit}", "--gae-lambda 0.5") for credit in ("group", "group-mean", "step-group", "step-group-mean")),
    *(
        (f"{UPDATE} --credit group", option)
        for option in ("--value-coef 1", "--value-clip-range 1", "--value-learning-rate 1e-3")
    ),
    (f"{UPDATE} --credit step-group", "--detach-value"),
    *((f"{UPDATE} --credit {credit}", "--gamma 0.5") for credit in ("group", "group-mean")),
    (UPDATE, "--final-learning-rate 1e-6"),
    *((EXPERT, option) for option in ("--temperature 0.5", "--max-new-tokens 9", "--on-invalid-reply end", "--dtype bfloat16")),
    *((EXPERT, option) for option in (SERVER, "--served-model m", "--no-probe", "--probe-turns p", "--vllm-python p")),
    *((stage, option) for stage in (PLAYS, EVAL, THINKS) for option in ("--served-model m", "--no-probe", "--probe-turns p")),
    *((f"{stage} {OWN}", option) for stage in (PLAYS, EVAL, THINKS) for option in ("--no-probe", "--dtype bfloat16")),
    *((f"{stage}{engine}", "--vllm-python p") for stage in (PLAYS, EVAL, THINKS) for engine in ("", f" {SERVER}")),
    (f"{PLAYS} {SERVER} --no-probe", "--probe-turns p"),
    (f"{EVAL} --panel fixed", "--episodes 3"),
    *((TEACHES, option) for option in ("--retries 1", "--temperature 0.5", "--max-new-tokens 9")),
    *((stage, option) for stage in (TEACHES, THINKS, KNOWS) for option in ("--at-once 3", "--answer-timeout 9")),
    (THINKS, "--reply-format json"),
    (THINKS, "--teacher-weights 1"),
    *((KNOWS, option) for option in ("--temperature 0.5", "--max-new-tokens 9", "--retries 1", "--micro-batch-tokens 99")),
    *((KNOWS, option) for option in (SERVER, "--dtype bfloat16", "--no-probe")),
    *((ON_SERVER, option) for option in ("--retries 1", SERVER, "--dtype bfloat16", "--micro-batch-tokens 99")),
    (f"{TEACHES} --mode correct", "--retries 1"),
    (f"{THINKS} {OWN}", "--retries 1"),
    ("init --model m --out x", "--lora-target language"),
    ("init --model m --out x", "--lora-alpha 4"),
    ("init --model tiny --out x", "--revision main"),
]
AT_WORK = [
    (UPDATE, "--gae-lambda 0.5 --value-coef 1 --value-clip-range 1 --value-learning-rate 1e-3 --detach-value --gamma 0.5"),
    (f"{UPDATE} --credit token", "--gae-lambda 0.5 --value-coef 1 --value-learning-rate 1e-3"),
    (f"{UPDATE} --credit step-group", "--gamma 0.5"),
    (UPDATE, "--final-learning-rate 1e-6 --schedule-updates 3"),
    (EXPERT, "--episodes 3 --num-envs 2 --seed 3 --random-expert-share 0.5"),
    (PLAYS, "--temperature 0.5 --max-new-tokens 9 --on-invalid-reply end --dtype bfloat16"),
    (PLAYS, f"{SERVER} --served-model m --probe-turns p"),
    (EVAL, f"{SERVER} --no-probe"),
    (EVAL, "--engine vllm --vllm-python p"),
    (TEACHES, "--micro-batch-tokens 99 --dtype bfloat16"),
    (THINKS, "--temperature 0.5 --max-new-tokens 9 --retries 1 --micro-batch-tokens 99"),
    (f"{TEACHES} --mode own.py:MODE", "--temperature 0.5"),
    (ON_SERVER, "--temperature 0.5 --max-new-tokens 9 --at-once 3 --answer-timeout 9 --reply-format json"),
    (f"{ON_SERVER} --teacher c", "--retries 1 --at-once 3 --teacher-weights 1,2"),
    ("init --model m --out x --lora-rank 4", "--lora-target language --lora-alpha 4"),
]


@pytest.mark.parametrize(("command", "option"), IDLE)
def test_an_option_without_effect_is_refused_by_name(command, option, tmp_path, monkeypatch):
    own_mode(tmp_path, monkeypatch)
    with pytest.raises(GtrTurboError) as error:
        require_effect(parsed(f"{command} {option}"))
    assert error.value.what.startswith(f"{option.split()[0]} ") and "leave it out" in error.value.fix


@pytest.mark.parametrize(("command", "option"), AT_WORK)
def test_an_option_with_an_effect_is_not(command, option, tmp_path, monkeypatch):
    own_mode(tmp_path, monkeypatch)
    require_effect(parsed(f"{command} {option}"))
    require_effect(parsed(command))


def own_mode(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    mode = "from gtrturbo.play.teachers import Mode\nMODE = Mode(writes='scores', needs='policy', annotate=print)\n"
    Path("own.py").write_text(mode)


@pytest.mark.parametrize("needs_values", [True, False])
def test_a_credit_of_ones_own_says_itself_whether_it_has_values(needs_values, tmp_path):
    (tmp_path / "own.py").write_text(
        f"from gtrturbo.algorithms.credit import Credit\nCREDIT = Credit(print, needs_values={needs_values})\n"
    )
    asked = parsed(f"{UPDATE} --credit {tmp_path}/own.py:CREDIT --value-coef 1 --gae-lambda 0.5")
    if needs_values:
        require_effect(asked)
    else:
        with pytest.raises(GtrTurboError, match=r"--value-coef is of values, and --credit .*own.py:CREDIT has none"):
            require_effect(asked)


def test_a_stage_refuses_it_before_anything_heavy_is_imported(tmp_path, warm, turns):
    words = ["ppo-step", "--checkpoint", warm, "--rollouts", turns, "--out", tmp_path / "x", "--credit", "group"]
    said, imported = refused(*words, "--value-coef", "1")
    assert "--value-coef is of values, and --credit group has none" in said
    assert imported == "False False"


def test_a_folder_has_no_revision(tmp_path, init):
    said, _ = refused("init", "--model", init, "--revision", "main", "--out", tmp_path / "x")
    assert f"--revision is of a model on the hub, and {init} is a folder" in said
