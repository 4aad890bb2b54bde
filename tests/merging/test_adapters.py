"""Adapters as what they stand for, against PEFT itself: what it merges into a model, what it loads, what it computes."""

import itertools
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import content, read
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.merge_utils import ties as peft_ties
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

from gtrturbo.algorithms.ties import ties
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.lowrank import truncate
from gtrturbo.merging.naming import tensors_of
from gtrturbo.merging.peft_configs import KNOWN_KEYS, scale_of
from gtrturbo.models.stored_names import stored_names
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.safetensors_files import read_layout

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small Qwen2 on disk, float32, untied."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model") / "base"
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def adapter(folder: Path, model: Path, *, seed: int, save: bool = True, **settings) -> PeftModel:
    """An adapter with random factors, saved as PEFT does."""
    plain = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    torch.manual_seed(seed)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(**plain | settings))
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if value.requires_grad:
                value.copy_(value + 0.05 * torch.randn(value.shape) if "lora_" not in name else 0.2 * torch.randn(value.shape))
    if save:
        wrapped.save_pretrained(folder)
    return wrapped


KINDS = {
    "plain": {},
    "rank pattern": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7}},
    "alpha pattern": {"alpha_pattern": {"layers.0.self_attn.q_proj": 1, "down_proj": 32}},
    "rslora": {"use_rslora": True, "r": 9, "rank_pattern": {"q_proj": 3}},
    "bias": {"bias": "all"},
    "bias of the adapted": {"bias": "lora_only"},
    "whole tensors": {"modules_to_save": ["lm_head", "norm"]},
    "all linear": {"target_modules": "all-linear", "lora_dropout": 0.1},
    "some layers": {"layers_to_transform": [1], "target_modules": ["k_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_is_what_peft_merges_into_the_model(folders, model, kind):
    path = folders.root / "adapter"
    adapter(path, model, seed=1, **KINDS[kind])
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), path).merge_and_unload()
    expected = {name: value.detach().numpy() for name, value in merged.state_dict().items()}
    base = read(model)
    outs = [folders.merge(*[path] * n, base=model, density="1", verify=9) for n in (1, 2)]
    for found in map(read, outs):
        assert found.keys() == base.keys()
        for name, value in found.items():
            # B A in float32 with its terms added in another order: 9 terms of order 0.1.
            assert np.abs(value - expected[name]).max() <= 2e-6, name
    assert max(np.abs(expected[name] - base[name]).max() for name in base) > 0.01


def write_full(folders, name, path, model):
    """The full checkpoint that an adapter stands for, in float64 of its float32 factors, rounded as ΔW is."""
    config, factors = json.loads((path / "adapter_config.json").read_text()), load_file(path / "adapter_model.safetensors")
    full = read(model)
    for key in [key for key in factors if key.endswith(".lora_A.weight")]:
        module = key.removesuffix(".lora_A.weight")
        product = factors[f"{module}.lora_B.weight"].astype(np.float64) @ factors[key].astype(np.float64)
        at = f"{module.removeprefix('base_model.model.')}.weight"
        full[at] = full[at].astype(np.float64) + config["lora_alpha"] / factors[key].shape[0] * product
    return folders.write(name, full, "F64")


@pytest.mark.parametrize(
    "settings",
    [
        {"density": "1"},
        {"density": "0.5"},
        {"method": "linear", "weights": "0.2,0.8"},
        {"method": "task-arithmetic", "weights": "0.2,-0.8"},
        {"method": "dare-ties", "density": "0.5"},
        {"method": "slerp", "weights": "0.4,0.6"},
        {"method": "nuslerp"},
        {"method": "model-stock"},
        {"method": "sce", "density": "0.5"},
        {"method": "linear", "normalize": False, "weights": "0.2,0.8"},
    ],
)
def test_adapters_of_other_ranks_merge_as_the_full_checkpoints_they_stand_for(folders, model, settings):
    paths = [folders.root / f"adapter{i}" for i in range(2)]
    for i, path in enumerate(paths):
        adapter(path, model, seed=i, r=(4, 6)[i])
    full = [write_full(folders, f"full{i}", path, model) for i, path in enumerate(paths)]
    found, expected = read(folders.merge(*paths, base=model, **settings)), read(folders.merge(*full, base=model, **settings))
    adapted = [name for name in found if "q_proj.weight" in name or "down_proj.weight" in name]
    for name, value in found.items():
        far = np.abs(value - expected[name]) > 2e-6
        # One entry may fall on the other side of a threshold by the rounding of B A in float32.
        assert far.sum() <= ("density" in settings and settings["density"] != "1" and name in adapted) * 1, name
    assert max(np.abs(found[name] - read(model)[name]).max() for name in adapted) > 0.02


