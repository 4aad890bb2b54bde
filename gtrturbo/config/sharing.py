"""Configs of what is given to others: export and push."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gtrturbo.config.choices import ExportFormat
from gtrturbo.config.fields import Checked, Role, check, fields
from gtrturbo.config.repositories import repository_of


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write turns in a format that other tools load: TRL, datasets, ATIF, Parquet."""

    turns: Annotated[Path, "Turns or an evaluation.", Role.POSITIONAL]
    to: Annotated[
        ExportFormat,
        "hf: an image folder for datasets, a row per turn. trl: the same as prompt, completion, images, of replies that parse. "
        "trl-preference: prompt, chosen, rejected, images: of replies to the same input the one after which most was earned, and "
        "each after which less was. "
        "atif: a trajectory per episode, with token ids and log-probs. parquet: one file with the pictures in it.",
    ] = "hf"
    out: Annotated[Path, "Folder to write; it must not exist.", Role.RUNTIME]

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Put a checkpoint on the Hugging Face hub: weights, processor and a card, without the optimiser's state."""

    checkpoint: Annotated[Path, "Checkpoint, or merge.", Role.POSITIONAL]
    repository: Annotated[str, "Where to, as ORG/NAME.", Role.POSITIONAL, Checked(repository_of)]
    evaluations: Annotated[tuple[Path, ...], "Evaluations of this checkpoint, whose numbers the card tells; repeatable."] = ()
    private: Annotated[bool, "Send to a private repository alone: a new one is made private, a public one refused."] = False
    dry_run: Annotated[bool, "Print the card, the files, and what would be removed for them, and send nothing."] = False

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))
