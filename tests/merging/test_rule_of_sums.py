"""A user's rule that needs sums alone: --state keeps them, and the merge is that from scratch, byte for byte."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import content, read
from safetensors.numpy import load_file
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import sources
from gtrturbo.merging.methods import MergeRule, method_of
from gtrturbo.store.manifest import read_manifest

ROOT = Path(__file__).parents[2]
SPREAD = f"{ROOT}/tests/plugins/spread_rule.py:RULE"


def vectors(base, others) -> dict[str, np.ndarray]:
    return {
        name: np.stack([read(path)[name].astype(np.float64) - value for path in others]) for name, value in read(base).items()
    }


def expected(base, others, weights=None) -> dict[str, np.ndarray]:
    """The merge in NumPy: θ_base + sign(Σ w δ) · sqrt(Σ w δ² / Σ w)."""
    found = {}
    for name, moved in vectors(base, others).items():
        w = np.ones(len(others)) if weights is None else np.array(weights, dtype=np.float64)
        w = w.reshape(-1, *[1] * (moved.ndim - 1))
        found[name] = read(base)[name] + np.sign((w * moved).sum(axis=0)) * np.sqrt((w * moved**2).sum(axis=0) / w.sum())
    return found


def close(out, wanted) -> bool:
    return all(np.abs(read(out)[name] - value).max() <= 1e-6 for name, value in wanted.items())


def test_from_scratch_it_is_numpys_and_verified_on_the_whole_tensor(folders, family):
    base, others = family(3)
    words = ["merge", "--method", SPREAD, "--base", str(base), "--out", str(folders.root / "out"), "--verify", "9"]
    done = CliRunner().invoke(app, [*words, *map(str, others)])
    assert done.exit_code == 0 and "verified: " in done.stderr, done.output
    assert close(folders.root / "out", expected(base, others))
    weighted = folders.merge(*others, base=base, method=SPREAD, weights="1,2,3", verify=9)
    assert close(weighted, expected(base, others, [1, 2, 3]))


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1], [2, 3], [5, 0], [4, 1]])
@pytest.mark.parametrize("settings", [{}, {"scale": 0.5}], ids=["plain", "scaled"])
def test_running_sums_of_a_rule_give_the_merge_from_scratch_byte_for_byte(folders, family, chunks, settings):
    base, others = family(5, dtypes="BF16", shards=2)
    state, done = folders.root / "state", 0
    for count in chunks:
        done += count
        out = folders.merge(*others[:done], base=base, method=SPREAD, state=state, **settings)
    assert content(out) == content(folders.merge(*others, base=base, method=SPREAD, **settings))
    assert read_manifest(out).metrics["checkpoints"] == 5
    moved = vectors(base, others)
    for number, of in enumerate((lambda m: m.sum(axis=0), lambda m: (m**2).sum(axis=0), lambda m: np.full(m.shape[1:], 5.0))):
        kept = load_file(state / f"sum{number}.safetensors")
        assert all(np.abs(kept[name] - of(moved[name])).max() < 1e-9 for name in moved)


def test_threads_and_tiles_do_not_change_its_bytes_in_a_state_either(folders, family, monkeypatch):
    base, others = family(3, dtypes="BF16", shards=2)
    one = [folders.merge(*others[:n], base=base, method=SPREAD, threads=1, state=folders.root / "one") for n in (1, 3)]
    monkeypatch.setattr(sources, "SPOT", 1 << 14)
    other = [folders.merge(*others[:n], base=base, method=SPREAD, threads=3, state=folders.root / "other") for n in (1, 3)]
    assert [content(path) for path in one] == [content(path) for path in other]


def test_a_state_of_another_rule_or_of_another_text_of_it_is_refused(folders, family, tmp_path):
    base, others = family(2)
    state, own = folders.root / "state", tmp_path / "own.py"
    text = Path(SPREAD.rpartition(":")[0]).read_text()
    own.write_text(text)
    folders.merge(others[0], base=base, method=f"{own}:RULE", state=state)
    own.write_text(text + "# changed\n")
    with pytest.raises(
        GtrTurboError, match=r"was begun with --method own\.py:RULE of sha256 \w+, not with own\.py:RULE of sha256"
    ):
        folders.merge(*others, base=base, method=f"{own}:RULE", state=state)
    with pytest.raises(GtrTurboError, match=r"was begun with --method own\.py:RULE of sha256 \w+, not with ties\."):
        folders.merge(*others, base=base, density="1", state=state)
    folders.merge(others[0], base=base, density="1", state=folders.root / "ties")
    with pytest.raises(GtrTurboError, match=r"was begun with --method ties, not with own\.py:RULE"):
        folders.merge(*others, base=base, method=f"{own}:RULE", state=folders.root / "ties", density="1")


@pytest.mark.parametrize(
    "settings", [{"weights": "ema:0.5"}, {"weights": "1,2"}, {"normalize": False}, {"density": "0.5,0.6"}], ids=str
)
def test_what_the_sums_of_a_rule_do_not_hold_is_refused(folders, family, settings):
    base, others = family(2)
    with pytest.raises(GtrTurboError, match="with weights sma, no parameters and one density"):
        folders.merge(*others, base=base, method=SPREAD, state=folders.root / "state", **settings)


@pytest.mark.parametrize("method", [SPREAD, "ties"])
def test_a_state_reads_no_old_checkpoint_to_verify_with(folders, family, method):
    base, others = family(2)
    with pytest.raises(GtrTurboError, match="--verify reads all checkpoints, and --state only new ones"):
        folders.merge(*others, base=base, method=method, state=folders.root / "state", verify=3)


def add(sums, task_vector, weight):
    return sums + weight * task_vector


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (MergeRule(lambda sums: sums[0], sums=1), "has sums alone"),
        (MergeRule(lambda sums: sums[0], add=add), "has add alone"),
        (MergeRule(lambda sums, weights: sums[0], sums=1, add=add), "cannot be called as a merge rule"),
        (MergeRule(lambda sums, *, noise: sums[0], sums=1, add=add), "is a rule of sums, and asks for noise"),
        (MergeRule(lambda sums: sums[0], sums=1, add=add, rows="last"), "is a rule of sums, and asks for rows"),
        (MergeRule(lambda sums: sums[0], sums=1, add=lambda sums, vector: sums), "cannot be called as a merge rule"),
    ],
)
def test_a_rule_of_sums_that_is_not_whole_is_refused(rule, said):
    with pytest.raises(GtrTurboError, match=said):
        method_of(rule)


@pytest.mark.parametrize(
    ("adds", "combine", "said"),
    [
        ("sums[0]", "sums[0]", r"it returned shape \[(2400|1600|40|1)\] for sums \[2, (2400|1600|40|1)\]"),
        ("sums", "sums", r"it returned shape \[2, (2400|1600|40|1)\] for sums \[2, (2400|1600|40|1)\]"),
        ("sums", "sums[0] / 0", "it returned a NaN or an infinity"),
        ("sums[9]", "sums[0]", r"line 5 raises IndexError"),
    ],
)
def test_a_rule_of_sums_that_fails_is_one_error_that_names_the_tensor(folders, family, tmp_path, adds, combine, said):
    base, others = family(2)
    (tmp_path / "r.py").write_text(
        f"from gtrturbo.merging.methods import MergeRule\n\n\ndef add(sums, vector, weight):\n    return {adds}\n\n\n"
        f"RULE = MergeRule(lambda sums: {combine}, sums=2, add=add)\n"
    )
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(*others, base=base, method=f"{tmp_path}/r.py:RULE", state=folders.root / "state")
    assert not (folders.root / "state").exists()


def test_checkpoints_of_a_state_are_named_as_they_were_added(folders, family, tmp_path):
    """A running average: what `add` does may depend on the order, and nobody can tell."""
    (tmp_path / "rule.py").write_text(
        "from torch import stack\nfrom gtrturbo.merging.methods import MergeRule\n"
        "RULE = MergeRule(lambda sums: sums[0], sums=1, add=lambda sums, vector, weight: sums * 0.5 + weight * stack([vector]))\n"
    )
    base, others = family(2)
    asked = {"base": base, "method": f"{tmp_path / 'rule.py'}:RULE", "state": folders.root / "state"}
    folders.merge(*others, **asked)
    folders.merge(*others, **asked)
    with pytest.raises(GtrTurboError, match="in another order"):
        folders.merge(*others[::-1], **asked)