def test_the_base_of_an_adapter_is_the_one_that_it_names(folders, model):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    for method in ("ties", "linear"):
        given, found = (folders.merge(path, base=base, method=method) for base in (model, None))
        assert content(given) == content(found)
        assert read_manifest(found).inputs["base"] == artifact_id(model)
    config = json.loads((path / "adapter_config.json").read_text())
    shutil.copytree(model, path / "under")  # A path relative to the adapter counts first.
    (path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "under"}))
    assert content(folders.merge(path)) == content(folders.merge(path, base=path / "under"))


def test_a_base_that_is_named_by_an_id_may_be_given_as_a_folder(folders, model):
    paths = [folders.root / f"adapter{i}" for i in range(2)]
    for i, path in enumerate(paths):
        adapter(path, model, seed=i)
    expected = content(folders.merge(*paths, base=model))
    for name, renamed in (("maker/model", paths), ("maker/other", paths[:1])):
        for path in renamed:
            config = json.loads((path / "adapter_config.json").read_text())
            (path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        assert content(folders.merge(*paths, base=model)) == expected
    with pytest.raises(GtrTurboError, match=r"adapter0 was trained from maker/other, and .*adapter1 from maker/model"):
        folders.merge(*paths)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_qalora": True}, "whose change of the weights its files do not tell .use_qalora"),
        ({"init_lora_weights": "pissa_niter_4"}, "files do not tell .init_lora_weights pissa_niter_4"),
        ({"init_lora_weights": "of next year"}, "files do not tell .init_lora_weights of next year"),
        ({"init_lora_weights": "corda"}, "files do not tell .init_lora_weights corda"),
        ({"layer_replication": [[0, 1]]}, "files do not tell .layer_replication"),
        ({"peft_type": "PREFIX_TUNING"}, "files do not tell .peft_type PREFIX_TUNING"),
        ({"use_dora": True}, "use_dora is True and .* has no lora_magnitude_vector"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices .*no rows for them"),
    ],
)
def test_what_the_files_do_not_tell_is_refused_by_name(folders, model, change, said):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(path, base=model)


ADAPTED = {f"model.layers.{layer}.{module}.weight" for layer in (0, 1) for module in ("self_attn.q_proj", "mlp.down_proj")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_modules": ["down_proj", "q_proj"]}, None),
        ({"target_modules": [*(name.removesuffix(".weight") for name in ADAPTED)]}, None),
        ({"target_modules": ["self_attn.q_proj", "mlp.down_proj"], "layers_to_transform": [0, 1]}, None),
        ({"layers_to_transform": [0, 1], "layers_pattern": "layers"}, None),
        ({"layers_to_transform": []}, None),
        ({"target_modules": r".*\.(q_proj|down_proj)"}, None),
        ({"exclude_modules": ["o_proj"]}, None),
        ({"exclude_modules": ".*k_proj"}, None),
        ({"r": 99, "rank_pattern": {".*_proj": 4}}, None),
        ({"fan_in_fan_out": True}, None),
        ({"target_modules": ["q_proj"]}, "down_proj, which its"),
        ({"target_modules": ["proj"]}, "which its"),
        ({"target_modules": []}, "which its"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": r".*\.q_proj"}, "down_proj, which its"),
        ({"target_modules": r"q_proj|down_proj"}, "which its"),
        ({"target_modules": 5}, "target_modules is 5"),
        ({"layers_to_transform": [1]}, "layers.0.*which its"),
        ({"layers_to_transform": 0, "layers_pattern": ["layers"]}, "layers.1.*which its"),
        ({"layers_to_transform": [0, 1], "layers_pattern": ["h"]}, "which its"),
        ({"exclude_modules": ["q_proj"]}, "q_proj, which its"),
        ({"exclude_modules": ".*down_proj"}, "down_proj, which its"),
        ({"modules_to_save": ["lm_head"]}, "holds nothing of lm_head"),
        ({"modules_to_save": ["self_attn"]}, "q_proj, which its"),
        ({"r": 8}, "has rank 4, and 8"),
        ({"r": None}, "has rank 4, and None"),
        ({"r": "4"}, "has rank 4, and '4'"),
        ({"rank_pattern": {"layers.1.mlp.down_proj": 2}}, "layers.1.mlp.down_proj .* has rank 4, and 2"),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_refused_where_peft_leaves_some_out(folders, model, change, said):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    expected = content(folders.merge(path, base=model))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | change))
    if said is None:
        assert _changed_by_peft(path, model) == ADAPTED and content(folders.merge(path, base=model)) == expected
        return
    assert _changed_by_peft(path, model) != ADAPTED
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(path, base=model)


