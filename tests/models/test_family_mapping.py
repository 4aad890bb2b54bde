"""Every family of transformers' image-text-to-text mapping ends in an estimate, or in a sentence that names its type."""

from typing import Any

import pytest
import transformers as hf
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.shape import read_shape

LAYERS = ("num_hidden_layers", "depth", "num_layers")
FEW = 4


def cut(config: Any) -> None:
    """Leave a part few layers, where it does not say of each of them what kind it is."""
    if any(hasattr(config, name) for name in ("layer_types", "per_layer_config")):
        return
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > FEW:
            setattr(config, name, FEW)


def told_of(name: str, folder: Any) -> str:
    """Read the shape of a family's default config with few layers; return what it comes to."""
    try:
        config = hf.CONFIG_MAPPING[name]()
        for part in config.sub_configs:
            if hasattr(getattr(config, part, None), "to_dict"):
                cut(getattr(config, part))
        config.save_pretrained(folder)
    except StrictDataclassError:
        return "has no default config"
    try:
        shape = read_shape(str(folder))
    except GtrTurboError as error:
        assert f"type {name}" in error.what, error.what
        assert error.fix and "\n" not in error.what
        return "told"
    assert shape and shape.parameters > 0 and shape.text.inner > 0
    assert shape.tokens_of_images([(56, 56), (56, 56)]) > 0
    return "estimated"


@pytest.mark.parametrize("name", ["gemma4", "got_ocr2", "blip"])
def test_settings_that_go_by_other_names_are_found(name, tmp_path):
    assert told_of(name, tmp_path) == "estimated"


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
def test_every_family_is_estimated_or_told_by_its_type(name, tmp_path):
    assert told_of(name, tmp_path)
