"""More tiny random models of families, as tiny_families.py has them: those whose processors or attention are of another kind."""

from pathlib import Path
from typing import Any

import transformers as hf
from tiny_families import SQUARE, TEXT, VISION, template, tokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from gtrturbo.models.processor import ImageOnlyProcessor, _without_videos

MARKS = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "end_of_utterance_token": "<end>",
         "global_image_token": "<global-img>"}  # fmt: skip


def qwen2_vl(folder: Path) -> Any:
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
             "vision_end_token": "<|vision_end|>"}  # fmt: skip
    words = tokenizer(names, bos=False)
    ids = {f"{name}_id": getattr(words, f"{name}_id") for name in names}
    config = hf.Qwen2VLConfig(
        text_config={"vocab_size": len(words), "max_position_embeddings": 2048, **TEXT,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2},
        **ids,
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 64 * 784})
    text = template("<|vision_start|><|image_pad|><|vision_end|>", bos=False)
    return hf.Qwen2VLForConditionalGeneration(config), ImageOnlyProcessor(pictures, words, chat_template=text)


def llava(folder: Path) -> Any:
    words = tokenizer({"image_token": "<image>"}, bos=True)
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(vocab_size=len(words), **TEXT),
        vision_config=hf.CLIPVisionConfig(**VISION),
        image_token_index=words.image_token_id,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE)
    processor = hf.LlavaProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template("<image>\n", bos=True),
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def llava_next(folder: Path) -> Any:
    words = tokenizer({"image_token": "<image>"}, bos=True)
    grid = [[28, 56], [56, 28], [56, 56]]
    config = hf.LlavaNextConfig(
        text_config=hf.LlamaConfig(vocab_size=len(words), **TEXT),
        vision_config=hf.CLIPVisionConfig(**VISION),
        image_token_index=words.image_token_id,
        image_grid_pinpoints=grid,
    )
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=grid)
    processor = hf.LlavaNextProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template("<image>\n", bos=True),
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), processor


def _cut(words: Any) -> Any:
    """Make a picture processor that cuts pictures as SmolVLM's and Idefics3's do, here never."""
    return Idefics3ImageProcessorPil(size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False)


def idefics3(folder: Path) -> Any:
    words = tokenizer(MARKS, bos=True)
    config = hf.Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(words), "pad_token_id": words.pad_token_id, **TEXT},
        vision_config={**VISION, "patch_size": 7},
        image_token_id=words.image_token_id,
    )
    processor = hf.Idefics3Processor(_cut(words), words, image_seq_len=4, chat_template=template("<image>", bos=True))
    return hf.Idefics3ForConditionalGeneration(config), processor


def smolvlm(folder: Path) -> Any:
    words = tokenizer(MARKS | {"video_token": "<video>"}, bos=False)
    config = hf.SmolVLMConfig(
        text_config={"model_type": "llama", "vocab_size": len(words), "pad_token_id": words.pad_token_id, **TEXT},
        vision_config={**VISION, "patch_size": 7},
        image_token_id=words.image_token_id,
    )
    from transformers.models.smolvlm import processing_smolvlm

    processing_smolvlm.num2words = processing_smolvlm.num2words or str  # It is asked for where a processor is made, too.
    kind = _without_videos(hf.SmolVLMProcessor)
    processor = kind(_cut(words), words, None, image_seq_len=4, chat_template=template("<image>", bos=False))
    return hf.SmolVLMForConditionalGeneration(config), processor


def paligemma(folder: Path) -> Any:
    words = tokenizer({"image_token": "<image>"}, bos=True)
    config = hf.PaliGemmaConfig(
        text_config={"model_type": "gemma", "vocab_size": len(words), "head_dim": 16, **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        image_token_index=words.image_token_id,
        projection_dim=32,
        hidden_size=32,
    )
    pictures = SiglipImageProcessorPil(size=SQUARE)
    pictures.image_seq_length = 4
    processor = hf.PaliGemmaProcessor(pictures, words)
    model = hf.PaliGemmaForConditionalGeneration(config)
    model.resize_token_embeddings(len(words))  # Its processor adds tokens of places and segments.
    return model, processor


def mllama(folder: Path) -> Any:
    words = tokenizer({"image_token": "<|image|>", "python_token": "<|python_tag|>"}, bos=True)
    layers = {"num_hidden_layers": 3, "cross_attention_layers": [1]}
    config = hf.MllamaConfig(
        text_config={"vocab_size": len(words), "pad_token_id": words.pad_token_id, **TEXT | layers,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
                       "attention_heads": 2, "image_size": 28, "intermediate_layers_indices": [0, 1],
                       "vision_output_dim": 96},
        image_token_index=words.image_token_id,
    )  # fmt: skip
    pictures = MllamaImageProcessorPil(size=SQUARE)
    processor = hf.MllamaProcessor(pictures, words, chat_template=template("<|image|>", bos=True))
    return hf.MllamaForConditionalGeneration(config), processor


MORE = {
    "qwen2_vl": qwen2_vl,
    "llava": llava,
    "llava_next": llava_next,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "mllama": mllama,
}

# Of models that bring none; PaliGemma's processor writes <bos> behind the picture and a line break at the end.
PALIGEMMA = """{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}\
{{ part['text'] }}{% endif %}{% endfor %}{% if message['role'] == 'assistant' %}<eos>{% endif %}
{% endfor %}"""
TEMPLATES = {"paligemma": PALIGEMMA}