def _changed_by_peft(path: Path, model: Path) -> set[str]:
    """The tensors that PEFT itself changes; none where it refuses the adapter, in whatever way."""
    before = read(model)
    try:
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), path).merge_and_unload()
    except (KeyError, TypeError, ValueError, RuntimeError):
        return set()
    return {name for name, value in merged.state_dict().items() if not np.array_equal(value.detach().numpy(), before[name])}


def test_modules_that_only_a_config_names_are_refused_unless_they_are_to_stay(folders, model, capsys):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    expected = content(folders.merge(path, base=model))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "down_proj", "k_proj", "odd"]}))
    assert _changed_by_peft(path, model) == ADAPTED and "holds no factors" not in capsys.readouterr().err
    for how in ({}, {"rank": 2}):
        with pytest.raises(GtrTurboError, match=r"no factors of model\.layers\.0\.self_attn\.k_proj and 1 more, named in its"):
            folders.merge(path, base=model, **how)
    assert content(folders.merge(path, base=model, missing="base")) == expected
    assert "names model.layers.0.self_attn.k_proj and 1 more in its config and holds no factors of it" in capsys.readouterr().err


def test_a_module_that_transformers_does_not_load_may_have_no_factors(folders, model, capsys):
    path, other = folders.root / "adapter", folders.root / "more"
    adapter(path, model, seed=0)
    shutil.copytree(model, other)
    weights = read(model)
    save_file(weights | {"mtp.0.q_proj.weight": np.ones((4, 4), np.float32)}, other / "model.safetensors", {"format": "pt"})
    folders.merge(path, base=other)
    assert "names mtp.0.q_proj in its config and holds no factors of it: it stays" in capsys.readouterr().err


def test_a_pattern_that_could_match_without_end_is_not_tried(folders, model):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    expected = content(folders.merge(path, base=model))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": r"(([a-z]+)*)*!"}))
    assert content(folders.merge(path, base=model)) == expected


def test_what_is_empty_in_a_config_is_not_there(folders, model):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    expected = content(folders.merge(path, base=model))
    config = json.loads((path / "adapter_config.json").read_text())
    empty = {"target_parameters": [], "layer_replication": [], "alora_invocation_tokens": [], "megatron_config": {},
             "arrow_config": {}, "trainable_token_indices": {}, "alpha_pattern": None, "rank_pattern": None}  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(config | empty))
    assert content(folders.merge(path, base=model)) == expected


def changed(path: Path, change) -> Path:
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(change(tensors), file)
    return path


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_B.weight"},
            "a part of model.layers.0.self_attn.q_proj without its lora_B",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != f"{Q}.lora_A.weight"},
            "a part of model.layers.0.self_attn.q_proj without its lora_A",
        ),
        (lambda t: t | {f"{Q}.lora_A.weight": np.zeros((4, 2, 1, 1), np.float32)}, "no factors of a layer"),
        (lambda t: t | {f"{Q}.lora_A.weight": np.zeros((3, 32), np.float32)}, "no factors of a layer"),
        (lambda t: t | {f"{Q}.lora_A.weight": np.zeros((4, 32), np.int64)}, "is of type I64"),
        (lambda t: t | {f"{Q}.lora_A.weight": np.zeros((4, 30), np.float32)}, r"has shape \[32, 30\], model.*q_proj.weight in"),
        (lambda t: t | {f"{Q}.lora_A.weight": np.full((4, 32), np.nan, np.float32)}, "holds a NaN or an infinity"),
        (
            lambda t: {k.replace("layers.0", "layers.9"): v for k, v in t.items()},
            "the adapters change model.layers.9.*does not hold as a tensor of its own",
        ),
    ],
)
def test_factors_that_do_not_fit_are_named(folders, model, change, said):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(changed(path, change), base=model)
    assert not list(folders.root.glob("*merged*"))


