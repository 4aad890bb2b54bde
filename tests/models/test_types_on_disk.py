"""The type of the weights: what is on disk, what is asked for, what comes of it in later stages, and what no type holds."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from resealed import reseal
from safetensors.torch import load_file, save_file

from gtrturbo.config import InitConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.errors import Collapse, GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.shape import read_shape
from gtrturbo.runs.disk import disk_of
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.peaks import shape_of
from gtrturbo.runs.plan import plan
from gtrturbo.runs.sample import sample
from gtrturbo.stages import execute
from gtrturbo.store.names import MANIFEST, MODEL_CONFIG, MODEL_WEIGHTS
from gtrturbo.tasks.loading import load_task

TASK = {"task": "numberline", "env": ("image=tiny",)}


@pytest.fixture
def made(warm, tmp_path):
    """Make a model of other people, with weights changed one by one, and with settings of its config."""

    def model(change=lambda name, value: value, **config) -> Path:
        folder = shutil.copytree(warm, tmp_path / "model", dirs_exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        weights = {name: change(name, value) for name, value in load_file(folder / MODEL_WEIGHTS).items()}
        save_file(weights, folder / MODEL_WEIGHTS, {"format": "pt"})
        file = folder / MODEL_CONFIG
        told = {name: value for name, value in (json.loads(file.read_text()) | config).items() if value is not None}
        file.write_text(json.dumps(told))
        return folder

    return model


def of_up(dtype: torch.dtype):
    return lambda name, value: value.to(dtype) if name.endswith("layers.0.mlp.up_proj.weight") else value


def types(folder: Path) -> set[torch.dtype]:
    return {value.dtype for value in load_file(folder / MODEL_WEIGHTS).values()}


def told_by(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_weights_that_get_a_narrower_type_than_on_disk_are_told_with_what_keeps_them(made, tmp_path, capsys):
    model = made(dtype="bfloat16")
    assert types(execute(InitConfig(out=tmp_path / "a", model=str(model))).out) == {torch.bfloat16}
    count = len(load_file(model / MODEL_WEIGHTS))
    said = f"{count} of {count} tensors of {model} are stored as float32 and loaded as bfloat16: --dtype float32 keeps them."
    assert said in told_by(capsys)
    assert types(execute(InitConfig(out=tmp_path / "b", model=str(model), dtype="float32")).out) == {torch.float32}
    execute(InitConfig(out=tmp_path / "c", model=str(model), dtype="bfloat16"))
    assert "keeps them" not in told_by(capsys)


def test_one_narrow_tensor_that_decides_for_all_is_told(made, tmp_path, capsys):
    first = min(load_file(made() / MODEL_WEIGHTS))
    model = made(lambda name, value: value.bfloat16() if name == first else value, dtype=None)
    count = len(load_file(model / MODEL_WEIGHTS))
    execute(InitConfig(out=tmp_path / "a", model=str(model)))
    assert f"{count - 1} of {count} tensors of {model} are stored as float32 and loaded as bfloat16" in told_by(capsys)
    shape = read_shape(str(model))
    assert shape is not None and shape.width == 2


def test_a_float64_tensor_is_told_as_what_no_type_here_keeps(made, tmp_path, capsys):
    execute(InitConfig(out=tmp_path / "a", model=str(made(of_up(torch.float64)))))
    assert "are stored as float64 and loaded as float32: no --dtype keeps them." in told_by(capsys)


def test_wider_weights_than_on_disk_and_whole_ones_are_told_nothing(made, warm, tmp_path, capsys):
    execute(InitConfig(out=tmp_path / "a", model=str(made(of_up(torch.bfloat16)))))
    load_policy(warm, device="cpu")
    assert "keeps them" not in told_by(capsys)


def test_float8_without_scales_is_refused_by_name(made, tmp_path):
    model = made(of_up(torch.float8_e4m3fn))
    with pytest.raises(GtrTurboError, match=r"up_proj\.weight as F8_E4M3 in model\.safetensors, and no quantization_config"):
        execute(InitConfig(out=tmp_path / "a", model=str(model)))


@pytest.mark.parametrize(
    "how", [{"change": lambda name, value: value}, {"change": lambda name, value: value.half(), "dtype": "float16"}]
)
def test_the_type_asked_for_at_init_is_that_under_the_adapter_in_later_stages(made, expert, tmp_path, capsys, how):
    model = made(**how)
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(model), lora_rank=2, dtype="bfloat16")).out
    assert f"lora/base holds the base in bfloat16, which is not the type of {model} itself" in told_by(capsys)
    after = execute(SftConfig(out=tmp_path / "sft", data=(expert,), checkpoint=fresh, steps=1, batch_size=4)).out
    for checkpoint in (fresh, after):
        policy = load_policy(checkpoint, device="cpu")
        assert {value.dtype for name, value in policy.model.named_parameters() if "lora" not in name} == {torch.bfloat16}
    execute(RolloutConfig(out=tmp_path / "turns", checkpoint=after, episodes=1, max_new_tokens=4, **TASK))


def test_a_base_that_has_the_type_asked_for_lies_where_it_is(made, tmp_path):
    fresh = execute(InitConfig(out=tmp_path / "lora", model=str(made()), lora_rank=2, dtype="float32")).out
    assert not (fresh / "base").exists()


def test_the_dry_run_counts_the_base_in_the_type_asked_for_and_the_copy_of_it(made):
    model = made()
    size = sum(value.numel() for value in load_file(model / MODEL_WEIGHTS).values())

    def checkpoints(**settings) -> tuple[int, int]:
        config = RunConfig(out=model / "run", model=str(model), lora_rank=2, iterations=1, episodes=2, **TASK, **settings)
        steps = plan(config)
        shape = shape_of(config, [step.config for step in steps])
        assert shape is not None
        return shape.weights, disk_of(config, steps, shape, sample(load_task("numberline", ("image=tiny",)))).parts["checkpoints"]

    (wide, alone), (narrow, copied) = checkpoints(), checkpoints(set=("init.dtype=bfloat16",))
    assert (wide, narrow) == (4 * size, 2 * size) and copied - alone == 2 * size


def test_full_weights_in_float16_are_refused_at_init_and_by_the_dry_run(made, tmp_path):
    model = made(lambda name, value: value.half(), dtype="float16")
    with pytest.raises(GtrTurboError, match=r"weights in float16 are not trained: .*\nadd: --dtype bfloat16"):
        execute(InitConfig(out=tmp_path / "a", model=str(model)))
    run = {"out": tmp_path / "run", "model": str(model), "iterations": 1, "episodes": 2, **TASK}
    with pytest.raises(GtrTurboError, match="weights in float16 are not trained"):
        notes(RunConfig(**run))
    notes(RunConfig(**run, lora_rank=2))
    notes(RunConfig(**run, set=("init.dtype=bfloat16",)))
    assert types(execute(InitConfig(out=tmp_path / "b", model=str(model), dtype="bfloat16")).out) == {torch.bfloat16}


def test_a_weight_beyond_the_type_asked_for_is_told_as_that(made, tmp_path):
    def grow(name, value):
        return value.index_fill(0, torch.tensor([0]), 3.4e38) if name.endswith("layers.0.mlp.up_proj.weight") else value

    with pytest.raises(GtrTurboError, match=r"holds weights beyond what bfloat16 can hold, first in .*up_proj") as error:
        execute(InitConfig(out=tmp_path / "a", model=str(made(grow)), dtype="bfloat16"))
    assert error.value.fix == "add: --dtype float32"


def test_weights_too_large_to_play_with_are_no_collapse_of_init(made, tmp_path):
    def grow(name, value):
        return value * 1e38 if name.endswith("norm.weight") and "layers" not in name and "visual" not in name else value

    with pytest.raises(GtrTurboError, match=r"cannot play a turn: the logits of .* are not finite") as error:
        execute(InitConfig(out=tmp_path / "a", model=str(made(grow))))
    assert not isinstance(error.value, Collapse) and "--dtype" not in error.value.fix


def test_a_checkpoint_in_float32_is_not_advised_to_be_in_float32(warm, tmp_path):
    copied = shutil.copytree(warm, tmp_path / "large")
    weights = load_file(copied / MODEL_WEIGHTS)
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * 1e38}, copied / MODEL_WEIGHTS, {"format": "pt"})
    with pytest.raises(Collapse, match="are not finite at temperature") as error:
        execute(RolloutConfig(out=tmp_path / "t", checkpoint=reseal(copied), episodes=1, max_new_tokens=4, **TASK))
    assert error.value.fix == "its weights are too large: train it again at a lower learning rate."
