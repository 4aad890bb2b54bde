"""What merge reads is what transformers loads: which files, tensors and names; quantised weights are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import read
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gtrturbo.errors import GtrTurboError

SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def saved(folder: Path, model, seed: int, **settings) -> Path:
    """A model with random weights, as transformers saves it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape) * 0.1)
    model.save_pretrained(folder, **settings)
    return folder


def tied_model():
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True))


@pytest.fixture
def three(folders):
    """A tied Qwen2 in shards, and two of its kind."""
    return [saved(folders.root / name, tied_model(), seed, max_shard_size="20KB") for seed, name in enumerate(("base", "a", "b"))]


def edit(folder: Path, change) -> Path:
    """Write a folder's tensors anew, in one file."""
    tensors = change({name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()})
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def state_of(folder: Path) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def assert_mean(out: Path, *checkpoints: Path):
    """What transformers loads of the merge is the mean of what it loads of the checkpoints."""
    states = [state_of(path) for path in checkpoints]
    for name, value in state_of(out).items():
        mean = sum(state[name] for state in states) / len(states)
        assert np.abs(value - mean).max() <= 1e-7, name  # A float32 of order 0.1.


def test_a_single_file_counts_before_shards(folders, three, capsys):
    base, a, b = three
    save_file(load_whole(b), a / "model.safetensors", {"format": "pt"})
    out = folders.merge(a, base=base, method="linear")
    assert_mean(out, b)
    said = capsys.readouterr().err
    assert "model.safetensors.index.json" in said and f"{a} is read as transformers does, by model.safetensors" in said


def load_whole(folder: Path):
    return {name: value.contiguous() for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_the_base_too_and_its_stale_index_does_not_go_along(folders, three):
    base, a, b = three
    save_file(load_whole(b), base / "model.safetensors", {"format": "pt"})
    out = folders.merge(a, base=base, method="task-arithmetic", weights="0.5")
    assert_mean(out, a, b)
    assert not (out / "model.safetensors.index.json").exists() and len(list(out.glob("*.safetensors"))) == 1


def test_what_lies_beside_the_weights_is_told_and_not_read(folders, three, capsys):
    base, a, b = three
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "model-00009-of-00009.safetensors"):
        shutil.copy(next(b.glob("*.safetensors")), a / name)
    (a / "pytorch_model.bin").write_bytes(b"not a pickle")
    (a / "training_args.bin").write_bytes(b"not a pickle")
    assert_mean(folders.merge(a, base=base, method="linear"), a)
    said = capsys.readouterr().err
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "model-00009-of-00009.safetensors", "pytorch_model.bin"):
        assert name in said
    assert "training_args" not in said


def test_a_file_that_the_config_names_is_what_is_read(folders, three):
    base, a, b = three
    save_file(load_whole(b), a / "other.safetensors", {"format": "pt"})
    config = json.loads((a / "config.json").read_text()) | {"transformers_weights": "other.safetensors"}
    (a / "config.json").write_text(json.dumps(config))
    assert_mean(folders.merge(a, base=base, method="linear"), b)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ("model.fp16.safetensors", "only as a variant .model.fp16.safetensors"),
        ("model.safetensors.index.fp16.json", "only as a variant"),
        ("sub/model.safetensors", "holds no weights itself"),
        ("consolidated.safetensors", "consolidated.safetensors is none that transformers loads"),
    ],
)
def test_weights_that_transformers_does_not_find_are_refused(folders, three, rename, said):
    base, a, _ = three
    edit(a, lambda tensors: tensors)
    (a / rename).parent.mkdir(exist_ok=True)
    (a / "model.safetensors").rename(a / rename)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(a)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(a, base=base)


def test_an_adapter_beside_full_weights_is_refused(folders, three):
    base, a, _ = three
    (a / "adapter_config.json").write_text("{}")
    with pytest.raises(GtrTurboError, match="holds an adapter and full weights"):
        folders.merge(a, base=base)


