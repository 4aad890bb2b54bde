"""Tiny random models of many families, with tokenizers and processors made by code: folders as a hub holds them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gtrturbo.config import InitConfig, SftConfig
from gtrturbo.models.built_in import CHAT_TEMPLATE, build_processor, build_tokenizer
from gtrturbo.models.processor import _without_videos
from gtrturbo.stages import execute
from gtrturbo.store.pictures import copy_picture
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import Demo, chat, said, write_rows
from gtrturbo.store.turns import read_turns
from gtrturbo.store.writing import writing
from gtrturbo.tasks.texts import corpus

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}  # fmt: skip
SQUARE = {"height": 28, "width": 28}
TURN = """{{% if {bos} %}}{{{{ bos_token }}}}{{% endif %}}{{% for message in messages %}}<start>{{{{ message['role'] }}}}
{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}\
{{% endfor %}}<end>
{{% endfor %}}{{% if add_generation_prompt %}}<start>assistant
{{% endif %}}"""


def tokenizer(named: dict[str, str], *, bos: bool) -> Any:
    """Make a tokenizer with tokens that a family's processor asks for by name; `bos`: it writes one before every text."""
    built = build_tokenizer(corpus())
    words = ["<bos>", "<eos>", "<start>", "<end>", "<pad>", *dict.fromkeys(named.values())]
    inner = Tokenizer.from_str(built.backend_tokenizer.to_str())
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=named,
    )
    made.add_tokens(words, special_tokens=True)
    if bos:
        begin = [("<bos>", made.bos_token_id)]
        made.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=begin)
    return made


def template(image: str, *, bos: bool) -> str:
    return TURN.format(image=image, bos=str(bos).lower())


def llava_onevision(folder: Path) -> Any:
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"}, bos=False)
    config = hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(vocab_size=len(words), **TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    pictures = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=config.image_grid_pinpoints)
    kind = _without_videos(hf.LlavaOnevisionProcessor)
    processor = kind(
        pictures, words, None, num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=template("<image>", bos=False),
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def internvl(folder: Path) -> Any:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    words = tokenizer(names, bos=False)
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(vocab_size=len(words), **TEXT),
        vision_config=hf.InternVLVisionConfig(**VISION | {"image_size": [28, 28], "patch_size": [14, 14]}),
        image_token_id=words.context_image_token_id,
        downsample_ratio=0.5,
        image_seq_length=1,
    )
    pictures = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=False)
    kind = _without_videos(hf.InternVLProcessor)
    processor = kind(pictures, words, None, image_seq_length=1, chat_template=template("<IMG_CONTEXT>\n", bos=False))
    return hf.InternVLForConditionalGeneration(config), processor


def qwen3_vl(folder: Path) -> Any:
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
             "vision_end_token": "<|vision_end|>"}  # fmt: skip
    words = tokenizer(names, bos=False)
    ids = {f"{name}_id": getattr(words, f"{name}_id") for name in names}
    config = hf.Qwen3VLConfig(
        text_config={"vocab_size": len(words), "head_dim": 16, "max_position_embeddings": 2048,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}, **TEXT},
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
                       "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **ids,
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 64 * 784}, patch_size=14, merge_size=2)
    kind = _without_videos(hf.Qwen3VLProcessor)
    text = template("<|vision_start|><|image_pad|><|vision_end|>", bos=False)
    return hf.Qwen3VLForConditionalGeneration(config), kind(pictures, words, None, chat_template=text)


def gemma3(folder: Path) -> Any:
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(names, bos=True)
    config = hf.Gemma3Config(
        text_config={"vocab_size": len(words), "head_dim": 16, "sliding_window": 64, **TEXT},
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    pictures = Gemma3ImageProcessorPil(size=SQUARE)
    text = template("<start_of_image>", bos=True)
    model = hf.Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.5)  # It is born as zeros, blind.
    return model, hf.Gemma3Processor(pictures, words, chat_template=text, image_seq_length=4)


def untaught(folder: Path) -> Any:
    """PaliGemma's likes: a model with a processor and no chat template."""
    model, processor = gemma3(folder)
    processor.chat_template = None
    return model, processor


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "qwen3_vl": qwen3_vl,
    "gemma3": gemma3,
}


def make(name: str, folder: Path) -> Path:
    """Write a model of a family into a folder."""
    torch.manual_seed(0)
    model, processor = (FAMILIES | {"untaught": untaught})[name](folder)
    tokens = processor.tokenizer
    stops = [tokens.eos_token_id, tokens.convert_tokens_to_ids("<end>")]
    model.generation_config.update(eos_token_id=stops, pad_token_id=tokens.pad_token_id, bos_token_id=tokens.bos_token_id)
    model.float().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def students_llava(folder: Path) -> Path:
    """Write a LLaVA with the built-in models' tokenizer, and an unused last vision layer, as a hub holds it."""
    tokens = build_processor().tokenizer
    image = tokens.convert_tokens_to_ids("<|image_pad|>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id, "bos_token_id": None}
    text = hf.LlamaConfig(vocab_size=len(tokens), num_key_value_heads=2, **sizes, **ids)
    vision = hf.CLIPVisionConfig(image_size=28, patch_size=14, **sizes)
    torch.manual_seed(0)
    config = hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=image)
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<|image_pad|>",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def says(text: str, model: Path, turns: Path, folder: Path, *, asked: str | None = None) -> Path:
    """Teach a model to answer whatever turns show with one text; `asked` is what it is asked, the student's prompt if None."""
    played = read_turns(turns)
    with writing(folder / "lessons", Provenance("distill", "demos", {}, {})) as draft:
        for name in {name for turn in played for name in turn.images}:
            copy_picture(turns, draft.folder, name)
        rows = []
        for turn in played:
            questions = turn.messages[:-1] if asked is None else chat(asked)
            rows.append(Demo(messages=[*questions, said(text)], images=turn.images, masked_spans=[]))
        write_rows(draft.folder / "demos.jsonl", rows)
    born = execute(InitConfig(out=folder / "born", model=str(model))).out
    lessons = SftConfig(out=folder / "taught", checkpoint=born, data=(folder / "lessons",), steps=120, learning_rate=5e-3)
    return execute(replace(lessons, batch_size=8)).out
