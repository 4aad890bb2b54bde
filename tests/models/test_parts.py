"""The parts of models that adapters go on: every family of images and text that transformers knows, by rules apart from ours."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from more_families import MORE
from tiny_families import FAMILIES
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CLASSES

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.adapter_parts import adapter_layers, modules_of
from gtrturbo.models.built_in import build
from gtrturbo.models.checkpoint import add_adapter
from gtrturbo.models.families import Family, family_of
from gtrturbo.models.parts import PARTS, parts_of, towers_of

# What their default configs lack to be built.
SETTINGS = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
}
# Models whose text decoder transformers does not tell from what is around it, or that read with another than they write with.
REFUSED = {"evolla", "git", "idefics", "pi0", "pp_formulanet", "t5gemma2", "udop"}
# What the classes of modules that pictures and sounds go through have in their names, whatever the modules are called.
ELSEWHERE = ("Vision", "Image", "Patch", "Audio", "Projector", "Projection", "Merger", "Connector", "Aligner", "Resampler",
             "QFormer", "VQVAE", "MultimodalEmbedder", "ViT", "CLIP", "Siglip", "Pixtral", "Radio", "Sam")  # fmt: skip
# The first reader of families outside the table found these wrong; all others are walked over with make test-families.
NAMED = ("lighton_ocr", "deepseek_vl", "deepseek_vl_hybrid", "gemma4", "kimi_k25", "paddleocr_vl", "video_llama_3", "video_llava",
         "hyperclovax_vision_v2", "ernie4_5_vl_moe", "janus", "fuyu", "muse_glimmer", "qwen2_5_omni_thinker", "llama4", "blip-2",
         "nemotron_h_omni", "florence2", "llava", "qwen2_5_vl", "gemma3", "mllama")  # fmt: skip
KNOWN = {config.model_type: config for config in CLASSES}
WALKED = sorted(KNOWN) if os.environ.get("GTRTURBO_FAMILIES") == "all" else sorted({*NAMED, *REFUSED} & set(KNOWN))


def built(model_type: str):
    """Build a family's model as its default config has it, without weights."""
    try:
        config: Any = KNOWN[model_type](**SETTINGS.get(model_type, {}))
        with torch.device("meta"):
            made: Any = CLASSES[type(config)]
            return made(config)
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        pytest.skip(f"its default config makes no model: {type(error).__name__}")


def linear(model) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def of_text_alone(model) -> Counter | None:
    """Count the shapes of the linear layers of the text model that the config describes, built by itself."""
    try:
        with torch.device("meta"):
            return Counter(
                tuple(each.weight.shape) for each in linear(hf.AutoModel.from_config(model.config.get_text_config())).values()
            )
    except (ValueError, AttributeError, TypeError):  # Of some families' text models transformers makes none alone.
        return None


@pytest.mark.parametrize("model_type", WALKED)
def test_language_is_the_text_model_and_nothing_else_in_every_family(model_type):
    model = built(model_type)
    if model_type in REFUSED:
        with pytest.raises(
            GtrTurboError, match=r"text decoder, so that --lora-target language is not known.\nname linear layers"
        ):
            modules_of(model, family_of(model_type), ("language",))
        return
    found = modules_of(model, family_of(model_type), ("language",))
    layers, classes = linear(model), {name: type(module).__name__ for name, module in model.named_modules()}
    alone = of_text_alone(model)
    assert found and (alone is None or Counter(tuple(layers[name].weight.shape) for name in found) == alone)
    for name in found:
        around = [".".join(name.split(".")[:count]) for count in range(1, name.count(".") + 2)]
        wrong = [each for each in around if any(word in classes[each] for word in ELSEWHERE)]
        assert not [each for each in wrong if each != "model"], wrong


def by_names(name: str) -> str:
    """Tell a part as it was told before the model was asked: by the words that the names of its modules hold."""
    steps = name.split(".")
    if any(step in ("multi_modal_projector", "connector", "merger", "deepstack_merger_list") for step in steps):
        return "projector"
    return "vision" if any(step in ("visual", "vision_tower", "vision_model") for step in steps) else "language"


@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_families_of_the_table_have_the_parts_that_their_modules_names_say(name, tmp_path):
    model, _ = (FAMILIES | MORE)[name](tmp_path)
    family = family_of(model.config.model_type)
    names = [each for each in linear(model) if each != "lm_head"]
    for part in PARTS:
        expected = [each for each in names if by_names(each) == part]
        if expected:
            assert modules_of(model, family, (part,)) == expected
    [tower] = towers_of(model, family)
    assert tower == next(each for each, _ in model.named_modules() if each.endswith(("visual", "vision_tower", "vision_model")))


def lighton():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "qwen3", "vocab_size": 99, "num_key_value_heads": 2, "head_dim": 16, **sizes}
    vision = {"model_type": "pixtral", "head_dim": 16, "image_size": 28, "patch_size": 14, **sizes}
    return hf.LightOnOcrForConditionalGeneration(hf.LightOnOcrConfig(text_config=text, vision_config=vision, image_token_id=5))


def adapted(target: tuple[str, ...]):
    return add_adapter(lighton(), rank=2, alpha=2.0, target=target, revision=None, seed=0)


@pytest.mark.parametrize(
    ("part", "inside"), [("language", "language_model"), ("vision", "vision_encoder"), ("projector", "vision_projection")]
)
def test_an_adapter_of_a_family_outside_the_table_goes_on_the_part_that_is_named(part, inside):
    trained = [name for name, value in adapted((part,)).named_parameters() if value.requires_grad]
    assert trained and all(f".model.{inside}." in name for name in trained)


