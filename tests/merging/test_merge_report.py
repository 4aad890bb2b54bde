"""What a merge says of itself before and after, through the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SHAPES, Folders, content, noisy, read
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gtrturbo.merging import sources
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.lineage import on_disk
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "gtrturbo", "merge", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | environment)


def by_numpy(base, others, *, density: float) -> dict[str, float]:
    """The metrics of TIES with equal weights, over all tensors, by their definitions."""
    squares = np.zeros(3)
    entries = conflicts = kept = changed = 0
    for name, origin in base.items():
        moved = [other[name].astype(np.float64) - origin for other in others]
        least = [np.sort(np.abs(d), axis=None)[::-1][max(1, int(density * d.size)) - 1] for d in moved]
        trimmed = [np.where(np.abs(d) >= low, d, 0) for d, low in zip(moved, least, strict=True)]
        plus, minus = (sum((sign * d > 0) * d for d in trimmed) for sign in (1, -1))
        ups, downs = (sum((sign * d > 0).astype(int) for d in trimmed) for sign in (1, -1))
        merged = np.where(plus + minus >= 0, plus / np.maximum(ups, 1), minus / np.maximum(downs, 1))
        mean = sum(moved) / len(moved)
        squares += [(merged**2).sum(), (mean**2).sum(), (merged * mean).sum()]
        entries += origin.size
        conflicts += ((ups > 0) & (downs > 0)).sum()
        kept += sum(np.count_nonzero(d) for d in trimmed)
        changed += sum(np.count_nonzero(d) for d in moved)
    return {
        "delta_norm": squares[0] ** 0.5,
        "mean_delta_norm": squares[1] ** 0.5,
        "norm_ratio": (squares[0] / squares[1]) ** 0.5,
        "cosine": squares[2] / (squares[0] * squares[1]) ** 0.5,
        "conflicts": conflicts / entries,
        "kept": kept / entries / len(others),
        "changed": changed / entries / len(others),
        "checkpoints": len(others),
    }


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_metrics_are_those_of_numpy(folders, family, monkeypatch, dtype):
    monkeypatch.setattr(sources, "TILE", 1 << 14)
    base, others = family(3, dtypes=dtype, scale=0.01, shapes=SHAPES | {"long": (50_000,)})
    out = folders.merge(*others, base=base, density="0.6")
    expected = by_numpy(read(base), [read(other) for other in others], density=0.6)
    assert read_manifest(out).metrics == pytest.approx(expected, rel=1e-5)
    assert (expected["changed"] < 0.99) == (dtype == "BF16")


def test_the_metrics_of_weights_that_are_not_equal_are_those_of_the_weighted_mean(folders, family):
    base, others = family(2)
    metrics = read_manifest(folders.merge(*others, base=base, method="linear", weights="1,3")).metrics
    assert (metrics["norm_ratio"], metrics["cosine"], metrics["conflicts"]) == (1, 1, 0)
    doubled = read_manifest(folders.merge(*others, base=base, method="task-arithmetic", weights="1,3", scale=2.0)).metrics
    # Twice the sum of weight 4 over the mean of it: 8.
    assert doubled["norm_ratio"] == pytest.approx(8, rel=1e-5)
    assert doubled["mean_delta_norm"] == metrics["mean_delta_norm"]


def test_a_merge_that_read_only_new_checkpoints_claims_no_more(folders, family):
    base, others = family(2)
    folders.merge(others[0], base=base, state=folders.root / "state")
    metrics = read_manifest(folders.merge(others[1], base=base, state=folders.root / "state")).metrics
    assert metrics.keys() == {"checkpoints", "delta_norm", "conflicts"}
    whole = read_manifest(folders.merge(*others, base=base)).metrics
    assert {name: whole[name] for name in metrics} == metrics


def test_a_density_that_trims_nothing_is_said(folders, capsys):
    moved = np.zeros(100)
    moved[:30] = 1.0
    paths = [folders.write("b", {"w": np.zeros(100)}), folders.write("c", {"w": moved})]
    folders.merge(paths[1], base=paths[0], density="0.5")
    said = " ".join(capsys.readouterr().err.split())
    assert "density 0.5 trims nothing in 1 tensors: 70% of all entries are as in the base." in said
    folders.merge(paths[1], base=paths[0], density="0.3")
    assert "trims nothing" not in capsys.readouterr().err


def test_the_card_names_command_inputs_numbers_and_what_moved_most(folders):
    base = {f"layer{i}": np.ones(10) for i in range(7)}
    other = {name: value + 0.1 * (i + 1) * (i < 6) for i, (name, value) in enumerate(base.items())}
    paths = [folders.write("b", base), folders.write("c", other)]
    out = folders.merge(paths[1], paths[1], base=paths[0], weights="1,3", density="1", scale=0.5, exclude=("layer5",))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- merge\n- gtrturbo\n---\n")
    assert "`gtrturbo merge --method ties --weights 1,3 --density 1 --scale 0.5 --exclude layer5`" in card
    assert f"Base: `{artifact_id(paths[0])}`" in card
    for number, share in ((1, "0.25"), (2, "0.75")):
        assert f"| {number} | `{artifact_id(paths[1])}` | {share} |" in card
    metrics = read_manifest(out).metrics
    assert all(f"| {name.replace('_', ' ')} | {value:.6g} |" in card for name, value in metrics.items())
    # Each moved by 0.1 (i + 1) of ones, halved; layer5 is left out, layer6 did not move.
    moved = card.split("‖ΔW‖ / ‖W‖:\n\n")[1]
    assert moved == "- `layer4` 0.25\n- `layer3` 0.2\n- `layer2` 0.15\n- `layer1` 0.1\n- `layer0` 0.05\n"


def test_only_and_exclude_choose_tensors_by_pattern(folders, family):
    base, others = family(1)
    found = read(folders.merge(others[0], base=base, density="1", include=("layers.*", "norm*"), exclude=("*.bias",)))
    moved = {name for name, value in read(base).items() if not np.array_equal(found[name], value)}
    assert moved == {"layers.0.weight", "norm.weight"}


def test_a_dry_run_says_what_it_would_read_and_write_and_does_nothing(folders, family):
    base, others = family(3, dtypes="BF16", shards=2)
    before = sorted(folders.root.rglob("*"))
    done = command("--dry-run", "--threads", 2, "--base", base, "--out", folders.root / "out", *others, "--exclude", "scalar")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["method"] == f"ties of 3 checkpoints around {base}"
    assert lines["tensors"] == "4 merged (4,080 parameters), 1 copied"
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    assert lines["reads"] == f"{4 * size / 1e6:.1f} MB, twice"
    assert lines["writes"] == f"{size / 1e6:.1f} MB to {folders.root / 'out'}"
    assert "2 threads" in lines["memory"] and "MB beside the interpreter" in lines["memory"]
    assert sorted(folders.root.rglob("*")) == before


def test_the_command_prints_the_path_and_verifies(folders, family):
    base, others = family(2)
    out = folders.root / "out"
    done = command("--base", base, "--out", out, *others, "--verify", 3, "--density", "0.8,0.5")
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    assert "verified: 3 tensors equal the reference to one unit in the last place." in done.stderr
    assert "norm_ratio" in done.stderr
    bad = command("--base", base, "--out", folders.root / "other", others[0], "--method", "slerp")
    assert bad.returncode == 1 and "slerp merges two checkpoints, got 1." in bad.stderr


@pytest.mark.skipif(compiled_kernel() is None, reason="no C compiler")
def test_a_merge_imports_no_torch_where_there_is_a_compiler(folders, family):
    base, others = family(2)
    code = f"""
