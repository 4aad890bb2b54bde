"""Full weights split over processes with FSDP2: each holds a share of every layer and of the optimiser's state.

A layer is gathered when its forward or backward pass begins and freed when it ends. On disk nothing shows it: full tensors are
gathered and the first process writes them.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_model, save_successor
from gtrturbo.models.policy import Policy
from gtrturbo.models.value_head import ValueHead


def shard(policy: Policy) -> None:
    """Split a policy's weights over all processes, layer by layer.

    Raises:
        GtrTurboError: there is one process only, or it trains an adapter, whose gradients are small enough to sum whole.
    """
    if not dist.is_initialized():
        raise GtrTurboError("--fsdp needs several processes.", "run: torchrun --nproc-per-node=N --no-python gtrturbo …")
    if any(not parameter.requires_grad for parameter in policy.model.parameters()):
        raise GtrTurboError("--fsdp splits full weights, and this checkpoint is an adapter.", "leave out --fsdp.")
    mesh = init_device_mesh(policy.device.type, (dist.get_world_size(),))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    layers = set(policy.model._no_split_modules)
    whole = [policy.model, *([policy.value_head] if policy.value_head else [])]
    for module in [m for m in policy.model.modules() if type(m).__name__ in layers] + whole:
        fully_shard(module, mesh=mesh, mp_policy=precision)
    # The root is run once per step: a second pass for replies would gather all layers again.
    policy.scorer.shares_prompts = False


def full(tensor: Tensor) -> Tensor:
    """Gather a tensor that is split over processes, in all of them; any other is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Split a full tensor over processes as `other` is, or put it on the same device."""
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


def save_trained(policy: Policy, source: Path, folder: Path, out: Path) -> str | None:
    """Write a trained checkpoint as `save_successor` does, from the first process; return the renderer's hash there.

    Split weights are gathered tensor by tensor, in which all processes take part; the first alone keeps them, on the CPU.
    """
    split = any(isinstance(parameter, DTensor) for _, parameter in policy.parameters())
    whole = _gathered(policy, source) if split else policy
    return save_successor(whole, source, folder, out) if whole and group().world.first else None


def _gathered(policy: Policy, source: Path) -> Policy | None:
    model = load_model(source).to(policy.model.dtype) if group().world.first else None
    kept = iter(model.parameters()) if model else None
    with torch.no_grad():
        for _, split in policy.model.named_parameters():
            gathered = full(split)
            if kept:
                next(kept).copy_(gathered)
    head = policy.value_head
    values = {name: full(value.detach()).cpu() for name, value in head.named_parameters()} if head else None
    return Policy(model, policy.processor, ValueHead.of(values) if values else None) if model else None