def test_the_visual_half_of_an_adapter_is_all_that_lies_outside_the_text_decoder():
    model = adapted(())
    names = {id(module): name for name, module in model.named_modules()}
    visual = [names[id(layer)] for layer in adapter_layers(model, Family(), visual=True)]
    every = [names[id(layer)] for layer in adapter_layers(model, Family(), visual=False)]
    assert visual == [name for name in every if "language_model" not in name] and len(visual) < len(every)
    assert not adapter_layers(adapted(("language",)), Family(), visual=True)


def test_a_word_is_refused_where_it_cannot_be_told_what_belongs_to_it():
    model = built("janus")
    for part in ("vision", "projector"):
        with pytest.raises(
            GtrTurboError, match=rf"whether model.generation_aligner of a janus is in its {part} part.\nleave {part}"
        ):
            modules_of(model, Family(), (part,))
    told = Family(projectors=("aligner", "generation_aligner"), towers=("generation_head",))
    assert all("aligner" in name for name in modules_of(model, told, ("projector",)))
    parts = parts_of(model, told)
    assert parts is not None and parts["model.vqmodel"] == "untold"  # It has no linear layer, so that nobody asks.


def test_a_projector_that_is_a_parameter_is_refused_as_one(tmp_path):
    model, _ = FAMILIES["gemma3"](tmp_path)
    said = (
        r"the projector part of a gemma3 is a parameter, model.multi_modal_projector.mm_input_projection_weight, and no linear "
        r"layer, so that no adapter goes on it.\nleave projector out of --lora-target, or train all weights: --lora-rank 0"
    )
    with pytest.raises(GtrTurboError, match=said):
        add_adapter(model, rank=2, alpha=2.0, target=("projector",), revision=None, seed=0)


TITLES = {
    "qwen2_5_vl": "Qwen2.5-VL", "qwen2_vl": "Qwen2-VL", "qwen3_vl": "Qwen3-VL", "llava": "LLaVA-1.5", "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision", "internvl": "InternVL", "idefics3": "Idefics3", "gemma3": "Gemma 3",
    "smolvlm": "SmolVLM", "paligemma": "PaliGemma",
}  # fmt: skip


def row_of_parts(model, title: str) -> str:
    """Write a row of the table in docs/engines.md: the outermost modules that hold the linear layers of each part."""
    parts = parts_of(model, family_of(model.config.model_type))
    assert parts is not None
    cells = []
    for part in PARTS[:1] + PARTS[:0:-1]:
        try:
            names = modules_of(model, family_of(model.config.model_type), (part,))
        except GtrTurboError:
            cells.append("refused: a parameter, no linear layer")
            continue
        around = [[".".join(name.split(".")[:count]) for count in range(1, name.count(".") + 2)] for name in names]
        roots = dict.fromkeys(next(each for each in steps if parts.get(each) == part) for steps in around)
        cells.append(", ".join(f"`{root}`" for root in roots))
    return f"| {' | '.join([title, *cells])} |"


@pytest.mark.parametrize("name", TITLES)
def test_the_page_of_engines_says_where_adapters_go_and_without_a_word_they_go_on_all_of_it(name, tmp_path):
    model, _ = build("tiny", seed=0) if name == "qwen2_5_vl" else (FAMILIES | MORE)[name](tmp_path)
    assert row_of_parts(model, TITLES[name]) in (Path(__file__).parents[2] / "docs" / "engines.md").read_text().splitlines()
    every = [each for each in linear(model) if each != "lm_head"]
    usual = add_adapter(model, rank=2, alpha=2.0, target=(), revision=None, seed=0)
    trained = {
        each.split(".lora_")[0].removeprefix("base_model.model.") for each, _ in usual.named_parameters() if ".lora_" in each
    }
    assert trained == set(every)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (("nowhere",), "no layer of a lighton_ocr is called nowhere"),
        (("one", "two"), "no layer of a lighton_ocr is called one or two"),
        (("q_proj", "v_porj"), "no layer of a lighton_ocr is called v_porj"),
        (("language", "v_porj"), "no layer of a lighton_ocr is called v_porj"),
        (("mlp",), r"model\.[\w.]+\.mlp of a lighton_ocr is a \w+MLP, and no linear layer"),
        (("q_proj", "self_attn"), r"model\.[\w.]+\.self_attn of a lighton_ocr is a \w+Attention, and no linear layer"),
    ],
)
def test_names_on_which_no_adapter_goes_are_refused_in_one_sentence_with_some_that_layers_have(target, told):
    mended = r"leave --lora-target out .* give parts \(language, projector, vision\) or layers, such as \w+_proj, "
    with pytest.raises(GtrTurboError, match=rf"^no adapter fits: {told}\.\n{mended}") as error:
        adapted(target)
    assert "\n" not in error.value.what and "base_layer" not in error.value.fix


def test_a_family_whose_linear_layers_peft_does_not_tell_from_others_is_refused_with_names():
    told = "^no adapter fits: the all-linear layers of a qwen3_omni_moe_thinker are not all of a kind that PEFT knows."
    with pytest.raises(GtrTurboError, match=told) as error:
        add_adapter(built("qwen3_omni_moe_thinker"), rank=2, alpha=2.0, target=(), revision=None, seed=0)
    assert error.value.fix.startswith("name parts (language, projector, vision) or layers, such as ")
    assert "base_layer" not in error.value.fix and "\n" not in error.value.what
