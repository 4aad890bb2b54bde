"""Which base counts: the user's own, whatever adapters say; ids work as folders do; nothing is written over or into an input."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import content, read
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from test_what_is_read import SMALL, saved
from transformers import LlamaConfig, LlamaForCausalLM

from gtrturbo.config import MergeConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import preview


@pytest.fixture
def base(folders) -> Path:
    return saved(folders.root / "base", LlamaForCausalLM(LlamaConfig(**SMALL)), 0)


@pytest.fixture
def adapter(folders, base) -> Path:
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(folders.root / "adapter")
    return folders.root / "adapter"


def renamed(adapter: Path, **said) -> Path:
    """Let an adapter's config say something else; None takes a key out."""
    config = json.loads((adapter / "adapter_config.json").read_text()) | said
    (adapter / "adapter_config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))
    return adapter


@pytest.mark.parametrize("named", [None, "", " ", 5, "gone", ["base"]])
def test_an_adapter_that_names_no_base_takes_the_users(folders, base, adapter, named, capsys):
    expected = content(folders.merge(adapter, base=base))
    renamed(adapter, base_model_name_or_path=named)
    assert content(folders.merge(adapter, base=base)) == expected
    assert "as its base" not in capsys.readouterr().err
    with pytest.raises(GtrTurboError, match="does not name the checkpoint that it was trained from") as error:
        folders.merge(adapter)
    assert "--base" in error.value.fix


def test_adapters_of_absent_and_copied_bases_are_merged_around_the_users(folders, base, adapter, capsys):
    other = shutil.copytree(adapter, folders.root / "other")
    expected = content(folders.merge(adapter, other, base=base))
    renamed(adapter, base_model_name_or_path="unsloth/m-bnb-4bit")
    renamed(other, base_model_name_or_path=str(shutil.copytree(base, folders.root / "copy")))
    assert content(folders.merge(adapter, other, base=base)) == expected
    said = capsys.readouterr().err
    assert f"{adapter} names unsloth/m-bnb-4bit as its base, whose weights are not here" in said and str(other) not in said
    changed = saved(folders.root / "changed", LlamaForCausalLM(LlamaConfig(**SMALL)), 1)
    renamed(other, base_model_name_or_path=str(changed))
    assert content(folders.merge(adapter, other, base=base)) == expected
    assert f"{other} names {changed} as its base, whose weights are others than those of {base}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "", "null", "[" * 100_000])
def test_an_adapter_config_that_is_none_is_refused(folders, base, adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(GtrTurboError, match=r"adapter_config.json is damaged"):
        folders.merge(adapter, base=base)


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"lora_alpha": None}, "lora_alpha of .* is None"),
        ({"lora_alpha": "8"}, "lora_alpha of .* is '8'"),
        ({"lora_alpha": True}, "lora_alpha of .* is True"),
        ({"lora_alpha": 10**400}, "lora_alpha of .* is 1000"),
        ({"lora_alpha": "gone"}, "lora_alpha of .* is None"),
        ({"alpha_pattern": {"*q_proj": 3}}, "is no regular expression"),
        ({"alpha_pattern": {"(.*)*(.*)*(.*)*x": 3}}, "may take without end"),
        ({"alpha_pattern": ["q_proj"]}, "where numbers by module are meant"),
        ({"alpha_pattern": {"q_proj": "3"}}, "lora_alpha of .* is '3'"),
    ],
    ids=range(9),
)
def test_an_adapter_config_of_odd_values_is_refused(folders, base, adapter, said, refusal):
    with pytest.raises(GtrTurboError, match=refusal):
        folders.merge(renamed(adapter, **said), base=base)


def test_adapters_of_a_base_of_integers_are_refused_also_by_a_dry_run(folders, base, adapter):
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {name: tensors[name].astype(np.int8)}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(GtrTurboError, match=rf"{name} in {base} is of type I8"):
        folders.merge(adapter, base=base)
    with pytest.raises(GtrTurboError, match=rf"{name} in {base} is of type I8"):
        preview(MergeConfig(out=folders.root / "x", base=base, checkpoints=(adapter,), dry_run=True))


