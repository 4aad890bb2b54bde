"""What `run --dry-run` says a run will take: every stage, the disk it fills, and what pruning saves."""

from dataclasses import replace
from pathlib import Path

import pytest
from games import prompt_text
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.config import RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.memory import Memory, Shape
from gtrturbo.models.split_memory import gathered
from gtrturbo.runs.disk import disk_of
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.execute import check_split, run
from gtrturbo.runs.peaks import about_served, batch_of, picture_tokens_of, shape_of, stage_peaks
from gtrturbo.runs.plan import plan
from gtrturbo.runs.sample import Play, sample
from gtrturbo.tasks.loading import load_task

LARGE = "Qwen/Qwen2.5-VL-7B-Instruct"
GB = 10**9


@pytest.fixture(scope="module")
def play() -> Play:
    return sample(load_task("points24"))


def config(**settings) -> RunConfig:
    return RunConfig(**({"out": Path("r"), "model": LARGE, "task": "points24", "lora_rank": 128, "device": "cpu"} | settings))


@pytest.fixture(scope="module")
def large() -> Shape:
    shape = shape_of(config(), [step.config for step in plan(config())])
    assert shape is not None
    return shape


PAPER = ("rollout.num-envs=64", "ppo-step.gradient-checkpointing=true", "sft.gradient-checkpointing=true")


def peaks(large: Shape, play: Play, **settings) -> dict[str, Memory]:
    chosen = config(**({"set": PAPER} | settings))
    return stage_peaks(chosen, plan(chosen), large, play)


def test_every_stage_of_a_7b_run_fits_into_80_gb(large, play):
    found = peaks(large, play)
    assert set(found) == {"init", "sft", "eval", "merge", "rollout", "distill", "ppo-step"}
    assert {name: peak.peak for name, peak in found.items() if peak.peak >= 80 * GB} == {}
    # Base and adapter: 8.29e9 weights of 2 bytes and 4.15e8 of 4.
    assert found["rollout"].weights == 2 * 8_292_166_656 + 4 * 414_597_120
    # 64 rows of 28 layers, 4 heads of 128 numbers of 2 bytes, keys and values, for every token; and one layer more as it grows.
    tokens = 64 * (play.text + 121 + 256)
    assert found["rollout"].cache == tokens * 29 * 2 * 4 * 128 * 2
    assert found["merge"].peak < GB


def test_a_merged_teacher_stands_beside_the_kept_base_unless_stages_are_processes(large, play):
    assert peaks(large, play)["distill"].weights == 2 * 2 * 8_292_166_656
    assert peaks(large, play, subprocess=True)["distill"].weights == 2 * 8_292_166_656


def test_the_first_checkpoint_as_teacher_is_an_adapter_on_the_students_base(large, play):
    weights = 2 * 8_292_166_656 + 4 * 414_597_120
    for subprocess in (False, True):
        assert peaks(large, play, method="static-kl", subprocess=subprocess)["distill"].weights == weights


def test_a_merge_interval_leaves_fewer_teachers(large, play):
    chosen = config(iterations=20, merge_every=5)
    teachers = disk_of(chosen, plan(chosen), large, play).parts["teachers"]
    # 0000 is the adapter itself; 0005, 0010 and 0015 have full weights.
    assert teachers == 3 * 2 * 8_292_166_656 + 4 * 414_597_120


def test_more_environments_take_more_and_checkpointing_takes_less(large, play):
    many, few = peaks(large, play), peaks(large, play, set=("rollout.num-envs=1",))
    assert many["rollout"].cache == 64 * few["rollout"].cache
    assert few["ppo-step"].activations > 5 * many["ppo-step"].activations
    assert few["ppo-step"].peak > many["ppo-step"].peak


def test_disk_of_a_7b_run_is_its_teachers_and_pruning_takes_them_away(large, play):
    def disk(**settings):
        chosen = config(iterations=20, **settings)
        return disk_of(chosen, plan(chosen), large, play)

    everything, frugal = disk(), disk(keep_teachers=1, keep_guidance=2, keep_optimizers=1)
    weights, adapter = 2 * 8_292_166_656, 4 * 414_597_120
    # Teacher 0 is the adapter itself, the other 19 have full weights.
    assert everything.parts["teachers"] == 19 * weights + adapter
    assert frugal.parts["teachers"] == weights
    assert frugal.parts["optimizers"] * 20 == everything.parts["optimizers"]
    assert frugal.parts["guidance"] * 10 == everything.parts["guidance"]
    assert frugal.parts["checkpoints"] == everything.parts["checkpoints"]
    assert everything.most == everything.end > 300 * GB
    # While one is made the one before is still there.
    assert frugal.end < frugal.most <= frugal.end + weights


