"""What does not fit is refused by name, and then nothing is written."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml
from checkpoints import SHAPES, read

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import engine
from gtrturbo.merging.kernel import compiled_kernel
from gtrturbo.merging.operands import Operand, TileRule
from gtrturbo.merging.recipes import as_options, read_recipe
from gtrturbo.store import open_files as files
from gtrturbo.store.open_files import StoredTile


def refused(folders, said: str, *checkpoints, **settings) -> GtrTurboError:
    before = sorted(path.name for path in folders.root.iterdir())
    with pytest.raises(GtrTurboError, match=said) as error:
        folders.merge(*checkpoints, **settings)
    assert sorted(path.name for path in folders.root.iterdir()) == before
    return error.value


@pytest.mark.parametrize("method", ["ties", "linear", "sce", "model-stock", "dare-ties", "slerp"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("who", ["base", "checkpoint"])
def test_a_nan_or_an_infinity_is_named_by_file_and_tensor(folders, family, method, dtype, who):
    base, others = family(2, dtypes=dtype)
    tensors = read(base if who == "base" else others[1])
    tensors["layers.0.bias"][-1] = np.inf if dtype == "F16" else np.nan
    bad = folders.write("bad", tensors, dtype)
    chosen = {"base": bad} if who == "base" else {"base": base}
    if method == "slerp" and who == "base":
        return  # Goes from one checkpoint to the other: no base is read.
    pair = others if who == "base" else [others[0], bad]
    refused(folders, rf"layers.0.bias in {bad} holds a NaN or an infinity", *pair, **chosen, method=method)


def broken(folders, path, change):
    file = path / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    return path


def header(raw: bytes) -> dict:
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def with_header(raw: bytes, change) -> bytes:
    text = json.dumps(change(header(raw))).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + int.from_bytes(raw[:8], "little") :]


def stretched(fields: dict) -> dict:
    fields["scalar"]["data_offsets"][1] += 4
    return fields


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[:-1], r"cannot be read: it has \d+ bytes, its header says"),
        (lambda raw: raw + b"x", r"cannot be read: it has \d+ bytes, its header says"),
        (lambda raw: raw[:5], "cannot be read: it has no header"),
        (lambda raw: b"", "cannot be read: it has no header"),
        (lambda raw: b"\xff" * 8 + raw[8:], "cannot be read: it has no header"),
        (lambda raw: raw[:8] + b"}" + raw[9:], "cannot be read"),
        (lambda raw: with_header(raw, lambda h: [1]), "its header is no JSON object"),
        (lambda raw: with_header(raw, lambda h: h | {"__metadata__": {"note": [1]}}), "__metadata__ is not made of texts"),
        (lambda raw: with_header(raw, lambda h: h | {"__metadata__": ["note"]}), "__metadata__ is not made of texts"),
        (lambda raw: with_header(raw, stretched), "scalar has 8 bytes for shape"),
        (
            lambda raw: with_header(raw, lambda h: h | {"scalar": h["scalar"] | {"dtype": "F8_E4M3"}}),
            "holds scalar as F8_E4M3: codes of quantised weights",
        ),
        (lambda raw: with_header(raw, lambda h: h | {"norm.weight": {"dtype": "F32"}}), "cannot be read"),
        (lambda raw: with_header(raw, lambda h: h | {"copy": h["scalar"]}), "does not follow the tensor before it"),
        (
            lambda raw: with_header(raw, lambda h: h | {"big": dict(h["scalar"], shape=[2**32, 2**32], data_offsets=[0, 0])}),
            "for shape",
        ),
    ],
    ids=range(14),
)
def test_a_damaged_file_is_named(folders, family, change, said):
    base, others = family(2)
    bad = broken(folders, others[1], change)
    assert str(bad / "model.safetensors") in refused(folders, said, others[0], bad, base=base).what


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(folders, family):
    base, others = family(2, shards=3)
    (others[1] / "model-2-of-3.safetensors").unlink()
    os.mkfifo(others[1] / "model-2-of-3.safetensors")
    refused(folders, r"model-2-of-3.safetensors is no regular file, but a pipe or a device", *others, base=base)


def test_a_missing_shard_is_named(folders, family):
    base, others = family(2, shards=3)
    (others[1] / "model-2-of-3.safetensors").unlink()
    refused(folders, r"model-2-of-3.safetensors does not exist", *others, base=base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: {"weight_map": index["weight_map"] | {"ghost": "model-1-of-2.safetensors"}}, "says that ghost lies in"),
        (lambda index: {"weight_map": index["weight_map"] | {"scalar": "model-2-of-2.safetensors"}}, "says that scalar lies in"),
        (
            lambda index: {"weight_map": index["weight_map"] | {"scalar": "../base0/model.safetensors"}},
            "which is no file beside it",
        ),
        (
            lambda index: {"weight_map": {name: file for name, file in index["weight_map"].items() if "1-of" in file}},
            r"names 1 of 2 files model-…: number 2 is left out",
        ),
        (lambda index: {}, "is damaged"),
        (lambda index: {"weight_map": [1, 2]}, "is damaged"),
    ],
)
def test_an_index_that_lies_is_refused(folders, family, change, said):
    base, others = family(1, shards=[1, 2])
    file = others[0] / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    assert index["weight_map"]["scalar"] == "model-1-of-2.safetensors"
    file.write_text(json.dumps(change(index)))
    refused(folders, said, others[0], base=base)


def test_one_tensor_in_two_shards_is_refused(folders, family):
    base, others = family(1, shards=[1, 2])
    whole = (base / "model.safetensors").read_bytes()
    (others[0] / "model-2-of-2.safetensors").write_bytes(whole)
    refused(folders, r"holds .* twice, in model-1-of-2.safetensors and model-2-of-2.safetensors", others[0], base=base)


def test_pickles_are_never_opened(folders, family):
    base, others = family(1)
    (others[0] / "model.safetensors").rename(others[0] / "pytorch_model.bin")
    assert "safetensors" in refused(folders, r"holds pickled weights .pytorch_model.bin.", others[0], base=base).fix
    (others[0] / "pytorch_model.bin").unlink()
    refused(folders, "holds no model.safetensors and no model.safetensors.index.json", others[0], base=base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"extra": np.zeros(1)}, r"has 1 tensors that the base lacks .first: extra."),
        (lambda t: {k: v for k, v in t.items() if k != "scalar"}, r"has 1 tensors fewer than the base .first: scalar."),
        (lambda t: t | {"scalar": np.zeros(1)}, r"scalar in .* has shape \[1\], in the base \[\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folders, family, change, said):
    base, others = family(1)
    refused(folders, said, folders.write("odd", change(read(others[0]))), base=base)


@pytest.mark.parametrize("tensors", [{}, {"ids": np.arange(3)}, {"none.weight": np.zeros((0, 3), np.float32)}])
def test_a_model_without_numbers_to_merge_is_refused(folders, tensors):
    kinds = {name: "I64" if value.dtype == np.int64 else "F32" for name, value in tensors.items()}
    paths = [folders.write(name, tensors, kinds) for name in ("base", "other")]
    with pytest.raises(GtrTurboError, match=r"nothing to merge: .*base holds no floating-point numbers"):
        folders.merge(paths[1], base=paths[0])
    assert not (folders.root / "merged1").exists()


@pytest.mark.parametrize("chosen", [{"exclude": ("*",)}, {"include": ("norm*",), "exclude": ("*.weight",)}])
def test_patterns_that_leave_nothing_are_refused(folders, family, chosen):
    base, others = family(1)
    with pytest.raises(GtrTurboError, match="leave nothing of the model to be merged"):
        folders.merge(*others, base=base, **chosen)


def test_numbers_and_integers_are_not_merged(folders):
    paths = [folders.write("b", {"w": np.ones(2)}, "F32"), folders.write("c", {"w": np.ones(2)}, "I64")]
    refused(folders, r"w in .* is of type I64, in the base F32", paths[1], base=paths[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"density": "0"}, r"density must be in \(0, 1\], got 0"),
        ({"density": "1.5"}, r"density must be in \(0, 1\]"),
        ({"density": "nan"}, r"density must be in \(0, 1\]"),
        ({"density": "much"}, "density must be"),
        ({"density": "0.5,0.5,0.5"}, "density has 3 numbers for 2 checkpoints"),
        ({"method": "task-arithmetic", "weights": "1,-1", "normalize": True}, "weights 1,-1 sum to 0"),
        ({"method": "linear", "weights": "0,0"}, "all weights of linear are 0"),
        ({"method": "nearswap"}, "nearswap merges one checkpoint, got 2"),
        ({"method": "della", "parameters": ("eps=0.1",)}, "della has no parameter eps"),
        ({"method": "della", "parameters": ("epsilon",)}, "parameters must be KEY=VALUE, got epsilon"),
        ({"method": "della", "parameters": ("epsilon=x",)}, "parameter epsilon must be a finite number"),
        ({"method": "della", "parameters": ("epsilon=1", "epsilon=2")}, "parameters set epsilon twice"),
        ({"method": "della", "density": "0.8", "parameters": ("epsilon=0.3",)}, "here 0.5 to 1.1, which must lie between"),
        ({"method": "ties", "parameters": ("epsilon=0.3",)}, "ties has no parameter epsilon"),
        ({"method": "linear", "trim": "global"}, "--trim global is for methods that keep the largest"),
        ({"method": "model-stock", "weights": "1,2"}, "weighs checkpoints itself"),
        ({"method": "sce", "normalize": False}, "has no --no-normalize"),
        ({"method": "slerp", "scale": 2.0}, "--scale is for task vectors"),
        ({"rank": 4}, "--rank and --parameters factors=true are for LoRA adapters"),
        ({"parameters": ("factors=true",)}, "--rank and --parameters factors=true are for LoRA adapters"),
        ({"seed": 3}, "ties leaves nothing to chance, got --seed 3"),
        ({"method": "breadcrumbs", "seed": 1}, "breadcrumbs leaves nothing to chance"),
        ({"include": ("nothing.*",)}, r"no tensor is called nothing\.\*"),
        ({"exclude": ("nothing",)}, "no tensor is called nothing"),
    ],
)
def test_settings_that_do_not_fit_are_named(folders, family, settings, said):
    base, others = family(2)
    refused(folders, said, *others, base=base, **settings)


@pytest.mark.parametrize(("method", "k"), [("slerp", 3), ("nuslerp", 1), ("model-stock", 1)])
def test_methods_for_a_number_of_checkpoints_say_so(folders, family, method, k):
    base, others = family(k)
    refused(folders, "got " + str(k), *others, base=base, method=method)


def test_opposite_directions_have_no_barycentre(folders):
    paths = [folders.write(f"m{i}", {"w": np.full(3, value)}) for i, value in enumerate((0.0, 1.0, -1.0, 1.0, -1.0))]
    refused(
        folders, "multislerp fails at w: the weighted sum of the directions is 0", *paths[1:], base=paths[0], method="multislerp"
    )


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_an_error_and_leaves_nothing(folders, family, monkeypatch, call):
    base, others = family(2)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, full)
        refused(folders, "cannot be written: its disk is full", *others, base=base)


def test_a_disk_that_is_too_small_is_seen_before_the_work(folders, family, monkeypatch):
    base, others = family(1)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("gtrturbo.merging.preview.shutil.disk_usage", lambda _: usage)
    refused(folders, r"has 0\.0 MB free, the merge needs", others[0], base=base)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", ["ties", "linear", "slerp"])
def test_a_file_that_shrinks_while_it_is_read_is_named(folders, family, monkeypatch, method, compiled):
    base, others = family(2)
    genuine = engine.Merge.run

    def run(self, threads):
        os.truncate(others[1] / "model.safetensors", 3000)
        return genuine(self, threads)

    monkeypatch.setattr(engine.Merge, "run", run)
    if not compiled:
        monkeypatch.setattr("gtrturbo.merging.stream.compiled_kernel", lambda: None)
    error = refused(folders, "became shorter while it was read", *others, base=base, method=method)
    assert str(others[1] / "model.safetensors") in str(error)


def test_a_file_that_the_disk_does_not_give_back_is_named(tmp_path):
    kernel = compiled_kernel()
    if kernel is None:
        pytest.skip("no C compiler")
    descriptor = os.open(tmp_path, os.O_RDONLY)  # Of a folder, which cannot be read as a file.
    stored = StoredTile(tmp_path, descriptor, 0, 5, np.dtype(np.float32))
    with pytest.raises(OSError, match="Is a directory") as error:
        kernel.combine(np.zeros(5, np.float32), [Operand(stored)], TileRule(), offset=0, out=np.zeros(5, np.float32))
    assert error.value.filename == str(tmp_path)
    os.close(descriptor)


def test_one_failing_job_ends_all_others(folders, family, monkeypatch):
    base, others = family(3)
    done = []

    def failing(self, target, first, last, prepared):
        if target.name == "embed.weight":
            raise GtrTurboError("broken")
        time.sleep(0.01)
        done.append(target.name)

    monkeypatch.setattr(engine.Merge, "_merge", failing)
    before = threading.active_count()
    refused(folders, "broken", *others, base=base, method="linear", threads=2)
    assert threading.active_count() == before and len(done) <= 2


def test_an_interrupt_ends_the_merge_at_once(folders, family):
    base, others = family(2, shapes={f"layer{i}": (300, 300) for i in range(60)})
    code = f"""
