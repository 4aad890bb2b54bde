"""What a merge says of what it made: verified again, how far the weights moved, what stays behind, what is not what it seems."""

import json

import numpy as np
import pytest
import torch
from checkpoints import read

import gtrturbo
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import verify


@pytest.mark.parametrize("settings", [{}, {"trim": "global"}, {"method": "slerp"}, {"method": "della"}], ids=str)
def test_a_merge_that_is_there_is_verified_again_when_that_is_asked(folders, family, settings, capsys):
    base, others = family(2)
    asked = {"base": base, "out": folders.root / "out"} | settings
    made = gtrturbo.merge(others, **asked)
    assert "verified" not in capsys.readouterr().err
    assert gtrturbo.merge(others, **asked, verify=9).id == made.id
    assert f"verified: {min(9, len(read(base)))} tensors" in capsys.readouterr().err
    file = made.out / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(GtrTurboError, match="is not what merge wrote"):
        gtrturbo.merge(others, **asked, verify=9)


def test_what_cannot_be_verified_later_says_so(folders, family, capsys):
    base, others = family(2)
    for checkpoints, more in ((others, {"state": folders.root / "state"}), ([], {})):
        asked = {"base": base, "out": folders.root / f"out {len(checkpoints)}"} | more
        gtrturbo.merge(checkpoints, **asked)
        gtrturbo.merge(checkpoints, **asked, verify=1)
        assert "its files are those that were written" in capsys.readouterr().err.replace("\n", " ")


def test_a_nan_does_not_equal_the_reference(folders, family, monkeypatch):
    base, others = family(2)
    tensor = verify._tensor

    def spoilt(values):
        found = tensor(values).clone()
        found.view(-1)[0] = torch.nan
        return found

    monkeypatch.setattr(verify, "_tensor", spoilt)
    with pytest.raises(GtrTurboError, match="differs from the reference by nan"):
        folders.merge(*others, base=base, verify=1)


WHOLE = [("slerp", 2), ("karcher", 3), ("nuslerp", 2), ("task-arithmetic", 3), ("ties", 3), ("model-stock", 3), ("ram", 3)]


@pytest.mark.parametrize(("method", "k"), WHOLE)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_delta_norm_is_how_far_the_weights_moved(folders, family, method, k, dtype):
    """Of methods that merge whole weights, too; to the rounding of the output's type."""
    base, others = family(k, dtypes=dtype)
    out = folders.merge(*others, base=base, method=method, weights="1,3" if k == 2 else "sma")
    around, merged = read(base), read(out)
    moved = np.sqrt(sum(np.square(merged[name].astype(np.float64) - around[name]).sum() for name in around))
    metrics = json.loads((out / "stage.json").read_text())["metrics"]
    size = np.sqrt(sum(np.square(value.astype(np.float64)).sum() for value in around.values()))
    assert metrics["delta_norm"] == pytest.approx(moved, rel=1e-5, abs=size * 2.0**-9 if dtype == "BF16" else 0)
    mean = {name: sum(read(other)[name].astype(np.float64) - value for other in others) / k for name, value in around.items()}
    if method in ("task-arithmetic", "ties", "model-stock", "ram"):  # The others weigh by more than the user's weights.
        expected = np.sqrt(sum(np.square(value).sum() for value in mean.values()))
        assert metrics["mean_delta_norm"] == pytest.approx(expected, rel=1e-5)


def test_what_a_merge_does_not_measure_is_not_told(folders, family):
    base, others = family(2)
    for method, absent in (
        ("slerp", {"kept", "changed"}),
        ("della", {"kept", "conflicts"}),
        ("sce", {"changed"}),
        ("ties", set()),
    ):
        metrics = json.loads((folders.merge(*others, base=base, method=method) / "stage.json").read_text())["metrics"]
        assert {"kept", "conflicts", "changed"} - metrics.keys() == absent


def test_weights_of_other_formats_and_training_state_are_told_by_name(folders, family, capsys):
    base, others = family(1)
    for name in ("a.pt", "pytorch_model.bin", ".gitattributes", "notes.bak"):
        (base / name).write_bytes(b"x")
    (base / "runs").mkdir()
    folders.merge(*others, base=base)
    told = capsys.readouterr().err
    assert "are left out: a.pt, pytorch_model.bin, runs." in told and ".gitattributes" not in told


def test_a_folder_has_no_revisions(folders, family, monkeypatch):
    base, others = family(2)
    monkeypatch.chdir(folders.root)
    for checkpoint, around in ((f"{others[0].name}@2", base), (str(others[0]), f"{base}@v9")):
        with pytest.raises(GtrTurboError, match="is a folder, which has no revisions"):
            gtrturbo.merge([checkpoint, others[1]], base=around, out=folders.root / "out")
    recipe = folders.root / "recipe.yml"
    model = {"model": {"model": {"path": str(others[0]), "revision": "zz"}}}
    recipe.write_text(json.dumps({"merge_method": "linear", "models": [model, {"model": str(others[1])}], "dtype": "float32"}))
    with pytest.raises(GtrTurboError, match="is a folder, which has no revisions"):
        gtrturbo.merge(recipe=recipe, out=folders.root / "out")


def test_a_default_beside_a_recipe_is_refused(folders, family):
    _, others = family(2)
    recipe = folders.root / "recipe.yml"
    models = [{"model": str(each)} for each in others]
    recipe.write_text(
        json.dumps({"merge_method": "slerp", "models": models, "base_model": str(others[0]), "parameters": {"t": 0.5}})
    )
    for name, value in (("method", "ties"), ("density", 0.8), ("weights", "sma"), ("scale", 1.0)):
        with pytest.raises(GtrTurboError, match=f"--{name} {value} beside a recipe says nothing"):
            gtrturbo.merge(recipe=recipe, out=folders.root / "out", **{name: value})


def test_a_config_that_transformers_makes_no_model_of_is_no_fault_of_ours(folders, family):
    base, others = family(1)
    for path in (base, *others):
        (path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 5, "num_attention_heads": 2}))
    extra = read(others[0]) | {"mtp.x": np.zeros(3, np.float32)}
    other = folders.write("other", extra, "F32")
    (other / "config.json").write_text((base / "config.json").read_text())
    try:
        folders.merge(other, base=base)
    except GtrTurboError as error:
        assert "mtp.x" in str(error)
