"""Checkpoints and adapters whose names a wrapper of the model wrote: taken for what they are, or refused with what mends it."""

import json
import shutil

import numpy as np
import pytest
from checkpoints import noisy, read

import gtrturbo
from gtrturbo.errors import GtrTurboError

NAMES = {"model.embed_tokens.weight": (12, 8), "model.layers.0.mlp.up_proj.weight": (8, 8), "model.norm.weight": (8,)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"pretrained_model.{name}",
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
        lambda name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
    ],
)
def test_names_of_a_wrapper_are_taken_off_and_told(folders, wrap, capsys):
    base, others = noisy(NAMES, 2)
    under, plain = folders.write("base", base), folders.write("plain", others[1])
    wrapped = folders.write("wrapped", {wrap(name): value for name, value in others[0].items()})
    out = read(folders.merge(wrapped, plain, base=under, method="task-arithmetic"))
    for name, value in base.items():
        np.testing.assert_allclose(out[name], others[0][name] + others[1][name] - value, atol=1e-6)
    assert "taken as model." in capsys.readouterr().err


def test_a_value_head_beside_a_wrapped_model_is_left_out_and_told(folders, capsys):
    base, (one,) = noisy(NAMES, 1)
    head = {"v_head.summary.weight": np.ones((1, 8)), "v_head.summary.bias": np.ones(1)}
    wrapped = folders.write("wrapped", {f"pretrained_model.{name}": value for name, value in one.items()} | head)
    out = read(folders.merge(wrapped, base=folders.write("base", base), method="task-arithmetic"))
    assert out.keys() == base.keys()
    np.testing.assert_allclose(out["model.norm.weight"], one["model.norm.weight"], atol=1e-6)
    assert "v_head.summary.weight and 1 more beside the model is left out" in capsys.readouterr().err


def test_a_layer_in_a_wrapper_that_the_base_lacks_is_refused_by_its_own_name(folders):
    base, (one,) = noisy(NAMES, 1)
    wrapped = {f"module.{name}": value for name, value in one.items()} | {
        "module.model.layers.1.mlp.up_proj.weight": np.ones((8, 8))
    }
    with pytest.raises(GtrTurboError, match=r"first: model\.layers\.1\.mlp"):
        folders.merge(folders.write("wrapped", wrapped), base=folders.write("base", base))


def test_what_shares_no_tensor_is_not_sent_to_an_option_that_refuses_it_too(folders):
    base, (one,) = noisy(NAMES, 1)
    other = folders.write("other", {f"of.another.{name}": value for name, value in one.items()})
    with pytest.raises(GtrTurboError) as error:
        folders.merge(other, base=folders.write("base", base))
    assert "--missing" not in error.value.fix


def factors(seed: int):
    noise = np.random.default_rng(seed)
    return {"layers.0.q_proj": (noise.normal(size=(12, 2)), noise.normal(size=(2, 8)))}


@pytest.fixture
def adapter(adapted):
    base, (path,) = adapted({"layers.0.q_proj": np.ones((12, 8))}, [factors(0)])
    return base, path


def renamed(path, change):
    from safetensors.numpy import load_file, save_file

    file = path / "adapter_model.safetensors"
    save_file({change(name): value for name, value in load_file(file).items()}, file)
    return path


@pytest.mark.parametrize(("old", "new"), [("base_model.model.", ""), ("base_model.model.", "base_model.model._orig_mod.")])
def test_factors_that_peft_would_leave_out_are_told(folders, adapter, old, new, capsys):
    base, path = adapter
    expected = read(folders.merge(path, base=base))
    assert "PEFT leaves them out" not in capsys.readouterr().err
    found = read(folders.merge(renamed(path, lambda name: name.replace(old, new)), base=base))
    assert "names 2 tensors otherwise than PEFT does" in capsys.readouterr().err
    np.testing.assert_array_equal(found["model.layers.0.q_proj.weight"], expected["model.layers.0.q_proj.weight"])


def test_refusals_of_adapters_say_what_mends_them(folders, adapter):
    base, path = adapter
    named = renamed(shutil.copytree(path, path.with_name("named")), lambda name: name.replace(".weight", ".default.weight"))
    silent, directed = (shutil.copytree(path, path.with_name(name)) for name in ("silent", "directed"))
    config = json.loads((path / "adapter_config.json").read_text())
    (silent / "adapter_config.json").write_text(json.dumps(config | {"target_modules": None}))
    (directed / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    said = {
        named: ("default", "save_pretrained"),
        silent: ("names no target_modules", "q_proj"),
        directed: ("use_dora", "as it was"),
    }
    for folder, (what, fix) in said.items():
        with pytest.raises(GtrTurboError, match=what) as error:
            folders.merge(folder, base=base)
        assert fix in error.value.fix


@pytest.mark.parametrize("method", ["della", "della-linear"])
def test_densities_and_epsilons_that_give_no_probabilities_are_refused_before_any_work(folders, family, method):
    base, others = family(2)
    with pytest.raises(GtrTurboError, match=r"here 0\.75 to 1\.05") as error:
        folders.merge(*others, base=base, method=method, density="0.9")
    assert error.value.fix.endswith("--parameters epsilon=0.05")
    folders.merge(*others, base=base, method=method, density="0.9", parameters=("epsilon=0.05",))


def test_a_recipe_in_memory_is_refused_with_what_is_wanted():
    with pytest.raises(GtrTurboError, match="recipe must be the path of a file, got a dictionary"):
        gtrturbo.merge(recipe={"merge_method": "linear"}, out="x")


@pytest.mark.parametrize("patterns", [{"include": ("*embed*",)}, {"exclude": ("lm_head*",)}])
def test_an_equal_copy_of_a_tied_head_is_merged_where_the_embedding_is(folders, patterns, capsys):
    from test_what_is_read import edit, saved, tied_model

    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    base = edit(saved(folders.root / "base", tied_model(), 0), lambda held: held | {head: held[embedding].clone()})
    one = saved(folders.root / "one", tied_model(), 1)
    out = read(folders.merge(one, base=base, method="task-arithmetic", **patterns))
    np.testing.assert_array_equal(out[head], out[embedding])
    np.testing.assert_allclose(out[embedding], read(one)[embedding], atol=1e-6)
    assert "lm_head.weight is tied to model.embed_tokens.weight, and merged where that is" in capsys.readouterr().err


def test_layers_of_one_model_in_other_places_are_one_model_that_has_not_moved(folders):
    base, _ = noisy({f"model.layers.{i}.w.weight": (8, 8) for i in range(2)}, 1)
    folder = folders.write("base", base)
    (folder / "config.json").write_text(json.dumps({"model_type": "none", "num_hidden_layers": 2}))
    slices = [{"sources": [{"model": str(folder), "layer_range": [0, 2]}]}] * 2
    (folders.root / "recipe.yml").write_text(json.dumps({"merge_method": "passthrough", "slices": slices}))
    out = folders.merge(recipe=str(folders.root / "recipe.yml"))
    assert json.loads((out / "stage.json").read_text())["metrics"] == {"checkpoints": 1}