import os, sys, time
from pathlib import Path
from gtrturbo.config import MergeConfig
from gtrturbo.merging import engine
from gtrturbo.stages import execute
genuine = engine.Merge._merge
def slowly(self, *rest):
    os.write(1, b"begun\\n")
    time.sleep(0.5)
    genuine(self, *rest)
engine.Merge._merge = slowly
execute(MergeConfig(out=Path({str(folders.root / "out")!r}), base=Path({str(base)!r}),
        checkpoints=(Path({str(others[0])!r}), Path({str(others[1])!r})), method="linear", threads=2))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors and time.monotonic() - started < 8  # All would take 15 seconds.
    assert not (folders.root / "out").exists() and not list(folders.root.glob(".out*"))


def written(folders, **content):
    file = folders.root / "recipe.yaml"
    file.write_text(yaml.safe_dump({"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}]} | content))
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"merge_method": "rectify"}, "asks for rectify"),
        ({"models": [{"model": "m", "parameters": {"weight": 1}}, {"model": "n"}]}, "the recipe gives n no weight"),
        ({"parameters": {"rescale": True}}, "rescale is for dare and della, not for ties"),
        ({"merge_method": "slerp", "base_model": None, "parameters": {"t": 0.5}}, "slerp needs base_model"),
        ({"merge_method": "slerp"}, "slerp needs base_model, one other model and a parameter t"),
    ],
)
def test_a_recipe_that_asks_for_more_is_refused_by_name(folders, change, said):
    with pytest.raises(GtrTurboError, match=said):
        as_options(read_recipe(written(folders, **change)))