@pytest.mark.parametrize("settings", [{"density": "1"}, {"method": "linear", "weights": "0.3,0.7"}, {"method": "slerp"}])
def test_adapters_of_other_modules_leave_the_rest_as_it_is(folders, model, settings):
    kinds = {"one": {"target_modules": ["q_proj", "up_proj"]}, "two": {"target_modules": ["k_proj", "up_proj"], "r": 6}}
    paths = [folders.root / name for name in kinds]
    full = []
    for path in paths:
        adapter(path, model, seed=len(full), **kinds[path.name])
        full.append(write_full(folders, f"full {path.name}", path, model))
    expected, found = (read(folders.merge(*each, base=model, verify=99, **settings)) for each in (full, paths))
    for name, value in found.items():
        assert np.abs(value - expected[name]).max() <= 1e-7, name
    moved = {name for name in found if np.abs(found[name] - read(model)[name]).max() > 0.01}
    assert {name.split(".")[-2] for name in moved} == {"q_proj", "k_proj", "up_proj"}


def test_the_scale_is_that_of_peft(model, tmp_path):
    patterns = {"alpha_pattern": {"q_proj": 3, r".*\.down_proj": 5}, "rank_pattern": {"layers.1.self_attn.q_proj": 9}}
    wrapped = adapter(tmp_path, model, seed=0, use_rslora=True, **patterns)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    compared = 0
    for name, module in wrapped.named_modules():
        if isinstance(getattr(module, "scaling", None), dict):
            rank = module.lora_A["default"].weight.shape[0]
            found = scale_of(config, name.removeprefix("base_model.model."), rank)
            assert found == pytest.approx(module.scaling["default"], rel=1e-15)
            compared += 1
    assert compared == 4


def logits(path: Path, model: Path) -> torch.Tensor:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), path).eval()(IDS).logits


