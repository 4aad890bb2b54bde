"""Merging again with what was kept: running sums, cached thresholds. Both equal the merge from scratch."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import content, read

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging import incremental, measuring
from gtrturbo.merging.state import claimed, read_state, replaced
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.open_files import Files


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("chunks", [[1] * 5, [2, 3], [4, 1], [1, 1, 40]])
def test_running_sums_equal_the_merge_from_scratch_byte_for_byte(folders, family, dtype, chunks):
    base, others = family(5, dtypes=dtype)
    # Copies are enough to make it many: they agree in all signs with one another, and not with the rest.
    others = [*others[: sum(chunks[:2])], *(others[i % 5] for i in range(sum(chunks[2:])))]
    others = others[: sum(chunks)]
    state, done = folders.root / "state", 0
    for count in chunks:
        fresh, done = distinct(folders, others[done : done + count], done), done + count
        out = folders.merge(*fresh, base=base, density="0.5", state=state)
    assert content(out) == content(folders.merge(*others, base=base, density="0.5"))
    assert read_manifest(out).metrics["checkpoints"] == sum(chunks)


def distinct(folders, paths, start):
    """Copies of checkpoints with other ids: a state takes each checkpoint once."""
    copies = []
    for number, path in enumerate(paths, start):
        copies.append(folders.root / f"copy{number}")
        shutil.copytree(path, copies[-1])
        (copies[-1] / "config.json").write_text(json.dumps({"number": number}))
    return copies


@pytest.mark.parametrize("alpha", [0.5, 0.1, 1.0])
def test_running_sums_of_ema_differ_by_rounding_alone(folders, family, alpha):
    base, others = family(6, dtypes="F64", shapes={"w": (4000,)})
    state = folders.root / "state"
    for chunk in (others[:1], others[1:4], others[4:]):
        out = folders.merge(*chunk, base=base, weights=f"ema:{alpha}", density="0.5", state=state)
    found, expected = read(out)["w"], read(folders.merge(*others, base=base, weights=f"ema:{alpha}", density="0.5"))["w"]
    # Six terms of order 1, each rounded a few times: 1e-14. A vote that cancels to that could go either way; none does here.
    assert np.abs(found - expected).max() <= 1e-14


def test_a_state_needs_no_checkpoint_that_it_holds(folders, family):
    base, others = family(3, dtypes="BF16")
    expected = content(folders.merge(*others, base=base))
    state = folders.root / "state"
    folders.merge(*others[:2], base=base, state=state)
    for path in others[:2]:
        shutil.rmtree(path)
    out = folders.merge(others[2], base=base, state=state)
    assert content(out) == expected
    assert read_manifest(out).inputs["checkpoints"] == json.loads((state / "state.json").read_text())["checkpoints"]


def test_a_checkpoint_counts_once_however_often_it_is_named(folders, family):
    base, others = family(2)
    state = folders.root / "state"
    first = folders.merge(others[0], base=base, state=state)
    before = content(state)
    again = folders.merge(others[0], base=base, state=state)
    assert content(again) == content(first) and content(state) == before
    both = folders.merge(*others, base=base, state=state)
    assert content(both) == content(folders.merge(*others, base=base))
    # The scale is applied to the sums: it may change from one merge to the next.
    halved = folders.merge(*others, base=base, state=state, scale=0.5)
    assert content(halved) == content(folders.merge(*others, base=base, scale=0.5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"density": "0.5"}, "was begun with --density 0.8, not with 0.5"),
        ({"weights": "ema:0.5"}, "was begun with --weights sma, not with ema:0.5"),
        ({"include": ("embed.*",)}, r"was begun without --include, not with embed\.\*"),
        ({"method": "linear"}, "keeps the running sums of ties, .*not of linear"),
        ({"method": "slerp"}, "keeps the running sums of ties, .*not of slerp"),
        ({"weights": "0.5"}, "keeps running sums of ties with weights sma or ema:ALPHA"),
        ({"parameters": ("count=true",)}, "keeps running sums of ties"),
        ({"normalize": False}, "keeps running sums of ties"),
    ],
)
def test_a_state_of_another_merge_is_refused_by_name(folders, family, settings, said):
    base, others = family(2)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    before = content(state)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(others[1], base=base, state=state, **settings)
    assert content(state) == before
    assert not list(folders.root.glob(".*partial"))


def test_a_state_and_no_checkpoint_are_refused(folders, family):
    """As where `ckpts/*` fits nothing: the base would come out, whatever the sums hold."""
    base, others = family(2)
    state = folders.root / "state"
    for _ in range(2):
        with pytest.raises(GtrTurboError, match="--state adds checkpoints to its sums, and none is named"):
            folders.merge(base=base, state=state)
        folders.merge(*others, base=base, state=state)


def test_sums_of_another_state_are_refused(folders, family):
    base, others = family(3)
    for name, pair in (("state", others[:2]), ("other", others[1:])):
        folders.merge(*pair, base=base, state=folders.root / name)
    shutil.copy(folders.root / "other" / "positive.safetensors", folders.root / "state" / "positive.safetensors")
    with pytest.raises(GtrTurboError, match=r"positive.safetensors does not hold the sums that state.json was written for"):
        folders.merge(others[2], base=base, state=folders.root / "state")


@pytest.mark.parametrize("weights", ["sma", "ema:0.5"])
@pytest.mark.parametrize(
    ("given", "fine"),
    [
        ("abc", {"sma", "ema:0.5"}),
        ("abcd", {"sma", "ema:0.5"}),
        ("d", {"sma", "ema:0.5"}),
        ("bcd", {"sma", "ema:0.5"}),  # The oldest is gone from the folder.
        ("c", {"sma", "ema:0.5"}),
        ("cba", {"sma"}),
        ("dabc", {"sma"}),
        ("cbd", {"sma"}),
        ("ab", set()),
        ("a", set()),
        ("ad", set()),
        ("acd", set()),
        ("cc", set()),
    ],
)
def test_a_state_is_the_merge_of_the_list_in_its_order_or_refused(folders, family, capsys, weights, given, fine):
    base, others = family(4, dtypes="BF16", shapes={"w": (200,)})
    paths, settings = dict(zip("abcd", others, strict=True)), {"base": base, "weights": weights, "density": "0.5"}
    state = folders.root / "state"
    folders.merge(*others[:3], state=state, **settings)
    before = content(state)
    if weights not in fine:
        with pytest.raises(GtrTurboError, match="holds the sums of 3 checkpoints, and the list names"):
            folders.merge(*(paths[name] for name in given), state=state, **settings)
        assert content(state) == before
        return
    capsys.readouterr()
    out = folders.merge(*(paths[name] for name in given), state=state, **settings)
    # What the sums hold comes first; equal weights do not know of an order.
    assert content(out) == content(folders.merge(*(paths[name] for name in ("abcd" if "d" in given else "abc")), **settings))
    unnamed = 3 - len(set(given) & set("abc"))
    said = " ".join(capsys.readouterr().err.split())
    assert (f"holds {unnamed} older checkpoints that are not named: they are merged too." in said) == (unnamed > 0)


def test_a_state_around_another_base_is_refused(folders, family):
    base, others = family(2)
    other_base, _ = family(1, seed=1)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    with pytest.raises(
        GtrTurboError, match=f"was begun with another base .{artifact_id(base)[:6]}, not {artifact_id(other_base)[:6]}"
    ):
        folders.merge(others[1], base=other_base, state=state)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: (state / "state.json").unlink(), "holds no merge state"),
        (lambda state: (state / "state.json").write_text("{}"), "holds no merge state"),
        (lambda state: rewrite(state / "state.json", format=0), "is of format 0, not 2"),
        (lambda state: os.truncate(state / "negative.safetensors", 300), r"negative.safetensors does not hold the sums"),
        (lambda state: (state / "positive_weight.safetensors").unlink(), r"positive_weight.safetensors does not exist"),
        (
            lambda state: shutil.copy(state / "positive.safetensors", state / "positive_weight.safetensors"),
            r"positive_weight.safetensors does not hold the sums",
        ),
        (lambda state: double(state / "positive.safetensors"), r"positive.safetensors does not hold the sums"),
        (lambda state: double(state / "negative.safetensors", np.nan), r"negative.safetensors does not hold the sums"),
        (lambda state: rewrite(state / "state.json", checkpoints=[]), "state.json was changed after it was written"),
        (lambda state: rewrite(state / "state.json", base="0" * 64), "state.json was changed after it was written"),
        (lambda state: rewrite(state / "state.json", sums={}), "state.json was changed after it was written"),
        (lambda state: rewrite(state / "state.json", settings={"weights": "sma"}), "state.json was changed after it was written"),
    ],
)
def test_a_damaged_state_is_refused(folders, family, damage, said):
    base, others = family(2)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    damage(state)
    with pytest.raises(GtrTurboError, match=said):
        folders.merge(others[1], base=base, state=state)
    assert not list(folders.root.glob(".*partial")) and len(list(folders.root.glob("merged*"))) == 1


def double(file, factor=2.0):
    """Change the numbers, and leave the header as it is."""
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start:] = (np.frombuffer(raw[start:], np.float64) * factor).tobytes()
    file.write_bytes(raw)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_that_is_no_state_is_not_touched(folders, family):
    base, others = family(1)
    foreign = folders.root / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    for place, said in ((foreign, "holds no merge state"), (others[0], "choose another --state")):
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        with pytest.raises(GtrTurboError, match=said):
            folders.merge(others[0], base=base, state=place)
        assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("fails", ["accumulators.Accumulators.write", "incremental.replace_sums"])
def test_an_interrupted_update_leaves_the_old_state_whole(folders, family, monkeypatch, fails):
    base, others = family(2, dtypes="BF16")
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    before = content(state) | {"state.json": (state / "state.json").read_bytes()}

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"gtrturbo.merging.{fails}", stop)
        with pytest.raises(KeyboardInterrupt):
            folders.merge(others[1], base=base, state=state)
    assert content(state) | {"state.json": (state / "state.json").read_bytes()} == before
    out = folders.merge(others[1], base=base, state=state)
    assert content(out) == content(folders.merge(*others, base=base))
    assert not list(folders.root.glob(".state*"))


def test_a_process_killed_at_any_moment_of_the_exchange_loses_nothing(folders, family, monkeypatch):
    base, others = family(2, dtypes="BF16")
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    genuine = Path.rename

    def killed(self, target):
        if self.name == ".state.partial":  # Between the two renames: the old state lies aside.
            raise KeyboardInterrupt
        return genuine(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            folders.merge(others[1], base=base, state=state)
    assert not state.exists()
    out = folders.merge(others[1], base=base, state=state)
    assert content(out) == content(folders.merge(*others, base=base))


def test_a_state_that_another_process_adds_to_is_refused_by_name(folders, family):
    base, others = family(2)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    before = content(state)
    # In a process of its own: one that holds it until it is told to stop, or dies.
    code = f"""
