"""Families of models: one entry is all that a new one needs, and the facts of it are heeded where they count."""

from types import SimpleNamespace

import pytest
import torch

from gtrturbo.errors import GtrTurboError
from gtrturbo.models import families, processor
from gtrturbo.models.built_in import build, build_processor
from gtrturbo.models.checkpoint import add_adapter
from gtrturbo.models.families import DEFAULT, FAMILIES, Family, family_of, forbidden_ids
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt, Renderer, append_responses, collate


def prompt(length: int, family: Family) -> Prompt:
    ids = torch.arange(length)[None]
    return Prompt({"input_ids": ids, "attention_mask": torch.ones_like(ids), "kinds": ids + 1}, family.per_token)


def test_a_family_without_an_entry_is_taken_for_the_default():
    assert family_of("qwen2_5_vl") is FAMILIES["qwen2_5_vl"]
    assert family_of("some_vl") is family_of(None) is DEFAULT


def test_ids_that_stand_for_pictures_are_those_that_the_family_names(monkeypatch):
    config = SimpleNamespace(model_type="some_vl", image_token_id=7, vision_end_token_id=None, patch_token=9)
    assert forbidden_ids(config, families.family_of(config.model_type)) == {7}
    monkeypatch.setitem(families.FAMILIES, "some_vl", Family(picture_ids=("patch_token",)))
    assert forbidden_ids(config, families.family_of(config.model_type)) == {9}


def test_what_a_family_has_per_token_is_padded_on_both_sides_and_not_stacked():
    family = Family(per_token=DEFAULT.per_token | {"kinds": 5})
    prompts = [prompt(2, family), prompt(3, family)]
    batch = collate(prompts, pad_id=99)
    assert batch["input_ids"].tolist() == [[99, 0, 1], [0, 1, 2]]
    assert batch["kinds"].tolist() == [[5, 1, 2], [1, 2, 3]]
    joined, _ = append_responses(batch, [torch.tensor([4]).numpy()] * 2, pad_id=99, per_token=family.per_token)
    assert joined["kinds"].tolist() == [[5, 1, 2, 0], [1, 2, 3, 0]]
    joined, _ = append_responses(
        batch, [torch.tensor([4]).numpy()] * 2, pad_id=99, per_token=family.per_token, in_replies={"kinds": 8}
    )
    assert joined["kinds"].tolist() == [[5, 1, 2, 8], [1, 2, 3, 8]]


def test_a_renderer_gives_its_prompts_what_its_family_has_per_token():
    family = Family(per_token={"input_ids": None, "attention_mask": 0, "mm_token_type_ids": 3})
    rendered = Renderer(build_processor(), family).prompt([{"role": "user", "content": "1 + 1"}], [])
    assert rendered.per_token == family.per_token


@pytest.fixture
def model(monkeypatch):
    """A tiny model that is of a family of its own."""
    made, made_processor = build("tiny", seed=0)
    made.config.model_type = "some_vl"
    return made, made_processor


def test_a_policy_is_of_its_models_family(model, monkeypatch):
    family = Family(picture_ids=("image_token_id",))
    monkeypatch.setitem(families.FAMILIES, "some_vl", family)
    policy = Policy(*model)
    assert policy.renderer.family is family
    assert policy.forbidden.tolist() == [model[0].config.image_token_id]


def test_an_adapter_goes_on_what_its_family_names_where_no_modules_are_named(model, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, "some_vl", Family(lora_targets=("q_proj",)))
    adapted = add_adapter(model[0], rank=2, alpha=2.0, target=(), revision=None, seed=0)
    trained = {name.split(".lora_")[0].rpartition(".")[2] for name, value in adapted.named_parameters() if value.requires_grad}
    assert trained == {"q_proj"}


def test_the_image_only_processor_is_for_families_that_say_so(monkeypatch):
    asked = []
    monkeypatch.setattr(processor, "is_torchvision_available", lambda: False)
    monkeypatch.setattr(processor.ImageOnlyProcessor, "from_pretrained", lambda source: asked.append(source) or build_processor())
    monkeypatch.setitem(families.FAMILIES, "some_vl", Family(image_only=True))
    qwen = ["qwen2_vl", "qwen2_5_vl"]
    assert [name for name, family in FAMILIES.items() if family.image_only] == [*qwen, "some_vl"]
    for model_type in ("some_vl", *qwen):
        processor.load_processor(model_type, family=families.family_of(model_type))
    assert asked == ["some_vl", *qwen]


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (("language",), {"language"}),
        (("vision",), {"vision"}),
        (("projector", "vision"), {"projector", "vision"}),
        ((), {"language", "projector", "vision"}),
    ],
)
def test_an_adapter_goes_on_the_parts_of_a_model_that_are_named(target, parts):
    made, _ = build("tiny", seed=0)
    adapted = add_adapter(made, rank=2, alpha=2.0, target=target, revision=None, seed=0)
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    # The names of Qwen2.5-VL's own modules: the merger leads from the tower to the text.
    found = {"projector" if ".merger." in name else "vision" if ".visual." in name else "language" for name in trained}
    assert found == parts


def test_a_part_that_a_model_does_not_have_is_refused():
    made, _ = build("tiny", seed=0)
    made.config.model_type = "some_vl"
    family = Family(projectors=("nowhere",))
    with pytest.raises(GtrTurboError, match=r"no linear layer in its projector part.\nleave projector out of --lora-target"):
        add_adapter(made, rank=2, alpha=2.0, target=("projector",), revision=None, seed=0, family=family)