@pytest.mark.parametrize("weight_map", [{"w": 5}, {"w": None}, {"w": "/etc/passwd"}, {"w": ".."}, {"w": "a.bin"}, [], {}, None])
def test_an_index_of_odd_values_is_refused(folders, three, weight_map):
    base, a, _ = three
    (a / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(GtrTurboError, match=r"is damaged|which is no file beside it"):
        folders.merge(a, base=base)


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"w":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0.0,16.0]}}',
        b'{"w":{"dtype":"F32","shape":[true,4],"data_offsets":[0,16]}}',
        b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":["F32"],"shape":[4],"data_offsets":[0,16]}}',
    ],
    ids=range(7),
)
def test_a_header_of_odd_values_is_refused(folders, header):
    good = folders.write("good", {"w": np.ones(4)})
    bad = folders.write("bad", {"w": np.ones(4)})
    (bad / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(GtrTurboError, match="cannot be read"):
        folders.merge(bad, base=good)


CONFIGS = [
    ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    ("config.json", {"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
    ("config.json", {"compression_config": {"format": "pack-quantized"}}, "pack-quantized"),
    ("quantize_config.json", {"bits": 4, "group_size": 128}, "quantize_config.json"),
    ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "hf_quant_config.json"),
]


@pytest.mark.parametrize("who", ["base", "checkpoint"])
@pytest.mark.parametrize(("file", "content", "method"), CONFIGS)
def test_a_quantised_config_is_refused_with_a_way_back(folders, family, who, file, content, method):
    base, others = family(2)
    (base if who == "base" else others[1]).joinpath(file).write_text(json.dumps(content))
    with pytest.raises(GtrTurboError, match=rf"are quantised \({method}\)") as error:
        folders.merge(*others, base=base)
    assert file in error.value.fix


def test_a_quantisation_config_that_says_nothing_is_no_reason(folders, family):
    base, others = family(1)
    (base / "config.json").write_text(json.dumps({"model_type": "none", "quantization_config": None}))
    folders.merge(*others, base=base)


@pytest.mark.parametrize("dtype", ["I64", "U8"])
def test_numbers_that_are_not_merged_must_be_equal(folders, dtype):
    def write(name, codes, scale):
        return folders.write(name, {"codes": np.array(codes), "scale": np.array(scale)}, {"codes": dtype, "scale": "F32"})

    base, same, other = write("base", [1, 2], [1.0]), write("same", [1, 2], [3.0]), write("other", [1, 3], [3.0])
    assert read(folders.merge(same, base=base, method="linear"))["scale"] == [3]
    with pytest.raises(GtrTurboError, match=rf"codes in {other} differs from the base's, and numbers of type {dtype}"):
        folders.merge(same, other, base=base, method="linear")
    # The user's own choice: codes are the base's.
    assert read(folders.merge(other, base=base, method="linear", exclude=("codes",)))["codes"].tolist() == [1, 2]


def test_tensors_that_transformers_drops_are_the_bases_and_told(folders, three, capsys):
    base, a, b = three
    kept = torch.rand(3, 3)
    edit(base, lambda tensors: tensors | {"mtp.fc.weight": kept, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    out = folders.merge(a, b, base=base, method="linear")
    assert_mean(out, a, b)
    assert torch.equal(load_whole(out)["mtp.fc.weight"], kept)
    assert f"{a} lacks model.layers.0.self_attn.rotary_emb.inv_freq and 1 more" in capsys.readouterr().err
    with pytest.raises(GtrTurboError, match="has 2 tensors fewer than the base"):
        folders.merge(a, b, base=base, missing="error")


@pytest.mark.parametrize("method", ["linear", "ties", "dare-ties"])
def test_a_tied_head_that_the_base_holds_twice_stays_tied(folders, three, method):
    base, a, b = three
    edit(base, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    out = folders.merge(a, b, base=base, method=method)
    tensors = load_whole(out)
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert not torch.equal(tensors["lm_head.weight"], load_whole(base)["lm_head.weight"])
    if method == "linear":
        assert_mean(out, a, b)


def test_a_tied_head_that_a_checkpoint_holds_twice_is_left_out_if_it_is_equal(folders, three, capsys):
    base, a, _ = three
    edit(a, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert_mean(folders.merge(a, base=base, method="linear"), a)
    assert f"{a} also holds lm_head.weight" in capsys.readouterr().err
    edit(a, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    with pytest.raises(GtrTurboError, match=r"has 1 tensors that the base lacks .first: lm_head.weight."):
        folders.merge(a, base=base, method="linear")


def test_a_value_head_of_a_checkpoint_is_left_out_and_told(folders, three, capsys):
    base, a, b = three
    edit(a, lambda tensors: tensors | {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)})
    assert_mean(folders.merge(a, b, base=base, method="linear"), a, b)
    assert f"{a} also holds v_head.summary.bias and 1 more" in capsys.readouterr().err


def test_a_layer_that_a_checkpoint_lacks_is_refused_unless_the_base_may_fill_in(folders, three, capsys):
    base, a, b = three
    gone = "model.layers.1.mlp.up_proj.weight"
    edit(a, lambda tensors: {name: value for name, value in tensors.items() if name != gone})
    with pytest.raises(GtrTurboError, match=rf"{a} has 1 tensors fewer than the base .first: {gone}.") as error:
        folders.merge(a, b, base=base, method="linear")
    assert "--missing base" in error.value.fix
    found = load_whole(folders.merge(a, b, base=base, method="linear", missing="base"))[gone]
    expected = (load_whole(base)[gone].double() + load_whole(b)[gone].double()) / 2
    assert (found - expected).abs().max() <= 1e-7
    assert f"{a} lacks {gone}" in capsys.readouterr().err
    # What is not merged is not compared.
    folders.merge(a, b, base=base, exclude=("*.up_proj.weight",))
    folders.merge(a, b, base=base, include=("*q_proj*",))


def test_a_model_that_transformers_does_not_know_is_the_users_to_decide(folders):
    base, a = folders.write("base", {"w": np.zeros(2), "x": np.zeros(2)}), folders.write("a", {"w": np.ones(2), "y": np.ones(2)})
    with pytest.raises(GtrTurboError, match="has 1 tensors that the base lacks"):
        folders.merge(a, base=base)
    found = read(folders.merge(a, base=base, missing="base", method="linear"))
    assert {name: value.tolist() for name, value in found.items()} == {"w": [1, 1], "x": [0, 0]}


def test_names_of_another_version_of_transformers_are_found(folders, capsys):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
              "patch_size": 4}  # fmt: skip
    config = LlavaConfig(vision_config=vision | {"model_type": "clip_vision_model"}, text_config=LlamaConfig(**SMALL))
    base, a = (saved(folders.root / name, LlavaForConditionalGeneration(config), seed) for seed, name in enumerate(("base", "a")))
    expected = load_whole(a)
    renamed = {name.replace("language_model.model.", "model.language_model."): value for name, value in expected.items()}
    assert renamed.keys() != expected.keys()
    edit(a, lambda _: renamed)
    found = load_whole(folders.merge(a, base=base, method="linear"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert f"{a} holds language_model.model.embed_tokens.weight and" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4)),
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    ],
)
def test_other_families_merge_as_they_load(folders, make):
    base, a, b = (saved(folders.root / name, make(), seed) for seed, name in enumerate(("base", "a", "b")))
    assert_mean(folders.merge(a, b, base=base, method="linear"), a, b)


def test_a_shared_tensor_that_no_file_holds_is_what_it_is_tied_to(folders):
    config = T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    base, a, b = (saved(folders.root / name, T5ForConditionalGeneration(config), seed) for seed, name in enumerate("bcd"))
    out = folders.merge(a, b, base=base, method="linear")
    found, one, other = (T5ForConditionalGeneration.from_pretrained(path).state_dict() for path in (out, a, b))
    for name, value in found.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)


def test_layers_that_only_the_checkpoint_s_model_has_are_refused(folders):
    base, deeper = (
        saved(folders.root / name, LlamaForCausalLM(LlamaConfig(**SMALL | {"num_hidden_layers": layers})), layers)
        for name, layers in (("base", 2), ("deeper", 3))
    )
    for checkpoint, under in ((deeper, base), (base, deeper)):
        with pytest.raises(GtrTurboError, match=r"9 tensors .*model\.layers\.2\."):
            folders.merge(checkpoint, base=under, method="linear")
    found = read(folders.merge(deeper, base=base, method="linear", missing="base"))
    assert found.keys() == read(base).keys() and np.array_equal(found["lm_head.weight"], read(deeper)["lm_head.weight"])


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_folder_of_checkpoints_is_none_and_those_below_are_named(folders, three, file):
    run = folders.root / "run"
    (run / "checkpoint-500").mkdir(parents=True)
    (run / "checkpoint-500" / file).write_text("{}")
    with pytest.raises(
        GtrTurboError, match=r"run holds no checkpoint itself\.\nname a folder below that does: .*run/checkpoint-500"
    ):
        folders.merge(run, base=three[0])
