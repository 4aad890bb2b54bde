"""Which tensors are layers: stacks of numbered tensors, told from names alone, so that no architecture needs a definition."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

# The last word before the number of a layer. Other numbered names, as of projectors or experts, are parts of one or of none.
STACKS = {"layers", "layer", "blocks", "block", "h", "resblocks"}
BEFORE = re.compile(r"embed|wte|wpe|conv1|conv2|patch")
VISION = re.compile(r"(^|\.)(visual|vision\w*|image_encoder)\.")
JOINT = re.compile(r"(^|\.)(multi_modal_projector|merger|deepstack_merger_list|mm_projector|connector)\.")
CODER = re.compile(r"(^|\.)(encoder|decoder)\.")
VOCABULARY = re.compile(r"(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared|lm_head|embed_out|output_embeddings|"
                        r"predictions\.decoder)\.(weight|bias)$|predictions\.bias$")  # fmt: skip


@dataclass(frozen=True)
class LayerPlace:
    """Where a tensor stands: the stack that it is a layer of, which one, and the rest of its name. `stack` "": in none."""

    stack: str
    layer: int
    rest: str

    @property
    def name(self) -> str:
        return f"{self.stack}.{self.layer}.{self.rest}" if self.stack else self.rest


def place_of(name: str) -> LayerPlace:
    """Cut a tensor's name at the number of its layer."""
    parts = name.split(".")
    for i in range(1, len(parts) - 1):
        if parts[i].isdecimal() and parts[i - 1] in STACKS:
            return LayerPlace(".".join(parts[:i]), int(parts[i]), ".".join(parts[i + 1 :]))
    return LayerPlace("", 0, name)


def depths(names: Collection[str]) -> dict[str, int]:
    """Count the layers of each stack."""
    found: dict[str, int] = {}
    for place in map(place_of, names):
        if place.stack:
            found[place.stack] = max(found.get(place.stack, 0), place.layer + 1)
    return found


def spellings(in_memory: Mapping[str, str]) -> Callable[[str], tuple[str, ...]]:
    """Make what gives all names of a tensor from the one that it is stored under, also of a layer that was not there before.

    Args:
        in_memory: transformers' names by stored names.
    """
    known: dict[tuple[str, str], LayerPlace] = {}
    for stored, memory in in_memory.items():
        place, there = place_of(stored), place_of(memory)
        if place.layer == there.layer:
            known.setdefault((place.stack, place.rest), there)

    def names(stored: str) -> tuple[str, ...]:
        place = place_of(stored)
        found = known.get((place.stack, place.rest))
        memory = replace(found, layer=place.layer).name if found else in_memory.get(stored, stored)
        return (stored, memory) if memory != stored else (stored,)

    return names


def comes_first(name: str) -> bool:
    """Tell whether a tensor outside of layers lies before them, as embeddings do, and not after them, as heads do."""
    return bool(BEFORE.search(name))


def module_of(name: str) -> str:
    """Name the module of mergekit's architectures that a tensor belongs to."""
    if JOINT.search(name):
        return "multi_modal_projector"
    if VISION.search(name):
        return "vision_tower"
    if coder := CODER.search(name):
        return coder.group(2)
    return "shared" if name.startswith("shared.") else "text_decoder"