def test_the_mean_of_two_adapters_has_twice_their_rank_and_loads_in_peft(folders, model):
    paths = [folders.root / f"adapter{i}" for i in range(2)]
    for i, path in enumerate(paths):
        adapter(path, model, seed=i)
    full = folders.merge(*paths, base=model, method="linear")
    exact = folders.merge(*paths, base=model, method="linear", rank=8)
    assert read_manifest(exact).metrics["rank_error"] <= 1e-6
    assert {path.name for path in exact.glob("*.safetensors")} == {"adapter_model.safetensors"}
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(full).eval()(IDS).logits
        torch.testing.assert_close(logits(exact, model), expected, atol=2e-5, rtol=0)
    assert json.loads((exact / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_the_error_of_a_rank_is_the_true_one(folders, model, rank):
    paths = [folders.root / f"adapter{i}" for i in range(2)]
    for i, path in enumerate(paths):
        adapter(path, model, seed=i)
    base, full = read(model), read(folders.merge(*paths, base=model))
    cut = folders.merge(*paths, base=model, rank=rank)
    error = square = best = 0.0
    factors, config = load_file(cut / "adapter_model.safetensors"), json.loads((cut / "adapter_config.json").read_text())
    for key in [key for key in factors if key.endswith("lora_A.weight")]:
        module = key.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
        delta = full[f"{module}.weight"].astype(np.float64) - base[f"{module}.weight"]
        a, b = factors[key].astype(np.float64), factors[key.replace("lora_A", "lora_B")].astype(np.float64)
        assert scale_of(config, module, a.shape[0]) == 1 and a.shape[0] == min(rank, *delta.shape)
        error, square = error + ((delta - b @ a) ** 2).sum(), square + (delta**2).sum()
        best += (np.linalg.svd(delta, compute_uv=False)[rank:] ** 2).sum()
    assert read_manifest(cut).metrics["rank_error"] == pytest.approx((error / square) ** 0.5, abs=2e-6)
    assert (best / square) ** 0.5 == pytest.approx((error / square) ** 0.5, abs=1e-5)  # Nothing of that rank is closer.
    assert (error > 0.01 * square) == (rank < 40)


def test_truncation_of_a_large_matrix_is_as_good_as_the_full_decomposition():
    noise = np.random.default_rng(0)
    spectrum = np.concatenate([np.linspace(3, 1, 20), 0.5 * 0.97 ** np.arange(180)])
    u, v = (np.linalg.qr(noise.normal(size=(size, 200)))[0] for size in (300, 220))
    delta = ((u * spectrum) @ v.T).astype(np.float32)
    a, b = truncate(delta, 20)
    assert a.shape == (20, 220) and b.shape == (300, 20)
    best = (spectrum[20:] ** 2).sum() ** 0.5
    assert np.linalg.norm(delta.astype(np.float64) - b.astype(np.float64) @ a) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("settings", [{"method": "linear"}, {"density": "0.5"}, {"density": "0.5", "weights": "0.3,0.7"}])
def test_factors_are_merged_apart_where_that_is_asked_for(folders, model, settings):
    paths = [folders.root / f"adapter{i}" for i in range(2)]
    for i, path in enumerate(paths):
        adapter(path, model, seed=i)
    found = load_file(folders.merge(*paths, base=model, parameters=("factors=true",), **settings) / "adapter_model.safetensors")
    files = [load_file(path / "adapter_model.safetensors") for path in paths]
    shares = [float(part) for part in settings.get("weights", "1,1").split(",")]
    for name, value in found.items():
        parts = [torch.from_numpy(file[name]) for file in files]
        if settings.get("method") == "linear":
            expected = (parts[0] + parts[1]) / 2
        elif shares == [1, 1]:
            # PEFT's primitive at weight 1 each.
            expected = peft_ties(parts, torch.ones(2), density=0.5, majority_sign_method="total")
        else:
            expected = ties(parts, weights=shares, density=0.5).float()
        torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-6, rtol=0)
    assert found.keys() == files[0].keys()
    merged = folders.root / f"merged{folders._merged}"
    assert torch.isfinite(logits(merged, model)).all()


def test_the_published_primitive_agrees_at_weight_one_each():
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(40, 50, generator=generator) for _ in range(3)]
    for density, sign in itertools.product((0.2, 0.8, 1.0), ("total",)):
        expected = peft_ties(vectors, torch.ones(3), density=density, majority_sign_method=sign)
        torch.testing.assert_close(ties(vectors, weights=[1.0] * 3, density=density).float(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 4, "parameters": ("factors=true",)}, "--parameters factors=true keeps the rank"),
        ({"rank": 4, "include": ("*q_proj*",)}, "--include and --exclude are for full weights"),
        ({"parameters": ("factors=true",), "exclude": ("*q_proj*",)}, "--include and --exclude are for full weights"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folders, model, settings, said):
    path = folders.root / "adapter"
    adapter(path, model, seed=0)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(path, path, base=model, **settings)


def test_factors_of_other_ranks_or_scales_and_whole_tensors_do_not_merge_apart(folders, model):
    kinds = {"plain": {}, "rank": {"r": 6, "lora_alpha": 12}, "scale": {"lora_alpha": 9}}
    kinds |= {"whole": {"modules_to_save": ["lm_head"]}}
    for name, settings in kinds.items():
        adapter(folders.root / name, model, seed=0, **settings)
    whole = "replaces lm_head.weight as a whole"
    for name, said in (("rank", "does not fit"), ("scale", "has other scales than"), ("whole", whole)):
        with pytest.raises(GtrTurboError, match=said):
            folders.merge(folders.root / "plain", folders.root / name, base=model, parameters=("factors=true",))
    with pytest.raises(GtrTurboError, match=r"changes lm_head\.weight otherwise than by factors"):
        folders.merge(folders.root / "whole", base=model, rank=4)


