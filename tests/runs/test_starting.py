"""What a run starts from goes with its settings: a preset with its model, and a schedule with the updates behind it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from parsed import parsed
from safetensors.numpy import save_file
from small_runs import run_config

from gtrturbo.analysis.record import record_run
from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.sizes import built_in_name
from gtrturbo.runs.execute import check, run
from gtrturbo.runs.plan import plan
from gtrturbo.runs.script import command
from gtrturbo.runs.starting import require_start
from gtrturbo.stages import execute

FOREIGN = {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 3584}, "vision_config": {"depth": 32, "hidden_size": 1280}}
PAPER = "no built-in model, and --model {} would train it with the settings measured for {}."


def ask(**settings) -> None:
    config = run_config(**({"method": "ppo"} | settings))
    require_start(config, plan(config))


def refused(**settings) -> tuple[str, str | None]:
    with pytest.raises(GtrTurboError) as error:
        ask(**settings)
    return error.value.what, error.value.fix


# Whose settings


@pytest.fixture(scope="module")
def small_start(root) -> Path:
    return execute(InitConfig(out=root / "small start", model="small")).out


@pytest.fixture
def instructed(tmp_path) -> Path:
    """The folder of another model, as far as it is asked for here."""
    (tmp_path / "instructed").mkdir()
    (tmp_path / "instructed" / "config.json").write_text(json.dumps(FOREIGN))
    return tmp_path / "instructed"


def test_another_model_is_not_trained_with_what_was_measured_for_a_built_in_one(instructed):
    mend = f"add: --model {instructed}, which takes the paper's settings."
    for model in ("tiny", "small"):
        assert refused(start=instructed, model=model) == (f"{instructed} is {PAPER.format(model, model)}", mend)
    ask(start=instructed, model=str(instructed))
    ask(start=instructed, model="Qwen/Qwen2.5-VL-7B-Instruct")
    updates = [step.config for step in plan(run_config(start=instructed, model=str(instructed))) if step.stage == "ppo-step"]
    assert {update.learning_rate for update in updates} == {1e-5}


def test_a_built_in_model_is_known_by_its_sizes_under_an_adapter_too(init, lora, small_start):
    for start in (init, lora):
        ask(start=start)
        assert refused(start=start, model="small")[1] == "add: --model tiny"
    ask(start=small_start, model="small")
    told = f"{small_start} is small, and --model tiny would train it with the settings measured for tiny."
    assert refused(start=small_start) == (told, "add: --model small")


def test_of_a_model_that_is_not_here_nothing_is_known(tmp_path):
    ask(start=tmp_path / "nowhere")
    adapter = {"base_model_name_or_path": "no-such/model", "peft_type": "LORA", "r": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    ask(start=tmp_path)


def test_configs_that_are_no_built_in_models():
    for changed in ({"model_type": "llava"}, {"text_config": None}, {"vision_config": 3}, {}):
        assert built_in_name(FOREIGN | changed if changed else {}) is None


def test_a_run_refuses_it_before_any_work_and_goes_on_where_it_was_begun_so(small_start, tmp_path):
    config = run_config(out=tmp_path / "r", start=small_start, method="ppo", env=("horizon=3",))
    with pytest.raises(GtrTurboError, match="add: --model small"):
        run(config)
    assert not config.out.exists()
    record_run(config, replace=True)
    check(config, plan(config))
    with pytest.raises(GtrTurboError, match="add: --model small"):
        require_start(run_config(out=config.out, start=small_start, method="ppo", overwrite=True), plan(config))


# Where the learning rate begins


def trained(folder: Path, init: Path, updates: int) -> Path:
    shutil.copytree(init, folder)
    save_file({"updates": np.array(updates)}, folder / "optimizer.safetensors")
    return folder


SIX = "ppo-step.schedule-updates=6"


def test_a_schedule_that_an_earlier_run_has_used_up_is_refused_with_both_ways_to_mend_it(init, tmp_path):
    start = trained(tmp_path / "0006", init, 6)
    assert refused(start=start, iterations=4, set=(SIX,)) == (
        f"6 updates of the 6 in which the learning rate falls are behind {start} already: "
        "it would end at 1e-09 before this run does.",
        "begin anew: --set ppo-step.schedule-start=6; or go on with the earlier schedule: --set ppo-step.schedule-updates=10",
    )
    ask(start=start, iterations=4, set=(SIX, "ppo-step.schedule-start=6"))
    ask(start=start, iterations=4, set=("ppo-step.schedule-updates=10",))
    ask(start=start, iterations=4)  # The learning rate of a built-in model stays.
    ask(start=start, iterations=0, set=(SIX,))


def test_the_papers_schedule_over_a_run_counts_from_its_own_beginning(init, tmp_path):
    start = trained(tmp_path / "0020", init, 20)
    paper = {"start": start, "model": "org/model", "iterations": 20}
    assert "schedule-start=20;" in str(refused(**paper)[1])
    ask(**paper, set=("ppo-step.schedule-start=20",))
    ask(start=trained(tmp_path / "new", init, 0), model="org/model", iterations=20)
    ask(start=init, model="org/model", iterations=20)
    ask(start=init, iterations=9, set=(SIX,))  # That a schedule is shorter than the run is the user's to choose.


def test_a_schedule_cannot_begin_after_what_is_behind_the_start(init, tmp_path):
    start = trained(tmp_path / "0005", init, 5)
    told = f"--schedule-start 7 counts more updates than are behind {start}: 5."
    late = ("ppo-step.schedule-start=7", SIX)
    assert refused(start=start, set=late) == (told, "give: --schedule-start 5")
    assert "are behind the first checkpoint: 0." in refused(set=late)[0]
    with pytest.raises(GtrTurboError, match="--schedule-start is where a schedule begins, and the learning rate is constant"):
        plan(run_config(set=late[:1]))


def test_every_update_of_the_printed_script_counts_from_there():
    steps = [step for step in plan(run_config(set=("ppo-step.schedule-start=20", SIX))) if step.stage == "ppo-step"]
    assert [parsed(command(step)) for step in steps] == [step.config for step in steps]
    assert {step.config.schedule_start for step in steps} == {20}
