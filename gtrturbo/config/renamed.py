"""Options that are called otherwise now, or are gone: an old spelling is refused with the new one named, never taken for it."""

from gtrturbo.errors import GtrTurboError

# What other toolkits call an option.
ALSO_CALLED_OPTIONS = {
    "lr": "learning-rate",
    "batch-size": "minibatch-size",
    "num-epochs": "epochs",
    "max-tokens": "max-new-tokens",
    "beta": "kl-coef",
    "model-path": "checkpoint",
    "env-id": "task",
    "output": "out",
    "output-dir": "out",
}

# By the old name: the new one.
RENAMED = {
    "illegal": "on_invalid_reply",
    "novice": "random_expert_share",
    "isolate": "subprocess",
    "only": "include",
}
FLAGS = {"isolate", "recursive"}  # of these, those that were given without a value
# By the old name: the configs that had it, and what stands in its place.
SERVED = ("RolloutConfig", "DistillConfig", "EvalConfig")
GONE = {
    "compat": (
        ("MergeConfig", "DistillConfig"),
        "the published code's ways are plug-ins: see examples/reproduce/release.py.",
    ),
    "server": (
        SERVED,
        "write: --engine vllm:http://localhost:8000, or sglang:…, or openai:… for any other kind.",
    ),
    "base_url": (SERVED, "write: --engine vllm:http://localhost:8000"),
    "max_concurrency": (SERVED, "as many are asked for at once as --num-envs, of a teacher 64: leave it out."),
    "micro_batch_size": (("SftConfig", "DistillConfig", "PpoStepConfig"), "write: --micro-batch-tokens"),
    "student": (
        ("DistillConfig",),
        "write two commands: distill, then ppo-step --scores, or sft of its demos.",
    ),
    "update": (
        ("DistillConfig",),
        "write two commands: distill, then ppo-step --scores, or sft of its demos, with these options.",
    ),
    "sign": (("MergeConfig",), "write: --parameters count=true for --sign count."),
    "adapter_space": (
        ("MergeConfig",),
        "write: --parameters factors=true for --adapter-space factors.",
    ),
    "recursive": (("MergeConfig",), "merge the last teacher and the next checkpoint in turn, each a merge of its own."),
    "price_per_call": (("ReportConfig",), "write: --price call=…"),
    "price_per_million_tokens": (("ReportConfig",), "write: --price million-tokens=…"),
    "price_per_hour": (("ReportConfig",), "write: --price hour=…"),
    "currency": (("ReportConfig",), "write: --price currency=…"),
}
# By the config and the old name: what stands in its place where that is more than for others.
OF_ONE = {
    ("DistillConfig", "max_concurrency"): "write: --at-once for a teacher openai:MODEL; of a checkpoint on a server 64 are asked "
    "for at once: leave it out.",
}
# By the name of an option and an old value: the new one.
VALUES: dict[tuple[str, object], str | list[str]] = {
    ("mode", "sft"): "thoughts",
    ("hints", True): ["truth", "expert"],
    ("hints", False): [],
}


def old_options(config: type, names: frozenset[str]) -> dict[str, str]:
    """Return the old options of a command, by their names, with what to write instead.

    Args:
        config: the command's.
        names: of the fields that it has.
    """
    told = {old: f"write: --{new.replace('_', '-')}" for old, new in RENAMED.items() if new in names and old not in names}
    name = config.__name__
    gone = {old: instead for old, (configs, instead) in GONE.items() if name in configs}
    return told | gone | {old: instead for (one, old), instead in OF_ONE.items() if one == name}


def refuse_old(config: type, names: frozenset[str], given: str) -> None:
    """Refuse a name that was an option once.

    Raises:
        GtrTurboError: says what to write instead.
    """
    instead = old_options(config, names).get(given.replace("-", "_"))
    if instead:
        raise GtrTurboError(f"there is no option {given.replace('_', '-')} any more.", instead)


def refuse_old_value(name: str, value: object) -> None:
    """Refuse a value that is called otherwise now.

    Raises:
        GtrTurboError: names the new one.
    """
    new = VALUES.get((name, value)) if isinstance(value, str | bool) else None
    if new is None:
        return
    option, words = name.replace("_", "-"), [new] if isinstance(new, str) else new
    write = " ".join(f"--{option} {word}" for word in words)
    raise GtrTurboError(
        f"{option} {str(value).lower()} is called {', '.join(words) or 'nothing'} now.",
        f"write: {write}" if write else f"leave out --{option}.",
    )
