"""Quantised models are told by their configs alone, before any library is asked; those that become plain numbers are taken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import add_adapter, load_model, save_model
from gtrturbo.models.quantised import require_loadable
from gtrturbo.runs.estimate import notes
from gtrturbo.runs.execute import run
from gtrturbo.stages import execute

TASK = {"task": "numberline", "env": ("image=tiny", "horizon=3")}
WEIGHTS = "model.safetensors"
NO_PLAIN = {
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
    "zzz": {"quantization_config": {"quant_method": "zzz"}},
    "hqq": {"text_config": {"quantization_config": {"quant_method": "hqq"}}},
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.fixture
def foreign(init, tmp_path):
    """A model of other people, of whose config settings are changed, those of parts within them."""

    def model(**config) -> Path:
        folder = shutil.copytree(init, tmp_path / "model")
        (folder / "stage.json").unlink()
        told = json.loads((folder / "config.json").read_text())
        for name, value in config.items():
            told[name] = told.get(name, {}) | value
        (folder / "config.json").write_text(json.dumps(told))
        return folder

    return model


@pytest.fixture
def fp8(foreign) -> Path:
    """A model whose linear layers of the text are stored as codes of eight bits, each with a scale per block."""
    folder = foreign(quantization_config=FP8 | {"modules_to_not_convert": ["lm_head", "visual"]})
    stored = {}
    for name, value in load_file(folder / WEIGHTS).items():
        if ".layers." in name and name.endswith("proj.weight"):
            scale = value.abs().max() / 448
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = torch.full([-(-side // 128) for side in value.shape], float(scale))
        else:
            stored[name] = value
    assert any(value.dtype == torch.float8_e4m3fn for value in stored.values())
    save_file(stored, folder / WEIGHTS, {"format": "pt"})
    return folder


def adapter_on(base: Path, out: Path) -> Path:
    """An adapter of other people on a model, which need not be one that init would take."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    adapter = add_adapter(load_model(base), rank=2, alpha=4, target=(), revision=None, seed=0)
    with torch.no_grad():
        for name, value in adapter.named_parameters():
            if "lora_B" in name:
                value.fill_(0.01)
    save_model(adapter, out, base=str(base))
    return out


@pytest.mark.parametrize("method", NO_PLAIN)
def test_weights_that_stay_quantised_are_refused_by_name_wherever_they_are_loaded(foreign, turns, expert, tmp_path, method):
    model, out = foreign(**NO_PLAIN[method]), tmp_path / "out"
    loading = [
        InitConfig(out=out, model=str(model)),
        InitConfig(out=out, model=str(model), lora_rank=2),
        RolloutConfig(out=out, checkpoint=model, episodes=1, **TASK),
        EvalConfig(out=out, checkpoint=model, episodes=1, **TASK),
        SftConfig(out=out, checkpoint=model, data=(expert,), steps=1),
        DistillConfig(out=out, teacher=model, rollouts=turns),
    ]
    for config in loading:
        with pytest.raises(GtrTurboError, match=rf"the weights of {model} are quantised \({method}\), and only fp8 and") as error:
            execute(config)
        assert "quantization_config of config.json away" in error.value.fix
    with pytest.raises(GtrTurboError, match=rf"are quantised \({method}\)"):
        notes(RunConfig(out=out, model=str(model), iterations=1, **TASK))
    assert not out.exists()


def test_an_adapter_on_weights_that_stay_quantised_is_refused_by_the_name_of_these(foreign, tmp_path):
    model = foreign()
    adapter = adapter_on(model, tmp_path / "adapter")
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(told | NO_PLAIN["bitsandbytes"]))
    said = rf"the weights of {model} are quantised \(bitsandbytes\)"
    with pytest.raises(GtrTurboError, match=said):
        execute(RolloutConfig(out=tmp_path / "t", checkpoint=adapter, episodes=1, **TASK))
    for settings in ({"start": adapter}, {"start": model}, {"teacher": adapter, "method": "static-kl"}):
        with pytest.raises(GtrTurboError, match=said):
            notes(RunConfig(out=tmp_path / "r", iterations=1, **settings, **TASK))


@pytest.mark.parametrize("said", [None, {}])
def test_a_config_that_names_no_quantisation_is_no_reason_to_refuse(foreign, said):
    model = foreign()
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(told | {"quantization_config": said}))
    require_loadable(model)