import sys
from pathlib import Path
from gtrturbo.merging.state import claimed
with claimed(Path({str(state)!r})) as following:
    (following / "half.safetensors").write_text("begun")
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(
        GtrTurboError, match=r"state is being added to by another process.\nwait for it, or choose another --state"
    ):
        folders.merge(others[1], base=base, state=state)
    assert content(state) == before
    assert (folders.root / ".state.partial" / "half.safetensors").exists()  # The other's work is left alone.
    holder.kill()
    holder.communicate()
    out = folders.merge(others[1], base=base, state=state)
    assert content(out) == content(folders.merge(*others, base=base))
    assert not list(folders.root.glob(".*partial"))


def test_a_state_that_grew_since_it_was_read_is_refused(folders, family, monkeypatch):
    base, others = family(3)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)

    def late(folder):
        monkeypatch.undo()
        folders.merge(others[1], base=base, state=state)
        return claimed(folder)

    monkeypatch.setattr(incremental, "claimed", late)
    with pytest.raises(GtrTurboError, match=r"another process has just added to .*state\.\nrun it again"):
        folders.merge(others[2], base=base, state=state)
    out = folders.merge(others[2], base=base, state=state)
    assert content(out) == content(folders.merge(*others, base=base))


def test_reading_a_state_while_it_is_exchanged_moves_nothing(folders, family):
    base, others = family(1)
    state = folders.root / "state"
    folders.merge(others[0], base=base, state=state)
    expected = read_state(state)
    state.rename(replaced(state))  # As between the two renames of a writer.
    assert expected is not None and read_state(state) == expected
    assert not state.exists()


