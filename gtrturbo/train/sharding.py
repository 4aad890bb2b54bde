"""Updates of full weights that are split over processes: each holds a share of every layer and of the optimiser's state.

A layer is gathered when its forward or backward pass begins and freed when it ends. On disk nothing shows it.
"""

from pathlib import Path

from torch.distributed.tensor import DTensor

from gtrturbo.distributed.processes import group
from gtrturbo.models.base_record import base_record
from gtrturbo.models.checkpoint import save_model
from gtrturbo.models.checkpoint_files import copy_renderer, is_adapter, name_weights, renderer_hash
from gtrturbo.models.policy import Policy
from gtrturbo.models.split_files import save_split
from gtrturbo.models.split_model import full, split
from gtrturbo.models.under_adapter import rebased, require_base
from gtrturbo.models.value_head import ValueHead
from gtrturbo.store.draft import Draft


def prepare_split(policy: Policy) -> None:
    """Make a policy whose model is split ready for an update: its value head is split, too."""
    if policy.value_head:
        split(policy.value_head, policy.device)
    # The root is run once per step: a second pass for replies would gather all layers again.
    policy.scorer.shares_prompts = False


def save_trained(policy: Policy, source: Path, draft: Draft, out: Path) -> str | None:
    """Write a trained checkpoint beside the files of the one that it came from; return the renderer's hash in the first process.

    All processes take part where weights are split over them; else the first alone writes.

    Args:
        policy: what was trained.
        source: checkpoint that it was loaded from; its processor files are copied byte for byte.
        draft: where to write.
        out: where the folder will stand in the end, from which the path to an adapter's base is counted.
    """
    is_split = any(isinstance(parameter, DTensor) for _, parameter in policy.parameters())
    if is_split:
        save_split(policy.model, draft)
    head = _whole(policy.value_head)
    if not group().world.first:
        return None
    if not is_split:
        save_model(policy.model, draft.folder, base=rebased(source, out) if is_adapter(source) else None)
    name_weights(draft.folder)
    copy_renderer(source, draft.folder)
    require_base(draft.folder, out)
    draft.base = base_record(draft.folder, source)
    if head:
        head.save(draft.folder)
    return renderer_hash(draft.folder)


def _whole(head: ValueHead | None) -> ValueHead | None:
    return ValueHead.of({name: full(value.detach()).cpu() for name, value in head.named_parameters()}) if head else None
