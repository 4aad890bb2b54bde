"""Config of merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gtrturbo.config.bounds import COUNT, FRACTION, POSITIVE, RANK, SEED, THREADS, EachBetween
from gtrturbo.config.choices import Missing
from gtrturbo.config.common import StageConfig, check_named_device
from gtrturbo.config.fields import Absent, Checked, Role, Seam
from gtrturbo.errors import GtrTurboError


@dataclass(frozen=True, kw_only=True)
class MergeConfig(StageConfig):
    """Merge checkpoints around their base into a teacher. No checkpoints give the base."""

    @classmethod
    def require_together(cls, given: Mapping[str, Any]) -> None:
        """Refuse beside a recipe an option that says our default: the recipe may say otherwise, and nobody would be told."""
        if given.get("recipe") is None:
            return
        for name in ("method", "weights", "density", "gamma", "scale"):
            if name in given and given[name] == getattr(cls, name):
                raise GtrTurboError(f"--{name} {given[name]} beside a recipe says nothing.", f"leave out --{name}.")

    checkpoints: Annotated[
        tuple[Path, ...],
        "Checkpoints to merge, oldest first: full weights in safetensors, or LoRA adapters; folders, or Hugging Face ids (ID, "
        "ID@REVISION).",
        Role.POSITIONAL,
    ] = ()
    base: Annotated[
        Path | None,
        "Checkpoint that task vectors are measured from, a folder or a Hugging Face id; the one that the checkpoints were "
        "trained from if not given.",
        Role.INPUT,
    ] = None
    ahead: Annotated[
        tuple[Path, ...],
        "Turns that a checkpoint or the base played; repeatable. Merge only those that were ahead: their episodes returned more "
        "than those of the last one that was, and as few replies were illegal, or at most one in twenty (documentation: merge).",
        Role.INPUT,
        Absent((), silent=True),
    ] = ()
    method: Annotated[
        str,
        "How checkpoints become one, ties as in the paper: one of those named here, or a rule of your "
        "own, as package.module:NAME or path/to/file.py:NAME.",
        Seam("merge rule"),
    ] = "ties"
    weights: Annotated[
        str,
        "sma (equal, as in the paper's code), ema:ALPHA (newest counts most; the paper's best is ema:0.5), or numbers: 0.2,0.8.",
    ] = "sma"
    density: Annotated[
        str,
        "Share of each task vector that is kept, in (0, 1], or one per checkpoint: 0.8,0.5; 0.8 as in the paper; none was "
        "measured to be better (documentation: results-stable).",
        EachBetween(0, 1, low_open=True),
    ] = "0.8"
    gamma: Annotated[float, "breadcrumbs: share of largest entries to drop; 0.01 as in mergekit.", FRACTION] = 0.01
    parameters: Annotated[
        tuple[str, ...],
        "KEY=VALUE of the method's own, such as epsilon=0.1 of della or t=0.01 of nearswap, with defaults as in mergekit "
        "(documentation: merge); one for all checkpoints, or one each: 0.1,0.2; repeatable. count=true elects signs by the "
        "number of votes; factors=true merges A and B of LoRA adapters apart, as PEFT does: approximate.",
        Absent((), silent=True),
    ] = ()
    trim: Annotated[
        Literal["tensor", "global"],
        "ties: the share that --density keeps is of each tensor (ours, as in mergekit and PEFT), or of all that is merged "
        "together (as its authors do).",
        Absent("tensor", silent=True),
    ] = "tensor"
    scale: Annotated[float, "λ: the merged task vector is multiplied by it; 1 as in the paper.", POSITIVE] = 1.0
    normalize: Annotated[
        bool | None,
        "Divide by the weights; if not given, ties (as in the paper), linear and sce do, and sums do not (as in mergekit).",
    ] = None
    task_vectors: Annotated[
        bool,
        "nuslerp and multislerp: merge task vectors also where the base is one of the checkpoints, as where --base names it; "
        "else the base then only lends its layout, and whole weights are merged (as in mergekit).",
        Absent(False, silent=True),
    ] = False
    include: Annotated[
        tuple[str, ...], "Merge only tensors whose name fits, such as model.layers.*; repeatable. Others: the base's."
    ] = ()
    exclude: Annotated[tuple[str, ...], "Leave tensors whose name fits as they are in the base; repeatable."] = ()
    saturate: Annotated[
        bool, "Write results beyond the range of the base's type as its largest number; ours is to refuse them."
    ] = False
    missing: Annotated[
        Missing,
        "Tensors that only the base or only a checkpoint has, or only an adapter's config names: error refuses; base does as the "
        "base does; dropped, ours, does so with what transformers does not load (mtp.*, inv_freq, value heads), tells it, and "
        "refuses others.",
    ] = "dropped"
    rank: Annotated[
        int, "LoRA adapters: write an adapter of this rank (truncated SVD; its error is printed), not full weights.", RANK
    ] = 0
    seed: Annotated[int, "dare: decides which entries are dropped.", SEED] = 0
    recipe: Annotated[
        str | None,
        "File with mergekit's YAML, in place of checkpoints, method and weights (documentation: merge).",
        Absent(None, silent=True),
    ] = None
    cache: Annotated[
        Path | None, "Folder for what was measured of each checkpoint: merging it again is one pass over the files.", Role.RUNTIME
    ] = None
    state: Annotated[
        Path | None,
        "Folder of running sums (ties, or a rule of sums): only checkpoints that it has not are read, and old ones may be gone.",
        Role.RUNTIME,
    ] = None  # fmt: skip
    verify: Annotated[
        int, "Recompute so many tensors, chosen at random, by the slow reference and compare.", COUNT, Role.RUNTIME
    ] = 0
    dry_run: Annotated[bool, "Say what would be read and written, and do nothing.", Role.RUNTIME] = False
    threads: Annotated[int | None, "Threads; all cores if not given. The result is the same.", THREADS, Role.RUNTIME] = None
    device: Annotated[
        str,
        "cpu, or cuda for the arithmetic on a GPU: the same bytes, but slower than a CPU's compiled loops where it was measured.",
        Role.RUNTIME,
        Checked(check_named_device),
    ] = "cpu"