@pytest.mark.parametrize("text", ["a: [", "- 1", "models: []"])
def test_a_file_that_is_no_recipe_is_refused(folders, text):
    (folders.root / "recipe.yaml").write_text(text)
    with pytest.raises(GtrTurboError, match=r"line 1: expected|is no recipe"):
        read_recipe(folders.root / "recipe.yaml")


def test_a_recipe_and_an_option_that_both_set_something_are_refused(folders, family):
    base, others = family(1)
    file = written(folders, base_model=str(base), models=[{"model": str(others[0])}])
    refused(folders, "the recipe sets --method, and so does the command line", recipe=str(file), method="linear")
    refused(folders, "the recipe sets checkpoints, and so does the command line", others[0], recipe=str(file))


def test_a_recipe_takes_what_all_models_share_and_mergekits_defaults(folders):
    shared = {"weight": 0.5, "density": 0.3, "lambda": 0.9, "normalize": False}
    listed = [{"model": "m"}, {"model": "b"}, {"model": "n"}]
    options = as_options(read_recipe(written(folders, parameters=shared, models=listed)))
    assert options | {"checkpoints": None, "base": None} == {
        "method": "ties", "weights": "0.5,0.5", "density": "0.3", "scale": 0.9, "normalize": False,
        "checkpoints": None, "base": None,
    }  # fmt: skip
    assert [path.name for path in options["checkpoints"]] == ["m", "n"] and options["base"].name == "b"
    assert as_options(read_recipe(written(folders)))["density"] == "1"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b"}]}, "weight"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 0]}]}], "merge_method": "passthrough"}, "layer_range"),
        (
            {
                "models": [
                    {"model": "a", "parameters": {"weight": 1}},
                    {"model": "b", "parameters": {"weight": [{"filter": "no_such", "value": 1}]}},
                ]
            },
            r"the recipe gives /.*checkpoint0-1 no weight for ",
        ),
        (
            {"slices": [{"sources": [{"model": "b", "layer_range": [0, 9]}]}], "merge_method": "passthrough"},
            r"layer_range \[0, 9\] of /.*checkpoint0-1: it has 1 layers",
        ),
        ({"models": [{"model": "a"}, {"model": "wide"}]}, "shape"),
        ({"models": [{"model": "a"}, {"model": "quantised"}]}, "are quantised"),
    ],
)
def test_a_recipe_of_models_that_do_not_go_together_is_refused(folders, family, recipe, said):
    _, (a, b, quantised) = family(3)
    wide = folders.write("wide", {name: np.zeros((shape[0] + 1, *shape[1:]) if shape else ()) for name, shape in SHAPES.items()})
    (quantised / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    text = json.dumps({"merge_method": "linear"} | recipe)
    for name, path in {"a": a, "b": b, "wide": wide, "quantised": quantised}.items():
        text = text.replace(f'"model": "{name}"', f'"model": "{path}"')
    file = folders.root / "recipe.yml"
    file.write_text(text)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(recipe=str(file))
