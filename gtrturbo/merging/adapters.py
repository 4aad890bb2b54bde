"""LoRA adapters on disk: which tensors they change, and how. Nothing that an adapter holds is passed over in silence.

Source: PEFT's `get_peft_model_state_dict` and its layers; scale α/r, or α/√r (Kalajdzievski, arXiv 2312.03732).
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.changes import Change, Replaced, Scaled, Tokens
from gtrturbo.merging.factored import Directed, Experts, Product, Removed, Residual
from gtrturbo.merging.peft_configs import of_pattern, require_known, scale_of, told_of_keys
from gtrturbo.merging.targets import DEFAULT_RANK, MEND, Named
from gtrturbo.merging.unwrapped import PREFIX, told_of_names
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from gtrturbo.store.open_files import widen
from gtrturbo.store.safetensors_files import FLOATS, TensorEntry, read_header

PICKLED = "adapter_model.bin"
A, B = ".lora_A.weight", ".lora_B.weight"
# Ways to begin that take something out of the weights under the adapter, which follows from the weights alone.
TAKEN_OUT: dict[str, Removed] = {"pissa": "largest", "olora": "qr"}
# Beside the factors: what they were trained with, which PEFT leaves out of a merge too.
TRAINING_ONLY = re.compile(r"\.(lora_velora_embed|lora_monteclora_sampler\..*)$")
KEPT_ASIDE = re.compile(r"\.original_module\.")  # what the base holds
SAVED = re.compile(r"\.modules_to_save(\.default)?(?=\.)")
TOKENS = "token_adapter.trainable_tokens_delta"
PART = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_diag|"
    r"token_adapter\.trainable_tokens_delta)(?P<kind>\.weight|\.bias)?$"
)
NOT_LINEAR = re.compile(r"(\.|^)(lora_|hada_|lokr_|oft_|boft_|ia3_|vera_|vblora_|\w*_magnitude)")


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    `choices`: by the name of a tensor in memory, what the adapter does to it, in each of the shapes that it may have there;
    `flipped`: the config says that layers store their weights as [in, out]; `untied`: tensors that were trained as copies of
    their own, so that what the model ties to them kept its weights; `named`: the modules that the config names; `by_stored`:
    names among the choices that are those on disk, of parts of what is one tensor in memory.
    """

    folder: Path
    choices: dict[str, tuple[Change, ...]] = field(default_factory=dict)
    flipped: bool = False
    untied: tuple[str, ...] = ()
    named: Named = field(default_factory=Named)
    by_stored: frozenset[str] = frozenset()

    @property
    def entries(self) -> list[TensorEntry]:
        """All tensors that are read of it, each once."""
        found = {entry.name: entry for choice in self.choices.values() for change in choice for entry in change.entries}
        return list(found.values())

    def products(self) -> dict[str, Product]:
        """The factors by module, in PEFT's order.

        Raises:
            GtrTurboError: the adapter does more than scale · B A.
        """
        found = {}
        for name, choice in self.choices.items():
            if not isinstance(choice[0], Product) or choice[0].diagonal:
                what = (
                    f"replaces {name} as a whole" if isinstance(choice[0], Replaced) else f"changes {name} by more than scale·B·A"
                )
                raise GtrTurboError(f"{self.folder} {what}.", "leave out --parameters factors=true.")
            found[name.removesuffix(".weight")] = choice[0]
        return found


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter changes.

    Raises:
        GtrTurboError: damaged, without tensors, or of a kind whose change of the weights its files do not tell.
    """
    config = adapter_config(folder)
    require_known(folder, config)
    if not (folder / ADAPTER_WEIGHTS).exists() and (folder / PICKLED).exists():
        raise GtrTurboError(
            f"{folder} holds pickled weights ({PICKLED}), which can run code when they are read.",
            "save it with safetensors: PeftModel.from_pretrained(model, ADAPTER).save_pretrained(OUT)",
        )
    _, entries = read_header(folder / ADAPTER_WEIGHTS)
    if not entries:
        raise GtrTurboError(
            f"{folder / ADAPTER_WEIGHTS} holds no tensors.",
            "save the adapter again: with ZeRO-3 or FSDP its parts are gathered first.",
        )
    for told in (*told_of_keys(folder, config), *told_of_names(folder, entries)):
        stderr.print(Text(visible(told), style="yellow"), soft_wrap=True)
    parts, saved = _sorted(folder, entries)
    choices = _factors(folder, config, parts)
    for name, entry in saved.items():
        above = choices.get(name, ())
        choices[name] = tuple(Replaced(entry, change) for change in above if change.shape == entry.shape) or (Replaced(entry),)
    return Adapter(folder, choices, bool(config.get("fan_in_fan_out")), _untied(config, saved, choices), Named(folder, config))


def _untied(config: dict[str, Any], saved: Collection[str], choices: dict[str, tuple[Change, ...]]) -> tuple[str, ...]:
    """Name the tensors that PEFT changes without changing what is tied to them: copies (`modules_to_save`), and factors.

    Only what lies outside of numbered layers is tied to anything; the rows of trained tokens PEFT ties by itself.
    """
    if config.get("ensure_weight_tying"):
        return ()
    modules = config.get("modules_to_save") or ()
    marks = [f".{module}." for module in ([modules] if isinstance(modules, str) else modules)]
    copied = [name for name in saved if any(mark in f".{name}" for mark in marks)]
    factored = [
        name
        for name, (first, *_) in choices.items()
        if isinstance((isinstance(first, Replaced) and first.above) or first, Product | Residual | Directed)
        and not any(map(str.isdigit, name.split(".")))
    ]
    return (*copied, *factored)


def changes_nothing(adapter: Adapter) -> bool:
    """Tell whether ΔW is 0 in all that an adapter changes: it was not trained, or it is the base itself."""
    changes = [choice[0] for choice in adapter.choices.values()]
    return all(isinstance(change, Product) and not _any(change.b) for change in changes)


def _any(entry: TensorEntry) -> bool:
    """Tell whether a tensor on disk holds anything but 0."""
    return bool(widen(np.fromfile(entry.file, FLOATS[entry.dtype], count=entry.entries, offset=entry.start)).any())


Parts = dict[str, dict[str, TensorEntry]]


def _sorted(folder: Path, entries: Sequence[TensorEntry]) -> tuple[Parts, dict[str, TensorEntry]]:
    """Sort an adapter's tensors into the parts of its modules, and what it holds as a whole."""
    parts: Parts = {}
    saved: dict[str, TensorEntry] = {}
    copies: dict[str, TensorEntry] = {}
    for entry in entries:
        name = entry.name.removeprefix(PREFIX)
        if not entry.is_float:
            raise GtrTurboError(f"{folder}: {entry.name} is of type {entry.dtype}.")
        if TRAINING_ONLY.search(name) or KEPT_ASIDE.search(name):
            continue
        if found := PART.match(name):
            part = found["part"] + (".bias" if found["kind"] == ".bias" else "")
            parts.setdefault(found["module"], {})[part] = entry
        elif NOT_LINEAR.search(name):
            raise GtrTurboError(
                f"{folder} holds {entry.name}, which is no part of a LoRA adapter that merge knows.",
                "save it with PeftModel.save_pretrained, which leaves the adapter's name (.default) out of those of tensors.",
            )
        elif SAVED.search(name):
            copies[SAVED.sub("", name).replace(".base_layer.", ".")] = entry
        else:
            # What lies under an adapted module is saved under the layer that PEFT wraps.
            saved[name.replace(".base_layer.", ".")] = entry
    return parts, copies | saved


