"""Which layers an adapter changes, and what the model says without its visual half, or without all of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from gtrturbo.errors import GtrTurboError, few
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.models.families import Family
from gtrturbo.models.parts import LANGUAGE, PARTS, UNTOLD, heads_of, parts_of
from gtrturbo.store.names import ADAPTER_CONFIG

SHOWN = 6  # names of layers in an error
# In what an adapter's config says of its beginning: by a randomised decomposition, of so many steps.
RANDOMISED = "_niter_"
# The classes of modules that LoRA has factors for, beside those of quantised models.
ADAPTED = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)


def adapter_layers(model: Any, family: Family, *, visual: bool) -> list[BaseTunerLayer]:
    """Return the layers that an adapter changes: all, or those outside the text decoder, none where that cannot be told."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = [(name, module) for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    if not visual or not layers:
        return [module for _, module in layers]
    parts = parts_of(base, family)
    return [module for name, module in layers if parts is not None and parts[name] != LANGUAGE]


def modules_of(model: Any, family: Family, targets: Sequence[str]) -> list[str]:
    """Name the modules that an adapter goes on: names as they are, and of a part of the model all its linear layers.

    Raises:
        GtrTurboError: a part has none, or what belongs to it cannot be told.
    """
    if not any(target in PARTS for target in targets):
        return list(targets)
    linear, parts = _linear(model), parts_of(model, family)
    if parts is None:
        [word, *_] = [target for target in targets if target in PARTS]
        raise GtrTurboError(
            f"it cannot be told which modules of a {model.config.model_type} are its text decoder, so that --lora-target {word} "
            "is not known.",
            f"name linear layers instead, such as {layers_of(model)}.",
        )
    found: list[str] = []
    for target in targets:
        found += _linear_of(model, target, parts, linear) if target in PARTS else [target]
    return found


def _linear_of(model: Any, part: str, parts: dict[str, str], linear: Sequence[str]) -> list[str]:
    """Name the linear layers of a part."""
    untold = [name for name in linear if parts[name] == UNTOLD]
    if part != LANGUAGE and untold:
        raise GtrTurboError(
            f"it cannot be told whether {_root(untold[0], parts)} of a {model.config.model_type} is in its {part} part.",
            f"leave {part} out of --lora-target, or name linear layers instead, such as {layers_of(model)}.",
        )
    own = [name for name in linear if parts[name] == part]
    if own:
        return own
    bare = [name for name, value in model.named_parameters() if value.ndim == 2 and parts.get(name.rpartition(".")[0]) == part]
    if bare:
        raise GtrTurboError(
            f"the {part} part of a {model.config.model_type} is a parameter, {bare[0]}, and no linear layer, so that no adapter "
            "goes on it.",
            f"leave {part} out of --lora-target, or train all weights: --lora-rank 0.",
        )
    raise GtrTurboError(
        f"a {model.config.model_type} has no linear layer in its {part} part.",
        f"leave {part} out of --lora-target, or name linear layers instead, such as {layers_of(model)}.",
    )


def stacks_of(model: Any) -> list[str]:
    """Name the parameters [experts, rows, columns] that hold experts of layers one upon another: no linear layers, so to LoRA."""
    convolutions = (nn.Conv1d, nn.ConvTranspose1d)
    return [
        f"{place}.{name}" if place else name
        for place, module in model.named_modules()
        if not isinstance(module, convolutions)
        for name, value in module.named_parameters(recurse=False)
        if value.ndim == 3 and value.shape[0] > 1
    ]


def told_of_stacks(model: Any, family: Family, name: str) -> str | None:
    """Say which share of the language model's weights are experts that an adapter leaves frozen; None where there are none."""
    parts = parts_of(model, family)
    own = {
        place: value.numel()
        for place, value in model.named_parameters()
        if parts is None or parts.get(place.rpartition(".")[0]) == LANGUAGE
    }
    experts = [stack for stack in stacks_of(model) if stack in own]
    if not experts:
        return None
    share = sum(own[stack] for stack in experts) / sum(own.values())
    called = " and ".join(sorted({stack.rpartition(".")[2] for stack in experts}))
    return (
        f"{share:.1%} of the weights of {name}'s language model are experts, which are stacks ({called}) and no linear layers: "
        "LoRA leaves them frozen; all weights train with --lora-rank 0."
    )


def require_no_stacks(model: Any, targets: Sequence[str]) -> None:
    """Refuse stacks of experts by their name as the place of an adapter.

    Raises:
        GtrTurboError: names the first.
    """
    modules, stacks = [f".{name}" for name, _ in model.named_modules()], stacks_of(model)
    for target in targets:
        stack = next((each for each in stacks if f".{each}".endswith(f".{target}")), None)
        if stack and not any(module.endswith(f".{target}") for module in modules):
            raise GtrTurboError(
                f"{target} of a {model.config.model_type} is a stack of experts ({stack}), and no linear layer for LoRA.",
                f"name linear layers, such as {layers_of(model)}, or train all weights: --lora-rank 0.",
            )


