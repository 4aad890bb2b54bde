"""A head that a tied config stores for itself: two models in one folder, of which programs choose differently."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_model
from gtrturbo.models.split_model import load_split
from gtrturbo.stages import execute


@pytest.fixture(scope="module")
def own_head(init, tmp_path_factory):
    folder = shutil.copytree(init, tmp_path_factory.mktemp("head") / "model")
    (folder / "stage.json").unlink()
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.flip(weights["model.embed_tokens.weight"], (0,))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("load", [
    lambda folder, out: execute(InitConfig(out=out, model=str(folder))),
    lambda folder, out: load_model(folder),
    lambda folder, out: load_split(folder, device="cpu", dtype="auto"),
], ids=["init", "whole", "split"])  # fmt: skip
def test_a_tied_config_beside_a_head_of_its_own_is_refused(own_head, tmp_path, load):
    with pytest.raises(GtrTurboError, match=r"ties lm_head.weight to other weights, and it is stored with values") as error:
        load(own_head, tmp_path / "out")
    assert error.value.fix.startswith("write tie_word_embeddings: false in config.json")


def test_a_head_that_is_stored_twice_is_tied(init, own_head, tmp_path):
    folder = shutil.copytree(own_head, tmp_path / "twice")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    model = load_model(folder)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
