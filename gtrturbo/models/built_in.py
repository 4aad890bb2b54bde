"""The built-in VLMs: Qwen2.5-VLs with a tokenizer of their own, made offline in seconds.

`tiny` has 288,592 parameters and `small` 725,056, with the default tokenizer. Two renderings decide whether a model this small
learns to read: white is mapped to 0 (image_mean 1), and the tiny pictures keep each glyph inside one 28-pixel cell, which is
what one image token sees.
"""

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gtrturbo.models.processor import ImageOnlyProcessor
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.tasks.games.drawing import CELL
from gtrturbo.tasks.texts import corpus

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def build(name: str, seed: int, texts: Iterable[str] | None = None) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """Make a built-in model with random weights that follow from `seed`, and its processor.

    Args:
        name: tiny or small.
        seed: of the weights.
        texts: what the tokenizer is made of; the four games' if None.
    """
    processor = build_processor(texts)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(built_in_config(name, processor.tokenizer)).float()
    model.generation_config.update(eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id)
    return model, processor


def built_in_config(name: str, tokenizer: Any) -> Qwen2_5_VLConfig:
    """Describe a built-in model's architecture, with embeddings for a tokenizer."""
    sizes, token = BUILT_IN[name], tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "max_position_embeddings": 2048,
        "initializer_range": sizes.initializer_range,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sizes.mrope_section)},
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    vision = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision_hidden,
        "num_heads": sizes.vision_heads,
        "intermediate_size": sizes.vision_inner,
        "out_hidden_size": sizes.hidden,
        "window_size": 4 * CELL,
        "fullatt_block_indexes": list(range(sizes.vision_layers)),
        "initializer_range": sizes.initializer_range,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def build_processor(texts: Iterable[str] | None = None) -> ImageOnlyProcessor:
    """Make tokenizer, image processor and chat template of the built-in models; the same in every process.

    Args:
        texts: what the tokenizer is made of; the four games' if None.
    """
    tokenizer = build_tokenizer(corpus() if texts is None else texts)
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": CELL * CELL, "longest_edge": 64 * CELL * CELL},
        patch_size=CELL // 2,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[1.0, 1.0, 1.0],
        image_std=[0.3, 0.3, 0.3],
    )
    return ImageOnlyProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Train a byte-level BPE on texts, and the template's roles, until every word of theirs is one token.

    Every byte is a token too, so that any text can be written.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    trained.train_from_iterator(chain(ROLES, texts), trainer)
    return _wrap(json.loads(trained.to_str())["model"])


def _wrap(bpe: dict[str, Any]) -> Qwen2Tokenizer:
    vocab = dict(bpe["vocab"])
    for special in SPECIAL_TOKENS:
        vocab[special] = len(vocab)
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in bpe["merges"]],  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # type: ignore[arg-type]
        extra_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
    )