@pytest.mark.parametrize("method", ["gtr", "turbo-kl"])
def test_disk_counts_the_episodes_that_set_says(large, play, method):
    def disk(**settings):
        chosen = config(method=method, iterations=2, **settings)
        return disk_of(chosen, plan(chosen), large, play)

    assert disk(set=("rollout.episodes=1024",)) == disk(episodes=1024) != disk()


FULL = {"lora_rank": 0, "episodes": 150, "set": (*PAPER, "ppo-step.fsdp=true")}


@pytest.fixture(scope="module")
def largest() -> Shape:
    chosen = config(model="Qwen/Qwen2.5-VL-72B-Instruct", lora_rank=0)
    shape = shape_of(chosen, [step.config for step in plan(chosen)])
    assert shape is not None
    return shape


def test_a_72b_model_is_counted_by_its_config_alone(largest):
    # As the hub counts them.
    assert largest.parameters == 73_410_777_344
    # Queries and output 8192², keys and values of 8 heads of 128, three matrices of the MLP, biases and two norms.
    layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 29_568 + 8192 + 2 * 1024 + 2 * 8192
    assert largest.layer == layer
    # Embeddings and output, the last norm, patches of two frames of 14 × 14, and the merger of four of them.
    patches, merger = 3 * 2 * 14**2 * 1280, 1280 + 5120**2 + 5120 + 5120 * 8192 + 8192
    assert largest.outside == 2 * 152_064 * 8192 + 8192 + patches + merger


