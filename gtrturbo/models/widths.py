"""How wide a model's transformer layers are by its config, whatever that calls them; of experts those that a token meets."""

from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.memory import Layers

COUNT = ("num_hidden_layers", "depth", "num_layers")
HEADS = ("num_attention_heads", "num_heads")
# The width inside of an MLP; before the usual name stand those of dense layers where it is the width of one expert.
INNER = ("dense_intermediate_size", "intermediate_size_mlp", "intermediate_size", "ffn_dim", "decoder_ffn_dim", "mlp_dim", "d_ff")
CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts")  # How many experts a token goes to.
EXPERT = ("moe_intermediate_size", "intermediate_size")
SHARED = ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts")  # Beside those, each token meets these.
SHARED_EXPERT = (
    *("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"),
    *("shared_intermediate_size", "share_expert_dim"),
)
MLP_RATIO = 4.0  # As a ViT has it, where nothing is said: Dosovitskiy et al., "An Image is Worth 16×16 Words" (arXiv 2010.11929).


def text_layers(config: Any) -> Layers:
    """Read the widths of a text decoder's layers from its config; where layers differ, the widest stands for all.

    Raises:
        GtrTurboError: the config does not say one.
    """
    width, heads = _needed(config, "hidden_size"), _needed(config, *HEADS)
    size = _first(config, "head_dim") or width // heads
    keys = _first(config, "num_key_value_heads") or heads
    chosen = _first(config, *CHOSEN) or 0
    inner = max(_of_experts(config, chosen), _first(config, *INNER) or 0) or _needed(config, *INNER)
    return Layers(_needed(config, *COUNT), width, inner, heads * size, keys * size, heads, experts=chosen)


def vision_layers(config: Any) -> Layers | None:
    """Read the widths of a vision tower's layers from its config, of several towers those of the largest; None without one.

    Raises:
        GtrTurboError: the config does not say one.
    """
    if config is None:
        return None
    if not any(_first(config, name) for name in (*COUNT, "depths")):
        towers = [vision_layers(getattr(config, name, None)) for name in config.sub_configs]
        return max((tower for tower in towers if tower), key=lambda tower: tower.count * tower.width, default=None)
    # Stages of a tower that grows from one to the next are taken for as wide as the last.
    count = sum(getattr(config, "depths", None) or ()) or _needed(config, "depth", *COUNT)
    heads = _needed(config, "num_heads", *HEADS)
    # Qwen2-VL calls the tower's width embed_dim, and the text's, which it ends in, hidden_size.
    width = _needed(config, "embed_dim", "hidden_size")
    chosen = _first(config, *CHOSEN) or 0
    inner = max(_of_experts(config, chosen), _first(config, *INNER) or int(width * (_first(config, "mlp_ratio") or MLP_RATIO)))
    return Layers(count, width, inner, width, width, heads, fused=True, experts=chosen)


def _of_experts(config: Any, chosen: int) -> int:
    """Add up the widths of the experts that a token meets in one layer; 0 where there are none."""
    if not chosen:
        return 0
    expert = _needed(config, *EXPERT)
    if _first(config, "enable_moe_block"):  # Gemma 4 has an MLP beside its experts.
        return chosen * expert + _needed(config, *INNER)
    shared = _first(config, *SHARED_EXPERT)
    count = _first(config, *SHARED)
    return chosen * expert + (shared or expert) * (count if count is not None else int(shared is not None))


def _needed(config: Any, *names: str) -> Any:
    found = _first(config, *names)
    if found is None:
        raise GtrTurboError(
            f"a config of type {config.model_type} says none of {', '.join(names)}, so that what a pass takes is not known.",
            "give --micro-batch-tokens a number, and leave --dry-run out.",
        )
    return found


def _first(config: Any, *names: str) -> Any:
    """Return the first of some settings that a config has; of one that each layer has for itself, the largest."""
    return next((value for name in names if (value := _setting(config, name)) is not None), None)


def _setting(config: Any, name: str) -> Any:
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # So transformers answers of a setting that each layer has for itself.
        value = [getattr(layer, name) for layer in config.per_layer_config]
    return max(value) if isinstance(value, list | tuple) else value