def test_only_what_fits_a_pattern_is_merged(folders, model):
    path, base = folders.root / "adapter", read(model)
    adapter(path, model, seed=0)
    found = read(folders.merge(path, base=model, include=("model.layers.1.*",), exclude=("*down_proj*",)))
    assert {name for name in base if not np.array_equal(found[name], base[name])} == {"model.layers.1.self_attn.q_proj.weight"}


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """A tiny LLaVA, whose towers both have layers.0.self_attn.q_proj, stored under other names than it runs."""
    torch.manual_seed(0)
    text = {"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 8, "patch_size": 4}  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=39))
    folder = tmp_path_factory.mktemp("llava") / "base"
    model.save_pretrained(folder)
    return folder


def test_names_on_disk_are_found_through_transformers_where_endings_cannot_tell(folders, llava):
    model = LlavaForConditionalGeneration.from_pretrained(llava)
    stored = stored_names(llava)
    on_disk = read(llava)
    assert set(stored.values()) == set(on_disk)
    for name, value in model.state_dict().items():
        if name in stored:
            assert np.array_equal(on_disk[stored[name]], value.numpy()), name
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "linear_1"], modules_to_save=["linear_2"]))
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.copy_(0.3 * torch.randn(value.shape))
    path = folders.root / "adapter"
    wrapped.save_pretrained(path)
    merged = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(llava), path).merge_and_unload()
    found = LlavaForConditionalGeneration.from_pretrained(folders.merge(path, base=llava, density="1"))
    expected = merged.state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=0)


def test_a_tensor_is_matched_by_its_longest_common_ending_alone(folders):
    shapes = {"model.layers.0.q.weight": (2, 2), "visual.layers.0.q.weight": (2, 2)}
    shapes |= {"model.layers.0.up.weight": (3, 2), "head.weight": (2, 3)}
    layout = read_layout(folders.write("base", {name: np.zeros(shape) for name, shape in shapes.items()}))
    named = "model.text.layers.0.up.weight"
    assert tensors_of(layout, [(named, [(3, 2)])]) == {named: "model.layers.0.up.weight"}
    wanted = [("model.layers.0.q.weight", [(2, 2)]), ("head.weight", [(3, 2), (2, 3)])]
    assert tensors_of(layout, wanted) == {name: name for name, _ in wanted}
    # Two tensors end alike, or two modules would be the same tensor, and transformers knows no such model.
    with pytest.raises(GtrTurboError, match="transformers does not know the model"):
        tensors_of(layout, [("one.layers.0.up.weight", [(3, 2)]), ("two.layers.0.up.weight", [(3, 2)])])
    with pytest.raises(GtrTurboError, match="transformers does not know the model"):
        tensors_of(layout, [("other.layers.0.q.weight", [(2, 2)])])


