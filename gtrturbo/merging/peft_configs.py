"""What an adapter's config says: kinds of adapters that are refused, and the scale of each module's product."""

import re
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.targets import MEND, is_quick
from gtrturbo.store.names import ADAPTER_CONFIG
from gtrturbo.store.strict_json import is_number

# Parts of PEFT with which an adapter stands for no change of weights, or for one that its files alone do not tell.
REFUSED = ("use_qalora", "megatron_config", "layer_replication", "alora_invocation_tokens", "arrow_config", "use_bdlora")
# What PEFT 0.21 reads of an adapter's config; it drops what else is there, with a warning.
KNOWN_KEYS = {
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save",
    "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
    "use_rslora", "velora_config",
}  # fmt: skip
# Ways to begin that leave the weights as they are, or take out of them what they alone tell (pissa, olora). Others may take more.
KNOWN_STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica", "pissa", "olora")


def require_known(folder: Path, config: dict[str, Any]) -> None:
    """Refuse kinds of adapters by name. What is empty in a config is not there.

    Raises:
        GtrTurboError: names the folder, and what its files do not tell.
    """
    odd = [name for name in REFUSED if config.get(name)]
    start = str(config.get("init_lora_weights") or None)
    if start.lower() not in KNOWN_STARTS:
        odd.append(f"init_lora_weights {start}")
    if config.get("peft_type") != "LORA":
        odd = [f"peft_type {config.get('peft_type')}"]
    if odd:
        raise GtrTurboError(
            f"{folder} is an adapter whose change of the weights its files do not tell ({', '.join(odd)}).",
            "write full weights and merge those: PeftModel.from_pretrained(model, ADAPTER).merge_and_unload()",
        )


def told_of_keys(folder: Path, config: dict[str, Any]) -> list[str]:
    """Say what a config says that no merge takes into account, as PEFT does not know it; what is empty says nothing."""
    odd = sorted(key for key, value in config.items() if key not in KNOWN_KEYS and value)
    said = f"{folder / ADAPTER_CONFIG} says {', '.join(odd)}, which PEFT does not know: it is not taken into account."
    return [said] if odd else []


def scale_of(config: dict[str, Any], module: str, rank: int) -> float:
    """Return the scale of one module's B A: α/r, or α/√r with rsLoRA, with the module's own α where a pattern names it."""
    alpha = of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not is_number(alpha):
        raise GtrTurboError(f"lora_alpha of {module} is {alpha!r} in {ADAPTER_CONFIG}, not a number.", MEND)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def of_pattern(pattern: dict[str, Any] | None, module: str, default: Any) -> Any:
    """Look a module up as PEFT does: the first expression that the end of its name fits.

    Raises:
        GtrTurboError: it is no table of expressions.
    """
    if not isinstance(pattern, dict | None):
        raise GtrTurboError(f"{ADAPTER_CONFIG} says {pattern!r} where numbers by module are meant.", MEND)
    for key in pattern or {}:
        try:
            _require_quick(str(key))
            re.compile(key)
        except re.error as error:
            raise GtrTurboError(f"{key} in {ADAPTER_CONFIG} is no regular expression: {error}.", MEND) from None
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _require_quick(key: str) -> None:
    """Refuse a pattern that could keep the matching busy without end."""
    if not is_quick(key):
        raise GtrTurboError(
            f"the adapter's config has the pattern {key[:80]!r}, with which matching a name may take without end.",
            "write the modules' names out in rank_pattern and alpha_pattern.",
        )