@contextmanager
def putting_on(model: Any, targets: str | Sequence[str]) -> Iterator[None]:
    """Refuse an adapter that fits none of a model's layers, before PEFT prints the module that it cannot go on.

    Args:
        model: without the adapter, when the block begins.
        targets: names of layers as PEFT matches them, by their ends; or a word of PEFT's for all of a kind.

    Raises:
        GtrTurboError: names what does not fit, and linear layers that would do.
    """
    parts = f"parts ({', '.join(PARTS)}) or layers, such as {layers_of(model)}."
    if isinstance(targets, str):
        what, mend = f"the {targets} layers of a {model.config.model_type} are not all of a kind that PEFT knows", f"name {parts}"
    else:
        what, mend = _unfit(model, targets), f"leave --lora-target out for all linear layers; or give {parts}"
        if what:
            raise GtrTurboError(f"no adapter fits: {what}.", mend)
    try:
        yield
    except ValueError as error:
        said = what or f"PEFT refuses this {model.config.model_type} with a {type(error).__name__} (--debug shows where)"
        raise GtrTurboError(f"no adapter fits: {said}.", mend) from error


def _unfit(model: Any, targets: Sequence[str]) -> str:
    """Say what of the targets no adapter goes on; nothing where all that they name can have one."""
    ends, kind = tuple(f".{target}" for target in targets), model.config.model_type
    found = [(name, module) for name, module in model.named_modules() if f".{name}".endswith(ends)]
    lost = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name, _ in found)]
    if lost:
        return f"no layer of a {kind} is called {few(sorted(lost), between=' or ')}"
    odd = next(((name, module) for name, module in found if not isinstance(module, ADAPTED)), None)
    return f"{odd[0]} of a {kind} is a {type(odd[1]).__name__}, and no linear layer" if odd else ""


def is_tied(model: Any) -> bool:
    """Tell whether a model's output head and input embedding are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is model.get_input_embeddings().weight


def require_no_end(adapted: PeftModel) -> None:
    """Refuse an adapter on one end of a tie: what it trains could be written into no model that stays tied.

    Raises:
        GtrTurboError: it goes on the output head or the input embedding.
    """
    base: Any = adapted.get_base_model()
    ends = (base.get_output_embeddings(), base.get_input_embeddings())
    changed = [name for name, module in base.named_modules() if isinstance(module, BaseTunerLayer) and module in ends]
    if changed:
        raise GtrTurboError(
            f"{changed[0]} of this {base.config.model_type} is tied: output head and embedding are one tensor, and an adapter "
            "on one of them would part them, so that no merge could write it.",
            f"leave {changed[0].rpartition('.')[2]} out of --lora-target.",
        )


def require_scale(folder: Path, adapted: PeftModel) -> None:
    """Refuse an adapter that plays as its bare base: its config scales all of its factors by 0.

    Raises:
        GtrTurboError: it does.
    """
    scales = [scale for module in adapted.modules() if isinstance(module, LoraLayer) for scale in module.scaling.values()]
    if scales and not any(scales):
        raise GtrTurboError(
            f"{folder / ADAPTER_CONFIG} scales all of the adapter's factors by 0 (lora_alpha), so that it changes nothing.",
            "write there the lora_alpha that it was trained with, or name its base in its place.",
        )


def require_repeatable(folder: Path) -> None:
    """Refuse an adapter under which PEFT draws the base anew at each load: PiSSA by a randomised decomposition of W.

    Raises:
        GtrTurboError: it does.
    """
    start = adapter_config(folder).get("init_lora_weights")
    if isinstance(start, str) and RANDOMISED in start:
        raise GtrTurboError(
            f"{folder / ADAPTER_CONFIG} begins by {start!r}, which is drawn anew at each load: no two loads play as one model.",
            "convert it where it was trained: save_pretrained(OUT, path_initial_model_for_weight_conversion=ITS_START).",
        )


def _root(name: str, parts: dict[str, str]) -> str:
    """Name the outermost module around one that is told no better."""
    steps = name.split(".")
    around = [".".join(steps[:count]) for count in range(1, len(steps) + 1)]
    return next(each for each in around if parts.get(each) == UNTOLD)


def layers_of(model: Any) -> str:
    """Show what the linear layers of a model are called: by the ends of their names, a few."""
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in reversed(_linear(model))))
    return ", ".join(ends[:SHOWN])


def _linear(model: Any) -> list[str]:
    """Name the linear layers of a model without its output head."""
    heads = {id(head) for head in heads_of(model)}
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) not in heads]


@contextmanager
def switched_off(layers: list[BaseTunerLayer]) -> Iterator[None]:
    """Let these layers compute as if they had no adapter for as long as the block runs."""
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was