def test_fp8_weights_are_written_as_plain_numbers(fp8, init, tmp_path):
    made = execute(InitConfig(out=tmp_path / "plain", model=str(fp8))).out
    before, after = load_file(init / WEIGHTS), load_file(made / WEIGHTS)
    assert before.keys() == after.keys()
    assert {value.dtype for value in after.values()} == {torch.float32}
    # Codes of four bits of exponent and three of mantissa are off by a sixteenth of a weight at most, or of the smallest scale.
    assert all((after[name] - value).abs().max() <= value.abs().max() / 16 for name, value in before.items())
    assert "quantization_config" not in json.loads((made / "config.json").read_text())


def test_fp8_weights_under_an_adapter_are_refused_before_any_work_with_what_writes_them_plain(fp8, tmp_path):
    out, said = tmp_path / "out", rf"the weights of {fp8} are quantised \(fp8\): nothing is merged around codes"
    asked = RunConfig(out=out, model=str(fp8), lora_rank=2, iterations=2, **TASK)
    for ask in (lambda: execute(InitConfig(out=out, model=str(fp8), lora_rank=2)), lambda: notes(asked), lambda: run(asked)):
        with pytest.raises(GtrTurboError, match=said) as error:
            ask()
        assert f"gtrturbo init --model {fp8} --out PLAIN; then --model PLAIN" in error.value.fix
    assert not out.exists()


def test_a_run_that_would_merge_around_fp8_weights_is_refused_before_any_work(fp8, tmp_path):
    adapter = adapter_on(fp8, tmp_path / "adapter")
    settings = RunConfig(out=tmp_path / "r", start=fp8, method="turbo-gated", iterations=2, **TASK)
    for start, then in ((fp8, "--out PLAIN; then --start PLAIN"), (adapter, "--base PLAIN --out FULL")):
        for ask in (notes, run):
            with pytest.raises(GtrTurboError, match=rf"{fp8} are quantised \(fp8\): nothing is merged") as error:
                ask(replace(settings, start=start))
            assert then in error.value.fix
    # Without a merge nothing stands in the way.
    assert notes(replace(settings, method="ppo"))


def test_a_merge_of_adapters_says_of_the_weights_under_them_that_they_are_quantised(fp8, tmp_path):
    adapter = adapter_on(fp8, tmp_path / "adapter")
    for base in (None, fp8):
        with pytest.raises(GtrTurboError, match=rf"the weights in {fp8} are quantised \(fp8\): codes and scales"):
            execute(MergeConfig(out=tmp_path / "m", base=base, checkpoints=(adapter,), method="linear"))


def test_codes_of_which_no_config_tells_are_told_by_a_merge_for_what_they_are(fp8, init, tmp_path):
    told = json.loads((fp8 / "config.json").read_text())
    del told["quantization_config"]
    (fp8 / "config.json").write_text(json.dumps(told))
    with pytest.raises(GtrTurboError, match=r"holds \S+ as F8_E4M3: codes of quantised weights") as error:
        execute(MergeConfig(out=tmp_path / "m", base=init, checkpoints=(fp8,), method="linear"))
    assert "download" not in error.value.fix


def test_what_was_told_to_write_an_adapter_on_fp8_weights_plain_does(fp8, tmp_path):
    adapter = adapter_on(fp8, tmp_path / "adapter")
    plain = execute(InitConfig(out=tmp_path / "plain", model=str(fp8))).out
    full = execute(MergeConfig(out=tmp_path / "full", base=plain, checkpoints=(adapter,), method="linear")).out
    found, wanted = load_file(full / WEIGHTS), load_model(adapter).merge_and_unload().state_dict()
    name = next(name for name in found if name.endswith("layers.0.mlp.up_proj.weight"))
    torch.testing.assert_close(found[name], wanted[name.replace("model.layers", "model.language_model.layers")])


def test_an_adapter_in_the_place_of_a_model_is_told_as_one_with_what_takes_it(lora, tmp_path):
    out = tmp_path / "out"
    for ask in (
        lambda: execute(InitConfig(out=out, model=str(lora))),
        lambda: notes(RunConfig(out=out, model=str(lora), iterations=1, **TASK)),
        lambda: run(RunConfig(out=out, model=str(lora), iterations=1, **TASK)),
    ):
        with pytest.raises(GtrTurboError, match=f"{lora} is an adapter, and init begins from full weights") as error:
            ask()
        for way in (f"run --start {lora}", f"--checkpoint {lora}", "merge --method linear --base"):
            assert way in error.value.fix