def test_the_sums_on_disk_are_those_of_numpy(folders, family):
    base, others = family(3, shapes={"w": (500,)})
    state = folders.root / "state"
    folders.merge(*others, base=base, state=state, density="1")
    wide = [read(path)["w"].astype(np.float64) for path in (base, *others)]
    moved = [other - wide[0] for other in wide[1:]]
    sums = {}
    for part, dtype in (
        ("positive", np.float64),
        ("negative", np.float64),
        ("positive_weight", np.uint16),
        ("negative_weight", np.uint16),
    ):
        raw = (state / f"{part}.safetensors").read_bytes()
        sums[part] = np.frombuffer(raw[8 + int.from_bytes(raw[:8], "little") :], dtype)
    assert np.allclose(sums["positive"], sum(np.maximum(d, 0) for d in moved), rtol=1e-15, atol=0)
    assert np.allclose(sums["negative"], sum(np.minimum(d, 0) for d in moved), rtol=1e-15, atol=0)
    assert np.array_equal(sums["positive_weight"], sum(d > 0 for d in moved))
    assert np.array_equal(sums["negative_weight"], sum((d < 0).astype(int) for d in moved))


@pytest.mark.parametrize("settings", [{"density": "0.5"}, {"density": "0.5,0.2,0.9"}, {"method": "breadcrumbs", "gamma": 0.1}])
def test_cached_thresholds_give_the_same_bytes_without_measuring(folders, family, monkeypatch, settings):
    base, others = family(3, dtypes="BF16")
    expected = content(folders.merge(*others, base=base, **settings))
    cache = folders.root / "cache"
    assert content(folders.merge(*others, base=base, cache=cache, **settings)) == expected

    def measured(*_):
        raise AssertionError("a threshold was measured again")

    monkeypatch.setattr(measuring, "kth_largest", measured)
    assert content(folders.merge(*others, base=base, cache=cache, **settings)) == expected
    # Any weights, scale, window and order of the same checkpoints need nothing new.
    if settings == {"density": "0.5"}:
        folders.merge(others[2], others[0], base=base, cache=cache, **settings, weights="ema:0.4", scale=2.0)
        folders.merge(*others, base=base, cache=cache, **settings, include=("layers.*",))
        with pytest.raises(AssertionError, match="measured again"):
            folders.merge(*others, base=base, cache=cache, density="0.6")
        with pytest.raises(AssertionError, match="measured again"):
            folders.merge(others[0], base=others[1], cache=cache, **settings)


