"""A merge rule whose file is edited while stages of one run are at work: manifests name the text that merged."""

import hashlib

from checkpoints import content

from gtrturbo.plugins import one_text
from gtrturbo.store.manifest import read_manifest

FIRST = "def rule(task_vectors, weights):\n    return task_vectors[0]\n"
SECOND = "def rule(task_vectors, weights):\n    return task_vectors[1]\n"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def named(out) -> str:
    return read_manifest(out).plugins["method"]["sha256"]


def test_stages_of_one_run_are_made_by_the_text_that_it_began_with(folders, family):
    base, others = family(2)
    file = folders.root / "edited.py"
    file.write_text(FIRST)
    with one_text():
        before = folders.merge(*others, base=base, method=f"{file}:rule")
        file.write_text(SECOND)
        during = folders.merge(*others, base=base, method=f"{file}:rule")
    after = folders.merge(*others, base=base, method=f"{file}:rule")
    assert [*map(named, (before, during, after))] == [sha256(FIRST), sha256(FIRST), sha256(SECOND)]
    assert content(before) == content(during) != content(after)
