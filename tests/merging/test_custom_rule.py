"""A merge rule of the user's own: found by name, run on tiles, checked, and refused where it does not go."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import content, read
from test_adapters import adapter, model  # noqa: F401
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import measuring, sources
from gtrturbo.merging.methods import METHODS, method_of
from gtrturbo.store.manifest import read_manifest

ROOT = Path(__file__).parents[2]
MEDIAN = f"{ROOT}/tests/plugins/median_rule.py:median"
HEAD = "import torch\nfrom gtrturbo.merging.methods import MergeRule\n\n"


@pytest.fixture
def rule(tmp_path):
    """Write a rule of one expression: rule("task_vectors[0]", "trims=True") -> the name to give to --method."""

    def write(expression: str, *settings: str) -> str:
        file = tmp_path / f"rule{len(list(tmp_path.glob('rule*')))}.py"
        made = ", ".join(["combine", *settings])
        file.write_text(f"{HEAD}def combine(task_vectors, weights):\n    return {expression}\n\n\nRULE = MergeRule({made})\n")
        return f"{file}:RULE"

    return write


def vectors(base: Path, others: list[Path]) -> dict[str, np.ndarray]:
    origin = read(base)
    return {name: np.stack([read(path)[name].astype(np.float64) - value for path in others]) for name, value in origin.items()}


def test_the_plug_in_is_a_rule_of_about_ten_lines():
    assert len((ROOT / "tests/plugins/median_rule.py").read_text().splitlines()) <= 10


def test_the_median_from_the_command_line_is_numpys(folders, family):
    base, others = family(3)
    out = folders.root / "out"
    command = [sys.executable, "-m", "gtrturbo", "merge", "--method", "tests/plugins/median_rule.py:median", "--verify", "5"]
    done = subprocess.run([*command, "--base", base, "--out", out, *others], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == f"{out}\n" and "verified: 5 tensors" in done.stderr
    for name, moved in vectors(base, others).items():
        assert np.abs(read(out)[name] - (read(base)[name] + np.median(moved, axis=0))).max() <= 1e-6


def test_the_median_in_bfloat16_is_numpys(folders, family):
    base, others = family(3, dtypes="BF16")
    out = folders.merge(*others, base=base, method=f"{ROOT / 'tests/plugins/median_rule.py'}:median", verify=5)
    for name, moved in vectors(base, others).items():
        expected = read(base)[name] + np.median(moved, axis=0)
        assert np.abs(read(out)[name] - expected).max() <= 2**-8 * np.abs(expected).max()


def test_threads_tiles_and_shards_do_not_change_its_bytes(folders, family, monkeypatch):
    base, others = family(3, dtypes="BF16", shards=2)
    one = folders.merge(*others, base=base, method=MEDIAN, threads=1)
    four = folders.merge(*others, base=base, method=MEDIAN, threads=4)
    monkeypatch.setattr(sources, "SPOT", 1 << 14)
    tiled = folders.merge(*others, base=base, method=MEDIAN, threads=3)
    assert content(one) == content(four) == content(tiled)
    assert (one / "stage.json").read_bytes() == (four / "stage.json").read_bytes()


def test_the_manifest_names_the_rule_by_its_text_wherever_it_lies(folders, family, tmp_path):
    base, others = family(3)
    text = Path(MEDIAN.rpartition(":")[0]).read_bytes()
    outs = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "median_rule.py").write_bytes(text)
        outs.append(folders.merge(*others, base=base, method=f"{tmp_path}/{folder}/median_rule.py:median"))
    assert (outs[0] / "stage.json").read_bytes() == (outs[1] / "stage.json").read_bytes()
    manifest = read_manifest(outs[0])
    assert manifest.config["method"] == "median_rule.py:median"
    assert manifest.plugins == {"method": {"name": "median_rule.py:median", "sha256": hashlib.sha256(text).hexdigest()}}


def test_adapters_merge_in_the_space_of_what_they_stand_for(folders, model):  # noqa: F811
    paths = [folders.root / f"adapter{seed}" for seed in range(3)]
    merged = [adapter(path, model, seed=seed).merge_and_unload().state_dict() for seed, path in enumerate(paths)]
    found = read(folders.merge(*paths, method=MEDIAN, verify=99))
    base = read(model)
    for name, value in base.items():
        moved = np.stack([tensors[name].detach().numpy().astype(np.float64) - value for tensors in merged])
        assert np.abs(found[name] - (value + np.median(moved, axis=0))).max() < 1e-6, name


def test_a_rank_cuts_what_a_rule_merged(folders, model):  # noqa: F811
    paths = [folders.root / f"adapter{seed}" for seed in range(3)]
    for seed, path in enumerate(paths):
        adapter(path, model, seed=seed)
    whole = folders.merge(*paths, method=MEDIAN, rank=32)
    assert read_manifest(whole).metrics["rank_error"] < 1e-5
    assert (whole / "adapter_model.safetensors").is_file()
    assert 0.1 < read_manifest(folders.merge(*paths, method=MEDIAN, rank=4)).metrics["rank_error"] < 1


def test_weights_sum_to_one_unless_told_otherwise_and_scale_counts(folders, family, rule):
    base, others = family(2)
    weighted = rule("(weights[:, None] * task_vectors).sum(dim=0)")
    plain = rule("(weights[:, None] * task_vectors).sum(dim=0)", "normalizes=False")
    for method, settings, factors in (
        (weighted, {}, (0.5, 0.5)),
        (weighted, {"weights": "1,3", "scale": 2.0}, (0.5, 1.5)),
        (weighted, {"weights": "1,3", "normalize": False}, (1, 3)),
        (plain, {"weights": "1,3"}, (1, 3)),
    ):
        found = read(folders.merge(*others, base=base, method=method, **settings))
        for name, (first, second) in vectors(base, others).items():
            assert np.abs(found[name] - read(base)[name] - factors[0] * first - factors[1] * second).max() < 1e-6


def test_a_rule_that_trims_sees_what_density_keeps_and_shares_the_cache_of_ties(folders, family, rule, monkeypatch):
    base, others = family(3)
    trimming, cache = rule("task_vectors.sum(dim=0)", "trims=True"), folders.root / "cache"
    out = folders.merge(*others, base=base, method=trimming, density="0.3", cache=cache, verify=9)
    for name, moved in vectors(base, others).items():
        flat = moved.reshape(3, -1)
        least = np.sort(np.abs(flat))[:, ::-1][:, max(1, int(0.3 * flat.shape[1])) - 1, None]
        expected = np.where(np.abs(flat) >= least, flat, 0).sum(axis=0).reshape(moved.shape[1:])
        assert np.abs(read(out)[name] - read(base)[name] - expected).max() < 1e-6
    assert read_manifest(out).metrics["kept"] == pytest.approx(0.3, abs=0.01)
    monkeypatch.setattr(measuring, "kth_largest", lambda *_: pytest.fail("a threshold was measured again"))
    assert content(folders.merge(*others, base=base, method=trimming, density="0.3", cache=cache)) == content(out)
    folders.merge(*others, base=base, method="ties", density="0.3", cache=cache)
    # Files of earlier versions name the way of trimming by its method, and are still found.
    keys = [json.loads(path.read_text())["question"]["method"] for path in cache.glob("*.json") if path.name != "hashes.json"]
    assert keys == ["ties"] * 3


def test_what_is_reported_is_that_of_numpy(folders, family, rule):
    base, others = family(2)
    metrics = read_manifest(folders.merge(*others, base=base, method=rule("3 * task_vectors[0]"))).metrics
    first, second = np.concatenate([moved.reshape(2, -1) for moved in vectors(base, others).values()], axis=1)
    mean = (first + second) / 2
    assert metrics["delta_norm"] == pytest.approx(3 * np.linalg.norm(first), rel=1e-5)
    assert metrics["norm_ratio"] == pytest.approx(3 * np.linalg.norm(first) / np.linalg.norm(mean), rel=1e-5)
    assert metrics["cosine"] == pytest.approx(first @ mean / np.linalg.norm(first) / np.linalg.norm(mean), rel=1e-5)
    assert metrics["changed"] == 1 and not {"kept", "conflicts"} & metrics.keys()


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("task_vectors", r"it returned shape \[2, (2400|1600|40|1)\] for task vectors \[2, (2400|1600|40|1)\]\.$"),
        ("task_vectors.sum()", r"it returned shape \[\] for"),
        ("task_vectors[0] / 0", "it returned a NaN or an infinity"),
        ("task_vectors[0] > 0", "it returned torch.bool, which is no floating-point type"),
        ("task_vectors[0].tolist()", "it returned list, not a tensor"),
        ("task_vectors[7]", r"rule0\.py line 5 raises IndexError: .*\nreturn task_vectors\[7\]"),
        # Raised in a file of torch's, shown at the user's own line.
        ("torch.einsum('ij->k', task_vectors)", r"rule0\.py line 5 raises RuntimeError: .*\nreturn torch\.einsum"),
    ],
)
def test_a_rule_that_fails_is_one_error_that_names_the_tensor(folders, family, rule, expression, said):
    base, others = family(2)
    method = rule(expression)
    with pytest.raises(GtrTurboError, match=said) as error:
        folders.merge(*others, base=base, method=method)
    assert error.value.what.startswith(f"{method} fails at ") and str(error.value).count("\n") <= 1
    assert any(f"fails at {name}: " in error.value.what for name in read(base))
    assert not (folders.root / "merged1").exists()


def test_verifying_finds_a_rule_that_depends_on_the_tile(folders, family, rule, monkeypatch):
    monkeypatch.setattr(sources, "SPOT", 1 << 10)
    base, others = family(2)
    method = rule("task_vectors[0] / task_vectors.norm()")
    with pytest.raises(GtrTurboError, match="differs from the reference"):
        folders.merge(*others, base=base, method=method, verify=9)


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"parameters": ("factors=true",)}, "--parameters factors=true"),
    ],
)
def test_what_a_rule_does_not_go_with_is_refused_by_name(folders, family, settings, option):
    base, others = family(2)
    with pytest.raises(GtrTurboError) as error:
        folders.merge(*others, base=base, method=MEDIAN, **settings)
    assert error.value.what == f"{option} is for methods that are built in, not for {MEDIAN}."
    assert not (folders.root / "merged1").exists()


def test_a_rule_of_more_than_sums_is_refused_by_name_where_sums_are_kept(folders, family):
    base, others = family(2)
    with pytest.raises(GtrTurboError) as error:
        folders.merge(*others, base=base, method=MEDIAN, state=folders.root / "state")
    assert (
        error.value.what == f"--state keeps the running sums of ties, or of a rule of your own that has `sums`, not of {MEDIAN}."
    )
    assert not (folders.root / "merged1").exists() and not (folders.root / "state").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--method tiess", ["there is no merge rule 'tiess'.", "did you mean ties? built in: ties, linear, "]),
        ("--method nowhere.py:rule", ["there is no file nowhere.py to take a merge rule from.", ""]),
        (f"--method {ROOT}/tests/plugins/median_rule.py:mean", ["median_rule.py has no mean to be a", "spelt alike: median."]),
        (f"--method {ROOT}/tests/plugins/median_rule.py:__doc__", ["is no merge rule but of type str.", "it must be a function"]),
    ],
)
def test_a_name_that_is_none_is_refused_before_any_work(line, said):
    result = CliRunner().invoke(app, ["merge", *line.split(), "--out", "o", "--base", "b", "c"])
    assert result.exit_code == 2
    for expected, found in zip(said, result.stderr.splitlines(), strict=False):
        assert expected in found


def test_a_function_of_other_arguments_is_refused_by_its_signature(tmp_path):
    (tmp_path / "one.py").write_text("def rule(task_vectors):\n    return task_vectors[0]\n")
    with pytest.raises(GtrTurboError, match=re.escape("one.py:rule cannot be called as a merge rule: too many positional")):
        method_of(f"{tmp_path}/one.py:rule")


def test_a_rule_may_be_an_importable_module_too(folders, family, tmp_path, monkeypatch):
    (tmp_path / "rules_of_mine.py").write_text("def first(task_vectors, weights):\n    return task_vectors[0]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    base, others = family(2)
    found = read(folders.merge(*others, base=base, method="rules_of_mine:first"))
    assert all(np.abs(found[name] - value).max() < 1e-6 for name, value in read(others[0]).items())


def test_every_built_in_method_has_one_record_and_no_rule_of_a_users():
    assert len(METHODS) == 23 and not any(method.own for method in METHODS.values())
    assert all(method_of(name) is method for name, method in METHODS.items())