def test_only_new_checkpoints_and_tensors_are_measured(folders, family, monkeypatch):
    base, others = family(3)
    cache, counted = folders.root / "cache", []
    genuine = measuring.kth_largest
    monkeypatch.setattr(measuring, "kth_largest", lambda *rest: counted.append(1) or genuine(*rest))
    folders.merge(*others[:2], base=base, cache=cache, include=("layers.*",))
    assert len(counted) == 2 * 2
    folders.merge(*others[:2], base=base, cache=cache)
    assert len(counted) == 2 * 5
    folders.merge(*others, base=base, cache=cache)
    assert len(counted) == 3 * 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "[" * 100_000, "is damaged"),
        (lambda text: text.replace('"bounds"', '"limits"'), "is damaged"),
        (lambda text: text.replace('"embed.weight": [\n   0.', '"embed.weight": [\n   -0.'), "is damaged"),
        (lambda text: text.replace('"density": 0.8', '"density": 0.9'), "is damaged"),
        (lambda text: text.replace('"embed.weight": [\n   0.', '"embed.weight": [\n   1.'), "is damaged"),
        (lambda text: re.sub(r'("embed.weight": \[\s+)[0-9.e-]+', r"\1NaN", text), "is damaged"),
        (lambda text: text.replace('"scalar"', '"other"'), "is damaged"),
    ],
)
def test_a_cache_that_is_damaged_or_of_something_else_is_refused(folders, family, change, said):
    base, others = family(1)
    cache = folders.root / "cache"
    folders.merge(others[0], base=base, cache=cache)
    (file,) = (path for path in cache.glob("*.json") if path.name != "hashes.json")
    assert change(file.read_text()) != file.read_text()
    file.write_text(change(file.read_text()))
    with pytest.raises(GtrTurboError, match=said) as error:
        folders.merge(others[0], base=base, cache=cache)
    assert str(file) in error.value.what and "delete it" in error.value.fix


def test_a_cache_of_another_checkpoint_is_refused(folders, family):
    base, others = family(2)
    cache, other = folders.root / "cache", folders.root / "other"
    folders.merge(others[0], base=base, cache=cache)
    folders.merge(others[1], base=base, cache=other)
    ((mine,), (theirs,)) = ([p for p in place.glob("*.json") if p.name != "hashes.json"] for place in (cache, other))
    shutil.copy(theirs, mine)
    with pytest.raises(GtrTurboError, match="belongs to another checkpoint"):
        folders.merge(others[0], base=base, cache=cache)


def test_a_cache_of_an_older_arithmetic_is_not_looked_at(folders, family, monkeypatch):
    base, others = family(1)
    cache = folders.root / "cache"
    monkeypatch.setattr("gtrturbo.merging.thresholds.ThresholdKey.__init__.__defaults__", ("tensor, at least", 2))
    folders.merge(others[0], base=base, cache=cache)
    (old,) = (path for path in cache.glob("*.json") if path.name != "hashes.json")
    assert json.loads(old.read_text())["question"]["format"] == 2
    monkeypatch.undo()
    folders.merge(others[0], base=base, cache=cache)
    (new,) = (path for path in cache.glob("*.json") if path.name not in ("hashes.json", old.name))
    shutil.copy(old, new)
    with pytest.raises(GtrTurboError, match="belongs to another format"):
        folders.merge(others[0], base=base, cache=cache)