def test_split_weights_are_estimated_for_each_of_the_processes(largest, play):
    chosen = config(**FULL)
    alone, shared = (stage_peaks(chosen, plan(chosen), largest, play, processes=count) for count in (1, 16))
    one, each, count = alone["ppo-step"], shared["ppo-step"], largest.parameters
    head = 8192 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1
    assert each.weights == -(-(2 * count + 4 * head) // 16) and each.gradients == each.weights
    assert each.optimizer == -(-(12 * count + 8 * head) // 16)
    # What is in no layer, with its gradients, and these in float32.
    assert each.gathered == 8 * largest.outside and one.gathered == 0
    # Where that is less: two layers, the gradients of one, and these in float32.
    assert gathered(replace(largest, outside=1000)) == 4 * 1000 + 10 * largest.layer
    assert each.activations < one.activations and each.peak < one.peak / 8
    # Nothing else is split: who plays and teaches has all of the weights.
    assert {name: shared[name].weights for name in ("sft", "rollout", "distill")} == {
        name: alone[name].weights for name in ("sft", "rollout", "distill")
    }
    # 64 at once, or the 10 of 150 episodes that are a process's own.
    assert shared["rollout"].cache * 64 == alone["rollout"].cache * 10


def test_dry_run_is_told_the_number_of_processes_as_torchrun_tells_it(monkeypatch):
    chosen = config(**FULL)
    assert any("Say how many there are: WORLD_SIZE=8 gtrturbo run" in line for line in notes(chosen))
    monkeypatch.setenv("WORLD_SIZE", "8")
    told = notes(chosen)
    assert "Memory is that of each of 8 processes." in told
    assert next(line for line in told if line.startswith("stage")).endswith("gathered")
    run = ["run", "--model", "tiny", "--out", "r", "--dry-run"]
    assert CliRunner().invoke(app, run).stdout.startswith("#!")
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(app, run).stdout == ""


@pytest.mark.parametrize("engine", ["vllm", "vllm:http://127.0.0.1:9", "openai:http://127.0.0.1:9"])
def test_the_memory_of_a_server_is_told_and_not_counted_as_a_stages(large, play, engine):
    stage = "eval" if engine.startswith("openai") else "rollout"
    settings = {"set": (*PAPER, f"{stage}.engine={engine}", f"{stage}.vllm-python=python3")}
    found = peaks(large, play, set=settings["set"] if engine == "vllm" else settings["set"][:-1])
    assert found.keys() == peaks(large, play).keys() - {stage}
    chosen = config(set=(*PAPER, f"{stage}.engine={engine}"))
    [told] = about_served(plan(chosen), large)
    # 8.29 G parameters of 2 bytes, and an adapter of rank 128 in float32.
    assert told.startswith(f"Not counted is the memory of the servers that answer for {stage}: each 1")
    assert about_served(plan(config()), large) == []


def test_a_longer_run_takes_no_more_disk_for_teachers(large, play):
    def most(iterations: int) -> int:
        chosen = config(iterations=iterations, keep_teachers=1, keep_optimizers=1)
        found = disk_of(chosen, plan(chosen), large, play)
        return found.most - found.parts["checkpoints"] - found.parts["turns"] - found.parts["guidance"]

    assert most(40) == pytest.approx(most(10), rel=0.01)


def test_a_task_is_looked_at_not_guessed():
    tiny = sample(load_task("numberline", ["image=tiny", "horizon=5"]))
    assert 1 < tiny.turns <= 5
    assert tiny.pictures == ((load_task("numberline", ["image=tiny"]).make().reset(seed=0)[0].shape[:2],),)
    assert sample(load_task("numberline", ["image=tiny", "horizon=9"])).turns > tiny.turns


def test_no_tokenizer_makes_more_tokens_of_a_prompt_than_are_counted():
    from gtrturbo.models.built_in import build_processor

    tokenizer = build_processor().tokenizer
    for name in ("numberline", "blackjack", "ezpoints", "points24"):
        task = load_task(name, ["image=tiny"])
        _, info = task.make().reset(seed=3)
        found = sample(task)
        assert len(tokenizer(prompt_text(task, info))["input_ids"]) <= found.text
        assert len(tokenizer(task.expert_reply(info))["input_ids"]) <= found.reply * 1.5


def test_dry_run_prints_estimates_as_comments_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["run", "--out", "r", "--iterations", "2", "--dry-run", "--keep-teachers", "1"])
    assert (result.exit_code, result.stderr, list(tmp_path.iterdir())) == (0, "", [])
    first, *rest = result.stdout.splitlines()
    told = [line for line in rest if line.startswith("# ")]
    assert first == "#!/usr/bin/env bash"
    assert rest[: len(told)] == told
    assert [line for line in told if line.startswith("# ppo-step") and "MB" in line]
    assert "only `gtrturbo run` does" in told[-1] and "--keep-teachers 1" in told[-1]


def test_a_model_that_is_not_here_is_said_to_be_unknown():
    assert notes(config(model="no-such/model")) == [
        "Memory and disk are not known: the config of no-such/model is not on this machine."
    ]


def test_a_run_from_a_checkpoint_is_estimated_by_what_lies_there(lora, warm):
    adapter = shape_of(config(model="tiny", start=lora), [])
    assert adapter is not None and (adapter.rank, adapter.adapters) == (4, sum_of_factors(lora))
    full = shape_of(config(model="tiny", start=warm), [])
    assert full is not None and (full.rank, full.parameters) == (0, adapter.parameters)


def sum_of_factors(folder: Path) -> int:
    from safetensors.numpy import load_file

    return sum(tensor.size for tensor in load_file(folder / "adapter_model.safetensors").values())


SEVERAL = """
from dataclasses import replace

import numpy as np

from gtrturbo.tasks import ask
from gtrturbo.tasks.loading import load_task

NUMBERS = load_task("numberline", ["image=tiny", "horizon=3"])


def shown(view):
    sizes = [(112, 112), (56, 84), (28, 28)] if view.history else [(28, 28)]
    return ask("What is it?", *(np.zeros((*size, 3), np.uint8) for size in sizes))


SEVERAL = replace(NUMBERS, prompt=shown)
"""


def test_all_pictures_of_the_largest_prompt_are_counted(large, tmp_path):
    (tmp_path / "several.py").write_text(SEVERAL)
    found = sample(load_task(f"{tmp_path / 'several.py'}:SEVERAL", []))
    assert set(found.pictures) == {((28, 28),), ((112, 112), (56, 84), (28, 28))}
    # Cells of 28 pixels: 4 · 4, 2 · 3 and 1.
    assert large.tokens_of_images([(28, 28)]) == 1
    assert batch_of(large, found, 1, 8).image == picture_tokens_of(large, found) == 16 + 6 + 1
    assert [len(image) for image in found.largest.images] == [112, 56, 28]


def test_a_run_that_would_split_what_it_cannot_is_refused_before_its_first_stage(tmp_path):
    chosen = config(model="tiny", task="numberline", lora_rank=0, set=("sft.fsdp=true",))
    with pytest.raises(GtrTurboError, match="--fsdp needs several processes"):
        run(replace(chosen, out=tmp_path / "alone"))
    assert not (tmp_path / "alone").exists()
    with pytest.raises(GtrTurboError, match="--fsdp splits full weights, and this checkpoint is an adapter"):
        notes(replace(chosen, set=("ppo-step.fsdp=true",), lora_rank=4))
    check_split(plan(chosen), alone=False)