def _factors(folder: Path, config: dict[str, Any], parts: Parts) -> dict[str, tuple[Change, ...]]:
    choices: dict[str, tuple[Change, ...]] = {}
    if config.get("trainable_token_indices") and not any(TOKENS in found for found in parts.values()):
        raise GtrTurboError(
            f"{folder}: trainable_token_indices are {config['trainable_token_indices']}, and there are no rows for them."
        )
    levels = Counter(_unwrapped(module) for module in parts)
    for module, found in parts.items():
        left = dict(found)
        if TOKENS in left:
            entry = left.pop(TOKENS)
            choices[f"{module}.weight"] = (Tokens(entry, _tokens(folder, config, module, entry), (-1, *entry.shape[1:])),)
        elif targeted := _parameters(folder, config, _unwrapped(module), levels[_unwrapped(module)]):
            if levels[_unwrapped(module)] != len(targeted):
                raise GtrTurboError(f"{folder} adapts {levels[_unwrapped(module)]} of the parameters {', '.join(targeted)}.")
            for name in targeted:
                choices[name] = (*choices.get(name, ()), *_of_parameter(folder, config, name, left))
            left = {}
        else:
            choices |= _of_module(folder, config, module, left)
        if left:
            raise GtrTurboError(f"{folder} holds {next(iter(left.values())).name}, which is no factor of a layer.")
    if unfit := next((name for name, choice in choices.items() if not choice), None):
        raise GtrTurboError(f"{folder} holds no factors of {unfit} of the rank that its {ADAPTER_CONFIG} says.", MEND)
    return choices


def _unwrapped(module: str) -> str:
    return module.replace(".base_layer", "")


