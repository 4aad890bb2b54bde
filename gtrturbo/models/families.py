"""Families of models: what each needs beyond transformers' common interface, by the model type of its config.

A new family is one entry here, or a record of the user's own (`init --family`), which is then written beside the model. One that
has none is taken for `DEFAULT`, which fits what transformers' interface covers.
Nothing heavy is imported here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find
from gtrturbo.store.files import save_json
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import FAMILY

KIND = "model family"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts about a family of vision-language models.

    Attributes:
        picture_ids: names in the config of the ids that stand for pictures and must never be sampled.
        repeated_id: which of them stands once per token of a picture; a server writes it once per picture.
        per_token: what the processor returns per token, with what pads it: a number, or None for the tokenizer's own padding.
            Everything else (pixels, grids) is stacked along its first dimension.
        in_replies: what of that the tokens of a reply have, where it is not 0.
        image_only: whether its processor asks for torchvision for videos alone, so that without torchvision the image-only one
            takes its place.
        window_towers: model types of vision towers that transformers runs window by window, and that can take all at once.
        towers: names of modules that are vision towers, beside those that transformers names itself.
        projectors: names of modules that lead from a tower to the text, inside it or beside it.
        lora_targets: which modules get a LoRA adapter where none are named: a word of PEFT's, or names.
    """

    picture_ids: tuple[str, ...] = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    repeated_id: str = "image_token_id"
    per_token: Mapping[str, int | None] = field(
        default_factory=lambda: {"input_ids": None, "attention_mask": 0, "mm_token_type_ids": 0, "token_type_ids": 0}
    )
    in_replies: Mapping[str, int] = field(default_factory=dict)
    image_only: bool = False
    window_towers: tuple[str, ...] = ()
    towers: tuple[str, ...] = ("visual", "vision_tower", "vision_model", "video_tower", "high_res_vision_model")
    projectors: tuple[str, ...] = (
        *("multi_modal_projector", "connector", "merger", "deepstack_merger_list", "aligner", "vision_adapter"),
        *("vision_projection", "qformer", "language_projection"),
    )
    lora_targets: str | tuple[str, ...] = "all-linear"


DEFAULT = Family()
FAMILIES = {
    "paligemma": Family(in_replies={"token_type_ids": 1}),  # It reads prompts (0) in both directions, and replies in one.
    "qwen2_vl": Family(image_only=True, window_towers=("qwen2_vl_vision",), towers=("visual",)),
    "qwen2_5_vl": Family(image_only=True, window_towers=("qwen2_5_vl_vision",), towers=("visual",)),
}


def family_of(model_type: str | None) -> Family:
    """Return the family of a model by its config's model type."""
    return FAMILIES.get(model_type or "", DEFAULT)


def find_family(name: str) -> Family:
    """Return a family of the table by its model type, or the user's own record.

    Raises:
        GtrTurboError: there is none, or what is there is something else.
    """
    found = find(KIND, name, FAMILIES)
    if not isinstance(found, Family):
        raise GtrTurboError(f"{name} is a {type(found).__name__}, not a Family.", "make a gtrturbo.models.families.Family.")
    try:
        return TypeAdapter(Family).validate_python(asdict(found))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = str(wrong["loc"][0])
        raise GtrTurboError(
            f"{name} has {getattr(found, where)!r} for {where}: {wrong['msg']}.",
            'several names are a tuple, also one: ("visual",).',
        ) from None


def require_named(name: str, family: Family, config: Any, model: str) -> None:
    """Refuse a family of the user's own that names no ids of a model's config: nothing would be forbidden, in silence.

    Of the names that every family has from the beginning a model need not have all.

    Args:
        name: of the family.
        model: what the error calls the model.

    Raises:
        GtrTurboError: names the first.
    """
    asked = {"picture_ids": family.picture_ids, "repeated_id": (family.repeated_id,)}
    usual = {*DEFAULT.picture_ids}
    for where, names in asked.items():
        odd = [each for each in names if each not in usual and not isinstance(getattr(config, each, None), int)]
        if odd:
            there = [each for each in vars(config) if each.endswith(("_token_id", "_token_index"))]
            raise GtrTurboError(
                f"{name} names {odd[0]} in {where}, which is no id in the config of {model}.",
                f"name ids that it has, such as: {', '.join(there) or 'none'}.",
            )
    if family.picture_ids != DEFAULT.picture_ids and not forbidden_ids(config, family):
        raise GtrTurboError(
            f"{name} names no picture_ids, and so forbids no token, that the config of {model} has.",
            "name those of its pictures, or leave picture_ids out.",
        )


def save_family(folder: Path, family: Family) -> None:
    """Write a family that was chosen beside the model: it is data, so that later stages read it and load no code."""
    save_json(folder / FAMILY, asdict(family))


def read_family(folder: Path, model_type: str | None) -> Family:
    """Return the family that was chosen for a checkpoint, else that of its model type.

    Raises:
        GtrTurboError: the file that says so is damaged.
    """
    file = folder / FAMILY
    if not file.is_file():
        return family_of(model_type)
    try:
        return TypeAdapter(Family).validate_json(file.read_bytes())
    except ValidationError as error:
        raise GtrTurboError(f"{file} is damaged: {error.errors()[0]['msg']}.", "make the checkpoint again.") from None


def forbidden_ids(config: Any, family: Family) -> set[int]:
    """Name the ids that stand for pictures and must never be sampled, of a model's config."""
    names = family.picture_ids
    return {identity for name in names if isinstance(identity := getattr(config, name, None), int)}


def require_picture_ids(path: Path, config: Any, processor: Any, family: Family) -> None:
    """Refuse a model whose config and processor do not mean the same tokens by pictures.

    Raises:
        GtrTurboError: an id is not in the vocabulary, or the two name different ones.
    """
    mend = mend_of(path)
    vocabulary = config.get_text_config().vocab_size
    if odd := sorted(identity for identity in forbidden_ids(config, family) if not 0 <= identity < vocabulary):
        raise GtrTurboError(f"the config of {path} names token {odd[0]}, and its vocabulary has {vocabulary}.", mend)
    meant, put = getattr(config, family.repeated_id, None), written_ids(processor)
    if isinstance(meant, int) and put and meant not in put:
        raise GtrTurboError(f"the config of {path} means token {meant} by a picture, and its processor writes {put[0]}.", mend)


def written_ids(processor: Any) -> list[int]:
    """Name the ids that a processor writes for a picture, that of its content first; none where it does not say."""
    # Gemma 3 calls the mark before a picture its image token, and names what stands for the picture in this list alone.
    named = getattr(processor, "image_token_ids", None) or [getattr(processor, "image_token_id", None)]
    return [identity for identity in named if isinstance(identity, int)]
