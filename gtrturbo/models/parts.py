"""The parts of a vision-language model: its text decoder, its vision towers, and what leads from these to the text.

What is language is told by the model itself, never by names: it is what lies under the decoder that transformers names, and the
output head. Of the rest a part that cannot be told belongs to none, so that it is refused where a user asks for it by a word.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from gtrturbo.models.families import Family

PARTS = ("language", "projector", "vision")
LANGUAGE, PROJECTOR, VISION = PARTS
AUDIO, UNTOLD = "audio", "untold"
OF_SOUND = ("audio", "sound", "speech")


def parts_of(model: Any, family: Family) -> dict[str, str] | None:
    """Tell of each module with a name in which part of a model it is.

    Args:
        model: a transformers model, with an adapter's layers in it or not.
        family: names towers and projectors that transformers does not.

    Returns: One of `PARTS`, or audio, or untold, by the module's name; None where the model does not tell its text decoder.
    """
    decoder = _decoder(model)
    if decoder is None:
        return None
    spoken = [decoder, *(name for head in heads_of(model) if (name := _name(model, head)))]
    towers, heard = _towers(model, family, decoder), _encoder(model, "audio", decoder)
    told: dict[str, str] = {}
    beside: dict[str, str] = {}
    for name in (name for name, _ in model.named_modules() if name):
        if any(_under(name, root) for root in spoken):
            told[name] = LANGUAGE
        elif heard and _under(name, heard):
            told[name] = AUDIO
        elif any(step in family.projectors for step in name.split(".")):
            told[name] = PROJECTOR
        elif any(_under(name, tower) for tower in towers):
            told[name] = VISION
        elif not _under(decoder, name):
            beside[name] = _beside(name, decoder)
    inside = [name for name, part in told.items() if part == PROJECTOR and not any(_under(name, tower) for tower in towers)]
    return told | _rest(model, beside, single=not inside)


def towers_of(model: Any, family: Family) -> list[str]:
    """Name the modules of a model that are its vision towers, without those inside another."""
    decoder = _decoder(model)
    return [] if decoder is None else _towers(model, family, decoder)


def heads_of(model: Any) -> list[nn.Module]:
    """Return the output heads of a model: its own, and that of a text model inside it which has one."""
    inner = model.get_decoder()
    found = [model.get_output_embeddings(), inner.get_output_embeddings() if isinstance(inner, PreTrainedModel) else None]
    return [head for head in found if head is not None]


def _decoder(model: Any) -> str | None:
    """Name the text decoder: the module that holds the input embeddings, and whose config describes no other model inside it."""
    found = model.get_decoder()
    if not isinstance(found, PreTrainedModel) or found.config.sub_configs or found is model:
        return None
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # It has none that transformers finds.
        return None
    return _name(model, found) if any(module is embeddings for module in found.modules()) else None


def _encoder(model: Any, modality: str, decoder: str) -> str | None:
    """Name the encoder of a modality; None where transformers finds none, for which it answers with the model itself."""
    found = model.get_encoder(modality=modality)
    name = _name(model, found) if isinstance(found, nn.Module) else None
    return name if name and not _under(decoder, name) and not _under(name, decoder) else None


def _towers(model: Any, family: Family, decoder: str) -> list[str]:
    named = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in family.towers and not _under(name, decoder)]
    found = dict.fromkeys([*filter(None, (_encoder(model, each, decoder) for each in ("image", "video"))), *named])
    return [name for name in found if not any(name != other and _under(name, other) for other in found)]


def _rest(model: Any, beside: dict[str, str], *, single: bool) -> dict[str, str]:
    """Tell of what is neither decoder nor tower, by the module beside the decoder that it is in.

    A `single` one that is no model of its own leads from the pictures to the text, whatever it is called; of several it is not
    known which.
    """
    roots = [model.get_submodule(root) for root in dict.fromkeys(beside.values()) if not _of_sound(root)]
    weighty = [root for root in roots if next(root.parameters(), None) is not None]
    leads = single and len(weighty) == 1 and not isinstance(weighty[0], PreTrainedModel)
    return {name: AUDIO if _of_sound(root) else PROJECTOR if leads else UNTOLD for name, root in beside.items()}


def _of_sound(root: str) -> bool:
    return any(word in root.rpartition(".")[2] for word in OF_SOUND)


def _beside(name: str, decoder: str) -> str:
    """Name the module around this one that stands beside the decoder, or beside a module around the decoder."""
    steps, path = name.split("."), decoder.split(".")
    common = next((place for place, (one, other) in enumerate(zip(steps, path, strict=False)) if one != other), len(path))
    return ".".join(steps[: common + 1])


def _name(model: Any, sought: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if module is sought), None)


def _under(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")