def test_a_tied_head_that_was_trained_with_its_embedding_is_merged_as_one_and_others_are_refused(folders):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    base, path = folders.root / "tied", folders.root / "adapter"
    Qwen2ForCausalLM(config).save_pretrained(base)
    adapter(path, base, seed=1, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    held = load_file(path / "adapter_model.safetensors")
    assert {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"} <= held.keys()
    found, before = read(folders.merge(path, base=base, method="linear", verify=9)), read(base)
    assert found.keys() == before.keys()
    assert np.array_equal(found["model.embed_tokens.weight"], held["base_model.model.model.embed_tokens.weight"])
    assert not np.array_equal(found["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    changed(path, lambda tensors: tensors | {"base_model.model.lm_head.weight": held["base_model.model.lm_head.weight"] + 1})
    with pytest.raises(GtrTurboError, match="does not hold as a tensor of its own"):
        folders.merge(path, base=base)


def test_an_embedding_that_was_trained_apart_from_its_tied_head_is_refused_and_merged_into_an_untied_base(folders):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    base, path = folders.root / "tied", folders.root / "adapter"
    Qwen2ForCausalLM(config).save_pretrained(base)
    adapter(path, base, seed=1, modules_to_save=["embed_tokens"])
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path).merge_and_unload()
    assert not torch.equal(peft.lm_head.weight, peft.model.embed_tokens.weight)
    with pytest.raises(GtrTurboError, match=r"changes model.embed_tokens.weight apart from lm_head.weight"):
        folders.merge(path, base=base, method="linear")
    untied = folders.root / "untied"
    shutil.copytree(base, untied)
    weights = load_file(base / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, untied / "model.safetensors", {"format": "pt"})
    (untied / "config.json").write_text(json.dumps(config.to_dict() | {"tie_word_embeddings": False}))
    found, expected = read(folders.merge(path, base=untied, method="linear")), peft.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.allclose(found[name], value.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["q_proj", "embed_tokens"]])
@pytest.mark.parametrize("ensured", [True, False])
def test_factors_of_a_tied_embedding_compute_what_was_trained_or_are_refused(folders, targets, ensured):
    """Logits of the adapted model are the truth: PEFT adds both changes to the one tensor when it merges, and so changes them."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    base, path = folders.root / "tied", folders.root / "adapter"
    Qwen2ForCausalLM(config).save_pretrained(base)
    trained = adapter(path, base, seed=1, target_modules=targets, ensure_weight_tying=ensured).eval()
    if not ensured:
        said = (
            "lm_head.weight, which .* does not hold"
            if targets == ["lm_head"]
            else "embed_tokens.weight apart from lm_head.weight"
        )
        with pytest.raises(GtrTurboError, match=said):
            folders.merge(path, base=base)
        return
    merged = AutoModelForCausalLM.from_pretrained(folders.merge(path, base=base, density="1")).eval()
    with torch.no_grad():
        expected = trained(IDS).logits
        plain = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
        assert float((merged(IDS).logits - expected).abs().max()) < 1e-4 < 0.1 < float((plain - expected).abs().max())
    (folders.root / "recipe.yml").write_text(f"merge_method: passthrough\nmodels: [{{model: {base}+{path}}}]\n")
    by_recipe = read(folders.merge(recipe=str(folders.root / "recipe.yml")))
    assert all(
        np.array_equal(value, by_recipe[name]) for name, value in read(folders.merge(path, base=base, density="1")).items()
    )
    tensors = load_file(path / "adapter_model.safetensors")
    alone = {name: value for name, value in tensors.items() if "base_layer" not in name}  # As PEFT saves factors of a head.
    changed(path, lambda _: alone)
    with pytest.raises(GtrTurboError, match=r"changes lm_head.weight with what it is tied to.*\n.*leave out --rank"):
        folders.merge(path, base=base, method="linear", rank=4)
    assert content(folders.merge(path, base=base, density="1"))
    changed(path, lambda _: tensors)
    head = "base_model.model.lm_head.lora_B.weight"
    changed(path, lambda tensors: tensors | {head: tensors[head] + 1})
    with pytest.raises(GtrTurboError, match=r"lm_head.weight, which .* does not hold"):
        folders.merge(path, base=base)


def test_an_adapter_beside_full_weights_and_a_pickled_one_are_refused_with_what_to_do(folders, model):
    path, other = folders.root / "adapter", folders.root / "other"
    adapter(path, model, seed=1)
    adapter(other, model, seed=2)
    full = folders.merge(other, base=model, method="linear")
    with pytest.raises(GtrTurboError, match=r"merge those: gtrturbo merge --method linear --base \S+ --out FULL \S+/adapter$"):
        folders.merge(path, full, base=model)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(GtrTurboError, match=r"holds pickled weights \(adapter_model\.bin\).*\nsave it with safetensors: Peft"):
        folders.merge(path, base=model)


def test_the_page_shows_how_to_untie_a_base_for_an_adapter_that_trained_its_head(folders, monkeypatch):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    base, path = folders.root / "base", folders.root / "adapter"
    Qwen2ForCausalLM(config).save_pretrained(base)
    adapter(path, base, seed=1, modules_to_save=["lm_head"])
    with pytest.raises(
        GtrTurboError,
        match=r"change lm_head\.weight, which .*\n.*untie them in the base, as the documentation.s page merge shows",
    ):
        folders.merge(path, base=base, method="linear")
    page = (Path(__file__).parents[2] / "docs/merge.md").read_text(encoding="utf-8")
    code = page.partition("`--base untied`:\n\n```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folders.root)
    exec(code, {"AutoModelForCausalLM": AutoModelForCausalLM, "torch": torch})
    found = read(folders.merge(path, base=folders.root / "untied", method="linear"))
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("untied"), path).merge_and_unload().state_dict()
    assert found.keys() == expected.keys() and not np.allclose(found["lm_head.weight"], found["model.embed_tokens.weight"])
    for name, value in expected.items():
        assert np.allclose(found[name], value.numpy(), rtol=1e-6, atol=1e-6), name


def test_what_peft_does_not_know_of_a_config_is_told(folders, model, capsys):
    assert {field.name for field in fields(LoraConfig)} <= KNOWN_KEYS
    adapter(folders.root / "a", model, seed=1)
    config = folders.root / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_something_new": True, "also_new": None}))
    folders.merge(folders.root / "a", base=model, method="linear")
    assert "says use_something_new, which PEFT does not know" in capsys.readouterr().err
