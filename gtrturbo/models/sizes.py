"""The sizes of models: the built-in ones, published ones, the value head's.

Nothing heavy is imported here, so that every room may ask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """The sizes in which one built-in Qwen2.5-VL differs from another.

    Attributes:
        hidden, heads, key_value_heads, inner, layers: of the language model; `inner` is the width inside its MLP.
        mrope_section: pairs of a head's dimensions that turn with time, height and width; half the head in all.
        vision_hidden, vision_heads, vision_inner, vision_layers: of the vision tower.
        initializer_range: standard deviation of the random weights.
    """

    hidden: int
    heads: int
    key_value_heads: int = 2
    inner: int
    layers: int = 2
    mrope_section: tuple[int, int, int]
    vision_hidden: int
    vision_heads: int = 2
    vision_inner: int
    vision_layers: int = 2
    initializer_range: float


# As config.json calls the sizes of a language model.
TEXT_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
BUILT_IN = {
    "tiny": BuiltIn(
        hidden=64,
        heads=4,
        inner=192,
        mrope_section=(4, 2, 2),
        vision_hidden=48,
        vision_inner=96,
        # Measured: 0.15 learns to read in about 80 supervised steps; 0.05 needs more than 200, 0.02 does not begin to in them.
        initializer_range=0.15,
    ),
    "small": BuiltIn(
        hidden=128,
        heads=4,  # Heads of 32, which servers take.
        inner=384,
        mrope_section=(8, 4, 4),
        vision_hidden=64,
        vision_inner=128,
        initializer_range=0.106,  # Tiny's, over the root of two, as its layers are twice as wide.
    ),
}


def built_in_name(config: Mapping[str, Any]) -> str | None:
    """Name the built-in model that a config.json describes, whatever its vocabulary; None of any other."""
    text, vision = config.get("text_config"), config.get("vision_config")
    if config.get("model_type") != "qwen2_5_vl" or not isinstance(text, dict) or not isinstance(vision, dict):
        return None
    found = *(text.get(name) for name in TEXT_SIZES), vision.get("hidden_size"), vision.get("depth")
    sizes = {
        name: (each.hidden, each.inner, each.layers, each.heads, each.vision_hidden, each.vision_layers)
        for name, each in BUILT_IN.items()
    }
    return next((name for name, each in sizes.items() if each == found), None)


# Published architectures by hub id: what is set of the language model and of the vision tower, and whether input and output
# embeddings are one. Source: Bai et al., "Qwen2.5-VL Technical Report" (arXiv 2502.13923), table 1, and the models' config.json.
_QWEN_TEXT = {
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
}
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN_3B, QWEN_7B, QWEN_72B = (f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B", "72B"))
PUBLISHED: dict[str, dict[str, Any]] = {
    QWEN_3B: {
        "text": _QWEN_TEXT
        | {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision": _QWEN_VISION | {"out_hidden_size": 2048},
        "tied": True,
    },
    QWEN_7B: {
        "text": _QWEN_TEXT
        | {
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "vision": _QWEN_VISION | {"out_hidden_size": 3584},
        "tied": False,
    },
    QWEN_72B: {
        "text": _QWEN_TEXT
        | {
            "vocab_size": 152_064,
            "hidden_size": 8192,
            "intermediate_size": 29_568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
        },
        "vision": _QWEN_VISION | {"intermediate_size": 3456, "out_hidden_size": 8192},
        "tied": False,
    },
}


def value_head_widths(hidden: int) -> tuple[int, int, int]:
    """Return what goes into a value head, and the widths of its two hidden layers: 1024 and 512, less for a narrow model."""
    return hidden, min(1024, 4 * hidden), min(512, 2 * hidden)