def _of_module(folder: Path, config: dict[str, Any], module: str, parts: dict[str, TensorEntry]) -> dict[str, tuple[Change, ...]]:
    """Name what the parts of one module change, and take them out."""
    embedding = "lora_embedding_A" in parts
    a, b = _pair(folder, module, parts, ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B"))
    rank = of_pattern(config.get("rank_pattern"), module, config.get("r", DEFAULT_RANK))
    Named(folder, config).require(module, a.shape[0], rank)
    scale = scale_of(config, module, a.shape[0])
    straight, across = (b.shape[0], *a.shape[1:]), (*a.shape[1:], b.shape[0])
    diagonal = parts.pop("lora_diag", None)
    products = [Product(a, b, scale, straight, diagonal=diagonal), Product(a, b, scale, across, True, diagonal)]
    if embedding:
        products = products[1:]
    elif len(a.shape) > 2 or diagonal:
        products = products[:1]
    elif config.get("fan_in_fan_out"):
        products.reverse()
    found: tuple[Change, ...] = tuple(products)
    start = TAKEN_OUT.get(str(config.get("init_lora_weights")).lower())
    removed: Removed | None = "smallest" if config.get("kasa_config") else start
    if removed and not embedding and len(a.shape) == 2:
        found = tuple(Residual(product, removed) for product in products)
    for needed, part in (("use_dora", "lora_magnitude_vector"), ("kasa_config", "lora_diag"), ("lora_bias", "lora_B.bias")):
        if bool(config.get(needed)) != (part in parts or (part == "lora_diag" and diagonal is not None)):
            raise GtrTurboError(
                f"{folder}: {needed} is {config.get(needed)} and {module} has {'a' if part in parts else 'no'} {part}.",
                f"write {needed} into {ADAPTER_CONFIG} as it was in training, or save the adapter again.",
            )
    if magnitude := parts.pop("lora_magnitude_vector", None):
        found = tuple(Directed(product, magnitude, product.transposed) for product in products)
    choices: dict[str, tuple[Change, ...]] = {f"{module}.weight": found}
    if bias := parts.pop("lora_B.bias", None):
        choices[f"{module}.bias"] = (Scaled(bias, scale),)
    return choices


def _pair(folder: Path, module: str, parts: dict[str, TensorEntry], names: tuple[str, str]) -> tuple[TensorEntry, TensorEntry]:
    for name in names:
        if name not in parts:
            raise GtrTurboError(f"{folder} has a part of {module} without its {name}.", "save the adapter again.")
        if not parts[name].entries:
            raise GtrTurboError(
                f"{folder}: {parts[name].name} is empty.",
                "save the adapter again: with ZeRO-3 or FSDP its parts are gathered first.",
            )
    a, b = (parts.pop(name) for name in names)
    if len(a.shape) < 2 or len(b.shape) != len(a.shape) or a.shape[0] != b.shape[1] or any(size != 1 for size in b.shape[2:]):
        raise GtrTurboError(
            f"{folder}: {a.name} has shape {list(a.shape)} and its {names[1]} {list(b.shape)}: no factors of a layer."
        )
    return a, b


def _parameters(folder: Path, config: dict[str, Any], module: str, count: int) -> list[str]:
    """Name the parameters of a module that are adapted by themselves: stacked experts, or a router.

    A target without its module (`down_proj`) may be of any, which has it or not. It is none of a module that is adapted as a
    layer; and where there are more targets than the `count` pairs of factors, those that name this module are meant.
    """
    found, own = [], []
    for target in sorted(set(config.get("target_parameters") or [])):
        name = f"{module}.{target.rpartition('.')[2]}"
        if name == target or name.endswith(f".{target}"):
            found.append(name)
            own += [name] if "." in target else []
    return own if len(found) > count == len(own) or (found and Named(folder, config).adapts(module)) else found


def _of_parameter(folder: Path, config: dict[str, Any], name: str, parts: dict[str, TensorEntry]) -> tuple[Change, ...]:
    if parts.keys() != {"lora_A", "lora_B"}:
        raise GtrTurboError(f"{folder} adapts {name} with {', '.join(parts)}, not with lora_A and lora_B.")
    a, b = parts["lora_A"], parts["lora_B"]
    rank = of_pattern(config.get("rank_pattern"), name, config.get("r"))
    if type(rank) is not int or rank < 1:
        raise GtrTurboError(f"the rank of {name} is {rank!r} in {ADAPTER_CONFIG}, not a whole number.", MEND)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise GtrTurboError(
            f"{folder}: {a.name} has shape {list(a.shape)} and its lora_B {list(b.shape)}: no factors of experts."
        )
    if a.shape[0] % rank:  # Those of another parameter of the module, or of none.
        return ()
    scale, experts = scale_of(config, name, rank), a.shape[0] // rank
    if experts == 1:
        return (Product(a, b, scale, (b.shape[0], a.shape[1])),)
    straight, across = (experts, b.shape[0], a.shape[1]), (experts, a.shape[1], b.shape[0])
    return (Experts(a, b, scale, experts, straight, False), Experts(a, b, scale, experts, across, True))


def _tokens(folder: Path, config: dict[str, Any], module: str, entry: TensorEntry) -> tuple[int, ...]:
    named = config.get("trainable_token_indices") or []
    if isinstance(named, dict):
        named = next((tokens for key, tokens in named.items() if module == key or module.endswith(f".{key}")), [])
    if len(named) != entry.shape[0]:
        raise GtrTurboError(f"{folder}: {entry.name} has {entry.shape[0]} rows for {len(named)} trainable_token_indices.")
    return tuple(named)
