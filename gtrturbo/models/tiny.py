"""The built-in tiny VLM: a Qwen2.5-VL of about 0.3 M parameters with its own tokenizer, made offline in seconds.

Two renderings decide whether a model this small learns to read: white is mapped to 0 (image_mean 1), and the tiny pictures
keep each glyph inside one 28-pixel cell, which is what one image token sees.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gtrturbo.models.processor import ImageOnlyProcessor
from gtrturbo.tasks.built_in import TASKS
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import View

CELL = 28  # Pixels that one image token sees: patches of 14, merged 2 × 2.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
CORPUS_EPISODES = 100
# Measured: 0.15 learns to read in about 80 supervised steps; 0.05 needs more than 200, 0.02 does not begin to within them.
INITIALIZER_RANGE = 0.15

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


def build_tiny(seed: int) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """Make the tiny model with random weights that follow from `seed`, and its processor."""
    processor = build_processor()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(tiny_config(processor.tokenizer)).float()
    model.generation_config.update(eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id)
    return model, processor


def tiny_config(tokenizer: Any) -> Qwen2_5_VLConfig:
    """Describe the architecture: 2 language layers of width 64, 2 vision layers of width 48."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": INITIALIZER_RANGE,
        # The three sections share the head's 16 dimensions in pairs: 4 + 2 + 2 = 8.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 48,
        "num_heads": 2,
        "intermediate_size": 96,
        "out_hidden_size": 64,
        "window_size": 4 * CELL,
        "fullatt_block_indexes": [0, 1],
        "initializer_range": INITIALIZER_RANGE,
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


def build_processor() -> ImageOnlyProcessor:
    """Make tokenizer, image processor and chat template of the tiny model; the same in every process."""
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": CELL * CELL, "longest_edge": 64 * CELL * CELL},
        patch_size=CELL // 2,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[1.0, 1.0, 1.0],
        image_std=[0.3, 0.3, 0.3],
    )
    return ImageOnlyProcessor(image_processor, build_tokenizer(), chat_template=CHAT_TEMPLATE)


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE on the tasks' own prompts and replies until every word of theirs is one token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    trained.train_from_iterator(corpus(), trainer)
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


def corpus() -> Iterator[str]:
    """Yield the template's roles, and prompts and true replies of every task, as the scripted experts play them."""
    yield from ("system", "user", "assistant")
    for name in TASKS:
        task = load_task(name, ["image=tiny"])
        env = task.make()
        for episode in range(CORPUS_EPISODES):
            picture, info = env.reset(seed=episode)
            done = False
            while not done:
                info = task.know(env, picture, info)
                yield task.prompt(View(picture, info)).messages[0]["content"][-1]["text"]
                yield (reply := task.expert_reply(info))
                parsed = task.read(reply, info)
                assert parsed is not None
                picture, _, terminated, truncated, info = env.step(task.given(parsed.action, info))
                done = terminated or truncated