@pytest.mark.parametrize("operation", ["read_bytes", "mkdir"])
def test_a_cache_that_cannot_be_read_or_written_breaks_no_merge(folders, family, monkeypatch, capsys, operation):
    base, others = family(2, dtypes="BF16")
    cache, expected = folders.root / "cache", content(folders.merge(*others, base=base))
    folders.merge(others[0], base=base, cache=cache)
    genuine = getattr(Path, operation)

    def fails(self, *rest, **named):
        if cache in (self, self.parent):
            raise PermissionError(13, "Permission denied", str(self))
        return genuine(self, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, operation, fails)
        out = folders.merge(*others, base=base, cache=cache)
    assert content(out) == expected
    assert "cannot be" in capsys.readouterr().err


def test_hashes_of_large_files_are_remembered_until_the_file_changes(folders, monkeypatch):
    from gtrturbo.store import hashes

    monkeypatch.setattr(hashes, "WORTH_REMEMBERING", 1)
    monkeypatch.setattr(hashes, "_hashed", {})
    file, store = folders.root / "large", folders.root / "store" / "hashes.json"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    fresh = hashes.content_hash(file)
    monkeypatch.setattr(hashes, "_hashed", {})
    with hashes.remembering_hashes(store, print):
        assert hashes.content_hash(file) == fresh
    written = store.read_text()
    (key,) = json.loads(written)["hashes"]
    monkeypatch.setattr(hashes, "_hashed", {})
    with monkeypatch.context() as patched, hashes.remembering_hashes(store, print):
        patched.setattr(Path, "open", None)
        assert hashes.content_hash(file) == fresh
    with hashes.remembering_hashes(store, print):
        file.write_bytes(b"two")
        assert hashes.content_hash(file) != fresh
    # Just written: it may change again without a new time, so its hash is not kept.
    assert list(json.loads(store.read_text())["hashes"]) == [key]
    for damaged in ("[", written.replace(fresh, "0" * 64), written.replace(key, "1")):
        store.write_text(damaged)
        with pytest.raises(GtrTurboError, match="is damaged"), hashes.remembering_hashes(store, print):
            pass
    monkeypatch.setattr(hashes, "_hashed", {})
    store.write_text(json.dumps({key: fresh}))  # As the version wrote it that sealed nothing: not believed.
    with hashes.remembering_hashes(store, print):
        assert hashes.content_hash(file) != fresh


def test_hashes_that_cannot_be_kept_are_told_and_break_nothing(folders, monkeypatch):
    from gtrturbo.store import hashes

    monkeypatch.setattr(hashes, "WORTH_REMEMBERING", 1)
    monkeypatch.setattr(hashes, "_hashed", {})
    file, told = folders.root / "large", []
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    (folders.root / "place").write_text("no folder")
    with hashes.remembering_hashes(folders.root / "place" / "hashes.json", told.append):
        hashes.content_hash(file)
    assert len(told) == 1 and "cannot be written" in told[0]


def test_a_full_disk_while_the_state_is_made_leaves_nothing(folders, family, monkeypatch):
    base, others = family(1)
    genuine = Files.create

    def full(self, path, header, size):
        if path.name == "negative.safetensors":
            raise OSError(28, "No space left on device")
        genuine(self, path, header, size)

    monkeypatch.setattr(Files, "create", full)
    with pytest.raises(GtrTurboError, match="its disk is full"):
        folders.merge(others[0], base=base, state=folders.root / "state")
    assert sorted(path.name for path in folders.root.iterdir()) == ["base0", "checkpoint0-0"]


def test_more_checkpoints_than_a_count_can_hold_are_refused(folders, family, monkeypatch):
    base, others = family(2)
    monkeypatch.setattr(incremental, "MOST", 1)
    folders.merge(others[0], base=base, state=folders.root / "state")
    with pytest.raises(GtrTurboError, match="a state holds 1 checkpoints at most"):
        folders.merge(others[1], base=base, state=folders.root / "state")


def test_a_pipe_in_the_place_of_a_state_is_not_waited_for(folders, family, tmp_path):
    base, others = family(1)
    state = tmp_path / "state"
    folders.merge(others[0], base=base, state=state)
    (state / "state.json").unlink()
    os.mkfifo(state / "state.json")
    with pytest.raises(GtrTurboError, match="is no regular file"):
        folders.merge(others[0], base=base, state=state)
