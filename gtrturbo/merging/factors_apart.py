"""Factors merged apart, A with A and B with B: what PEFT's own merges of adapters do, an approximation of the merge of ΔW."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.adapters import Adapter
from gtrturbo.merging.factored import Product
from gtrturbo.merging.lowrank import planned_layout
from gtrturbo.merging.parts import Full, Zeros
from gtrturbo.merging.plan import MergePlan
from gtrturbo.merging.sources import BLOCK, Sources, Target
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.store.files import save_json
from gtrturbo.store.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS

IN_DELTAS = "leave out --parameters factors=true."


def factor_sources(adapters: Sequence[Adapter], folder: Path, plan: MergePlan) -> Sources:
    """Lay out a merge of A with A and B with B.

    A mean takes the weights for A and for B. A sum takes sign(w) √|w s / s₁| for A and √|w s / s₁| for B, s being an adapter's
    scale and s₁ that of the first, which stays: of one adapter that is w s B A, whatever the sign of w.

    Raises:
        GtrTurboError: modules or ranks differ; scales do, or a weight is negative, and it is no sum; or the adapters do more than
            scale · B A.

    Source: PEFT, `LoraModel.add_weighted_adapter`, linear and dare_linear.
    """
    products = [adapter.products() for adapter in adapters]
    found = [{entry.name: entry for product in each.values() for entry in product.entries} for each in products]
    layout = planned_layout(folder / ADAPTER_WEIGHTS, {name: (entry.dtype, entry.shape) for name, entry in found[0].items()})
    for adapter, entries in zip(adapters, found, strict=True):
        odd = [name for name, entry in layout.entries.items() if name not in entries or entries[name].shape != entry.shape]
        if odd or entries.keys() != layout.entries.keys():
            name = odd[0] if odd else min(entries.keys() - layout.entries.keys())
            raise GtrTurboError(f"{name} of {adapter.folder} does not fit {adapters[0].folder}.", IN_DELTAS)
    plans = _plans(adapters, products, plan)
    targets = [
        Target(
            entry,
            Zeros(np.dtype(np.float32)),
            tuple(Full(e[name].file.parent, e[name], whole=True) for e in found),
            BLOCK,
            plan=plans.get(name),
        )
        for name, entry in layout.entries.items()
    ]
    return Sources(layout, tuple(targets), (), (), tuple(adapters))


def _plans(adapters: Sequence[Adapter], products: Sequence[dict[str, Product]], plan: MergePlan) -> dict[str, MergePlan]:
    """The weights of each factor of a sum; none where the factors are averaged or elected, and those of the plan count."""
    if plan.rule.scale != 1 and plan.method.keeps != "random":
        raise GtrTurboError("--scale would multiply A and B, and so what they stand for twice.", IN_DELTAS)
    if not plan.sums:
        if min(plan.weights) < 0:
            raise GtrTurboError(
                f"{plan.name} of factors has no negative weights: A and B would both change their sign.",
                "leave out --parameters factors=true, or use --method task-arithmetic.",
            )
        for adapter, each in zip(adapters, products, strict=True):
            if any(product.scale != products[0][name].scale for name, product in each.items()):
                raise GtrTurboError(
                    f"{adapter.folder} has other scales than {adapters[0].folder}.",
                    "leave out --parameters factors=true, or use --method task-arithmetic.",
                )
        return {}
    plans = {}
    for module, first in products[0].items():
        if not first.scale:
            raise GtrTurboError(f"{adapters[0].folder} has lora_alpha 0.", f"name another first, or {IN_DELTAS}")
        shares = [w * each[module].scale / first.scale for w, each in zip(plan.weights, products, strict=True)]
        roots = tuple(math.sqrt(abs(share)) for share in shares)
        plans[first.b.name] = replace(plan, weights=roots)
        plans[first.a.name] = replace(plan, weights=tuple(map(math.copysign, roots, shares)))
    return plans


def write_factors(model: Path, folder: Path) -> None:
    """Write the config of merged factors: that of the first adapter."""
    save_json(folder / ADAPTER_CONFIG, adapter_config(model))
