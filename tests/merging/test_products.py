"""Products that are kept from the measurement of a tensor until it is merged: made once, the same bytes, within their room."""

import json
import threading

import numpy as np
import pytest
from checkpoints import content
from safetensors.numpy import save_file

from gtrturbo.merging import adapted, engine, magnitudes
from gtrturbo.merging.factored import Delta
from gtrturbo.merging.products import BufferPool, ProductCache

MODULES = {"layers.0.up_proj": (300, 40), "layers.0.down_proj": (40, 300), "layers.1.up_proj": (300, 40)}
ENTRIES = sum(rows * width for rows, width in MODULES.values())


@pytest.fixture
def adapters(folders):
    """Write a base in float32 and four adapters of rank 5 around it."""
    noise = np.random.default_rng(0)
    base = folders.write("base", {f"model.{name}.weight": noise.normal(size=shape) for name, shape in MODULES.items()}, "F32")
    paths = [folders.root / f"adapter{i}" for i in range(4)]
    config = {"peft_type": "LORA", "r": 5, "lora_alpha": 3, "base_model_name_or_path": str(base), "target_modules": "all-linear"}
    for path in paths:
        path.mkdir()
        tensors = {}
        for name, (rows, width) in MODULES.items():
            at = f"base_model.model.model.{name}"
            tensors[f"{at}.lora_A.weight"] = noise.normal(size=(5, width)).astype(np.float32)
            tensors[f"{at}.lora_B.weight"] = noise.normal(size=(rows, 5)).astype(np.float32)
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config))
    return base, paths


@pytest.fixture
def made(monkeypatch):
    """The number of entries of each product that is made, in blocks of 2000 entries, samples of rows among them."""
    monkeypatch.setattr(adapted, "BLOCK", 2000)
    monkeypatch.setattr(magnitudes, "FEW", 100)
    monkeypatch.setattr(magnitudes, "WORTH_SAMPLING", 5000)
    monkeypatch.setattr(magnitudes, "SAMPLE", 1000)
    counts, rows = [], Delta.rows

    def counted(self, first, last, out=None):
        counts.append((last - first) * self.right.shape[1])
        return rows(self, first, last, out)

    some_rows = Delta.some_rows

    def sampled(self, share):
        found = some_rows(self, share)
        counts.append(found.size)
        return found

    monkeypatch.setattr(Delta, "rows", counted)
    monkeypatch.setattr(Delta, "some_rows", sampled)
    return counts


METHODS = [{"density": "0.5"}, {"method": "breadcrumbs", "density": "0.5", "gamma": 0.2}, {"density": "0.5", "rank": 3}]


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_kept_products_give_the_bytes_of_products_that_are_made_again(monkeypatch, folders, adapters, made, settings):
    base, paths = adapters
    monkeypatch.setattr(engine, "KEPT", 0)
    expected = content(folders.merge(*paths, base=base, threads=1, **settings))
    for size, run, threads in (
        (8000, 2000, 3),
        (50_000, 1 << 14, 1),
        (50_000, 2000, 3),
        (1 << 20, 2000, 1),
        (1 << 20, 1 << 14, 3),
    ):
        monkeypatch.setattr(engine, "KEPT", size)
        monkeypatch.setattr(engine, "MERGE_RANGE", run)
        assert content(folders.merge(*paths, base=base, threads=threads, **settings)) == expected


def test_every_product_is_made_once_where_there_is_room(monkeypatch, folders, adapters, made):
    base, paths = adapters
    totals = {}
    for size in (0, 16_000, 1 << 20):
        monkeypatch.setattr(engine, "KEPT", size)
        made.clear()
        folders.merge(*paths, base=base, density="0.5", threads=1)
        totals[size] = sum(made)
    samples = totals[1 << 20] - 4 * ENTRIES
    assert 0 < samples < ENTRIES
    assert totals[16_000] < totals[0] and totals[0] >= 8 * ENTRIES + samples


def test_nothing_is_kept_for_methods_that_look_once_and_thresholds_that_are_known(monkeypatch, folders, adapters, made):
    base, paths = adapters
    monkeypatch.setattr(BufferPool, "take", lambda self: pytest.fail("a block was taken"))
    folders.merge(*paths, base=base, method="linear")
    folders.merge(*paths, base=base, method="task-arithmetic")
    monkeypatch.undo()
    cache = folders.root / "cache"
    expected = content(folders.merge(*paths, base=base, density="0.5", cache=cache))
    monkeypatch.setattr(BufferPool, "take", lambda self: pytest.fail("a block was taken"))
    assert content(folders.merge(*paths, base=base, density="0.5", cache=cache)) == expected


@pytest.mark.parametrize(("threads", "bytes_of_all"), [(2, 1 << 20), (3, 80_000)])
def test_room_is_bounded_and_used_again(threads, bytes_of_all, monkeypatch, folders, adapters, made):
    taken, most, lock = set(), [0], threading.Lock()
    take, give = BufferPool.take, BufferPool.give

    def taking(self):
        block = take(self)
        with lock:
            taken.update({block.ctypes.data} if block is not None else ())
            most[0] = max(most[0], len(taken))
        return block

    def giving(self, block):
        with lock:
            taken.remove(block.ctypes.data)
        give(self, block)

    monkeypatch.setattr(BufferPool, "take", taking)
    monkeypatch.setattr(BufferPool, "give", giving)
    monkeypatch.setattr(engine, "KEPT", 40_000)
    monkeypatch.setattr(engine, "MOST_KEPT", bytes_of_all)
    base, paths = adapters
    folders.merge(*paths, base=base, density="0.5", threads=threads)
    assert most[0] == 80_000 // (8 * 2000) and not taken


def test_a_shelf_keeps_whole_tiles_until_they_are_dropped():
    room = BufferPool(8 * 10 * 2, 10)
    shelf, other = ProductCache(room, 10, 25), ProductCache(room, 10, 25)
    assert shelf.place(0, 3) is None  # a sample of a tile
    block = shelf.place(0, 10)
    assert block is not None and block.shape == (10,)
    block[:] = np.arange(10)
    assert shelf.find(0, 3) is None and other.find(0, 10) is None
    assert np.array_equal(shelf.find(0, 10), np.arange(10))
    short = other.place(20, 25)  # the last tile
    assert short is not None and short.shape == (5,) and other.find(20, 25) is not None
    assert shelf.place(10, 20) is None  # All room is taken.
    shelf.drop(0)
    assert shelf.find(0, 10) is None and shelf.place(10, 20) is not None