import sys
from pathlib import Path
from gtrturbo.config import MergeConfig
from gtrturbo.stages import execute
execute(MergeConfig(out=Path({str(folders.root / "out")!r}), base=Path({str(base)!r}), checkpoints=(Path({str(others[0])!r}),)))
print(*{{"torch", "transformers", "peft"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_a_base_is_taken_from_the_local_cache_by_its_id(folders, family):
    base, others = family(1)
    hub = folders.root / "hub"
    snapshot = hub / "models--maker--model" / "snapshots" / "a"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(base, snapshot)
    (hub / "models--maker--model" / "refs").mkdir()
    (hub / "models--maker--model" / "refs" / "main").write_text("a")
    settings = {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    done = command("--base", "maker/model", "--out", folders.root / "out", others[0], **settings)
    assert done.returncode == 0, done.stderr
    assert content(folders.root / "out") == content(folders.merge(others[0], base=base))
    bad = command("--base", "maker/other", "--out", folders.root / "bad", others[0], **settings)
    assert bad.returncode == 1 and "maker/other is no folder, and cannot be fetched" in bad.stderr
    assert on_disk(Path("a/b/c")) == Path("a/b/c")  # No id: a folder that is not there.


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> tuple[Path, list[Path]]:
    """A small Qwen2 with tied embeddings and a tokenizer's files, and two variants."""
    config = Qwen2Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    root, paths = tmp_path_factory.mktemp("tied"), []
    for number in range(3):
        torch.manual_seed(number)
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(root / f"model{number}")
        paths.append(root / f"model{number}")
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "processor_config.json", "LICENSE", "configuration.py"):
        (paths[0] / name).write_text(f'{{"name": "{name}"}}')
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin", "pytorch_model.bin"):
        (paths[0] / name).write_text(name)
    return paths[0], paths[1:]


def test_the_output_loads_in_plain_transformers_with_tied_weights_and_the_bases_files(folders, tied):
    base, others = tied
    out = folders.merge(*others, base=base)
    assert "lm_head.weight" not in read(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            assert np.array_equal(value.float().numpy(), read(out)[name]), name
    names = {path.name for path in out.iterdir()}
    assert names == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "merges.txt",
        "processor_config.json", "LICENSE", "configuration.py", "README.md", "stage.json", "timing.json", "moved.json",
    }  # fmt: skip
    assert all((out / name).read_text() == (base / name).read_text() for name in ("tokenizer.json", "merges.txt", "LICENSE"))


def test_the_same_inputs_give_the_same_artifact(family, folders, tmp_path_factory):
    base, others = family(2, dtypes="BF16")
    outs = [folders.merge(*others, base=base, threads=threads) for threads in (1, 4)]
    assert (outs[0] / "stage.json").read_bytes() == (outs[1] / "stage.json").read_bytes()
    elsewhere = Folders(tmp_path_factory.mktemp("elsewhere"))
    tensors, moved = noisy({"w": (30,)}, 1)
    pairs = [[place.write(*pair) for pair in (("b", tensors), ("c", moved[0]))] for place in (folders, elsewhere)]
    manifests = [json.loads((folders.merge(pair[1], base=pair[0]) / "stage.json").read_text()) for pair in pairs]
    assert manifests[0] == manifests[1]  # No path, no clock, no host.


def test_shares_are_of_all_vectors_that_a_recipe_merges(folders, family, tmp_path):
    """The base among them, which is no checkpoint. By hand: of two vectors each entry of one differs, and counts."""
    base, (other,) = family(1)
    recipe = tmp_path / "sum.yml"
    models = f"[{{model: {base}}}, {{model: {other}, parameters: {{weight: [{{value: 0.5}}]}}}}]"
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {base}\nmodels: {models}\n")
    for text in (recipe.read_text(), recipe.read_text().replace("[{value: 0.5}]", "[{filter: norm, value: 0.1}, {value: 0.5}]")):
        recipe.write_text(text)
        metrics = read_manifest(folders.merge(recipe=str(recipe))).metrics
        assert metrics["checkpoints"] >= 1 and metrics["kept"] == metrics["changed"] == 1