def test_an_adapter_without_tensors_is_refused(folders, base, adapter):
    (adapter / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(GtrTurboError, match="holds no tensors"):
        folders.merge(adapter, base=base)


def test_a_rank_names_its_base_so_that_peft_finds_it_from_anywhere(folders, base, adapter, monkeypatch):
    monkeypatch.chdir(folders.root)
    out = folders.merge(Path("adapter"), base=Path("base"), method="linear", rank=2)
    monkeypatch.chdir("/")
    AutoPeftModelForCausalLM.from_pretrained(out)
    renamed(adapter, layers_to_transform=[0, 1, 2, 3, None])
    folders.merge(adapter, base=base, method="linear", parameters=("factors=true",))


@pytest.fixture
def hub(folders, base, adapter, monkeypatch) -> Path:
    """A cache of downloads as huggingface_hub keeps it: snapshots of links to blobs. Nothing else can be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cache = folders.root / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for name, source in (("base", base), ("adapter", adapter)):
        home = cache / f"models--maker--{name}"
        for folder in ("blobs", "refs", "snapshots/abc/notes"):
            (home / folder).mkdir(parents=True)
        for ref in ("main", "v1"):
            (home / "refs" / ref).write_text("abc")
        for file in [file for file in source.iterdir() if file.is_file()]:
            shutil.copy(file, home / "blobs" / f"b-{file.name}")
            (home / "snapshots" / "abc" / file.name).symlink_to(f"../../blobs/b-{file.name}")
    return cache


def test_an_id_works_wherever_a_folder_does(folders, base, adapter, hub, capsys):
    renamed(adapter, base_model_name_or_path="maker/base")
    by_id = [
        folders.merge(Path("maker/adapter"), base=Path("maker/base")),
        folders.merge(adapter, base=Path("maker/base")),
        folders.merge(adapter),
    ]
    expected = content(folders.merge(adapter, base=base))
    assert [content(out) for out in by_id] == [expected] * 3
    at = folders.merge(Path("maker/adapter@v1"), base=Path("maker/base@main"))
    assert content(at) == expected
    with pytest.raises(GtrTurboError, match="maker/adapter@other is no folder, and cannot be fetched"):
        folders.merge(Path("maker/adapter@other"), base=base)
    assert (by_id[0] / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not any(path.is_symlink() for path in by_id[0].rglob("*"))
    assert "as its base" not in capsys.readouterr().err
    full = folders.merge(Path("maker/base"), base=base, method="linear", overwrite=True)
    assert np.array_equal(read(full)["lm_head.weight"], read(base)["lm_head.weight"])
    cut = folders.merge(Path("maker/adapter"), base=Path("maker/base"), method="linear", rank=2)
    assert json.loads((cut / "adapter_config.json").read_text())["base_model_name_or_path"] == "maker/base"
    with pytest.raises(
        GtrTurboError,
        match="maker/none is no folder, and cannot be fetched: it was not fetched before, and the hub is not reached",
    ):
        folders.merge(Path("maker/none"), base=base)


@pytest.mark.parametrize("way", ["base", "checkpoint", "inside", "link", "dots", "partial", "around", "foreign"])
def test_no_input_is_written_over_or_into(folders, family, way):
    base, (one, two) = family(2)
    made = folders.merge(one, base=base)
    if way == "foreign":
        made = two
    (folders.root / "link").symlink_to(made)
    out = {"inside": made / "sub" / "x", "link": folders.root / "link", "dots": made / ".." / made.name / "y"}.get(way, made)
    given = {"base": (one, two)}.get(way, (made, two))
    if way == "partial":
        given, out = (made.rename(folders.root / ".z.partial"), two), folders.root / "z"
    if way == "around":
        given = (Path(shutil.copytree(one, made / "below")), two)
    before = {path: path.read_bytes() for path in folders.root.rglob("*") if path.is_file()}
    with pytest.raises(GtrTurboError, match=r"--out .* (is or lies in|holds) .*, which stays as it is"):
        folders.merge(*given, base=made if way == "base" else base, out=out, overwrite=True)
    assert {path: path.read_bytes() for path in folders.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", ["state", "cache"])
def test_state_and_cache_lie_in_no_input_and_not_in_the_output(folders, family, option):
    base, (one, two) = family(2)
    for place in (one, one / "s", base / "s", folders.root / "o", folders.root / "o" / "s"):
        with pytest.raises(GtrTurboError, match=rf"--{option} .* is or lies in .*, which stays as it is"):
            folders.merge(one, two, base=base, out=folders.root / "o", **{option: place})
    folders.merge(one, two, base=base, out=folders.root / "o", **{option: folders.root / "s"})


def test_the_base_of_an_adapter_is_an_input_too(folders, base, adapter):
    with pytest.raises(GtrTurboError, match="which stays as it is"):
        folders.merge(adapter, base=shutil.copytree(base, folders.root / "copy"), out=base / "x", overwrite=True)


def test_weights_without_a_config_say_what_is_missing(folders, family):
    base, (one, _) = family(2)
    os.remove(one / "config.json")
    with pytest.raises(GtrTurboError, match=r"holds weights and no config.json"):
        folders.merge(one, base=base)


def test_a_selection_by_variance_finds_a_nan_of_the_only_checkpoint(folders):
    base, one = folders.write("b", {"w": np.ones(4)}), folders.write("n", {"w": np.array([1, 2, 3, np.nan])})
    with pytest.raises(GtrTurboError, match=rf"w in {one} holds a NaN"):
        folders.merge(one, base=base, method="sce")
