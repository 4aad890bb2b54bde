"""A merge rule that works in place changes what it was given, and nothing else."""

import pytest
from checkpoints import content

from gtrturbo.merging import sources
from gtrturbo.store.manifest import read_manifest

HEAD = "import torch\nfrom gtrturbo.merging.methods import MergeRule\n\n"
MEASURED = """
def measure(task_vectors, weights, *, base):
    {spoilt}
    return task_vectors.square().sum().reshape(1)


def combine(task_vectors, weights, *, base, measured, noise):
    merged = (weights[:, None] * task_vectors).sum(dim=0) / (1 + measured[0])
    {all_spoilt}
    return merged


RULE = MergeRule(combine, measure=measure)
"""
SUMS = """
def add(sums, task_vector, weight):
    total = sums + weight * task_vector
    {spoilt_sums}
    return total


def combine(sums, *, base):
    merged = sums[0] / 3
    {spoilt_base}
    return merged


RULE = MergeRule(combine, sums=1, add=add)
"""


def code(text: str, *, in_place: bool) -> str:
    spoilt = {
        "spoilt": "base.fill_(7)",
        "all_spoilt": "[each.fill_(7) for each in (task_vectors, weights, base, measured, noise)]",
        "spoilt_sums": "sums.fill_(7), task_vector.fill_(7)",
        "spoilt_base": "sums.fill_(7), base.fill_(7)",
    }
    return HEAD + text.format(**spoilt if in_place else dict.fromkeys(spoilt, "pass"))


@pytest.mark.parametrize(("text", "settings"), [(MEASURED, {}), (SUMS, {}), (SUMS, {"state": True})])
def test_a_rule_that_works_in_place_gives_the_bytes_of_one_that_does_not(folders, family, monkeypatch, text, settings):
    monkeypatch.setattr(sources, "SPOT", 1 << 12)  # More tiles than one, to which what is measured is the same.
    base, others = family(3, shapes={"w": (80, 64), "b": (64,)})
    outs = []
    for name in ("plain", "place"):
        (folders.root / f"{name}.py").write_text(code(text, in_place=name == "place"))
        state = {"state": folders.root / f"{name}-state"} if settings else {}
        outs.append(
            folders.merge(
                *others,
                base=base,
                method=f"{folders.root / name}.py:RULE",
                threads=1,
                **({} if state else {"verify": 9}),
                **state,
            )
        )
    assert content(outs[0]) == content(outs[1])
    assert read_manifest(outs[0]).metrics == read_manifest(outs[1]).metrics
