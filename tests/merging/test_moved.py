"""What a merge says of where it moved, by module and layer: beside the weights, outside the id, in the terminal and on a page."""

import io
import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from checkpoints import noisy, read
from rich.cells import cell_len
from rich.console import Console

from gtrturbo.analysis.moved import MovedPicture, pictures, short_names
from gtrturbo.errors import GtrTurboError
from gtrturbo.report.moved import _figure, _squares
from gtrturbo.show import moved as show_moved
from gtrturbo.show.moved import blocks
from gtrturbo.show.text import section
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.moved import read_moved

LAYERS = 9
SHAPES = {"embed.weight": (20, 8)} | {f"model.layers.{i}.{name}.weight": (8, 8) for i in range(LAYERS) for name in ("q", "mlp")}


@pytest.fixture
def merged(folders):
    """Three checkpoints, each of which changed some entries of layer i by i times as much as another."""
    base, others = noisy(SHAPES, 3, scale=0.0)
    rng = np.random.default_rng(5)
    for name in SHAPES:
        layer = int(name.split(".")[2]) if name.startswith("model") else 0
        for other in others:
            other[name] = other[name] + layer * rng.normal(size=SHAPES[name]) * (rng.random(SHAPES[name]) < 0.5)
    paths = [folders.write(f"m{i}", tensors) for i, tensors in enumerate((base, *others))]
    return paths, folders.merge(*paths[1:], base=paths[0], density="1")


def test_what_moved_is_what_numpy_says(merged):
    paths, out = merged
    base, *others = map(read, paths)
    result, moved = read(out), read_moved(out)
    assert moved is not None and moved.checkpoints == 3
    for tensor in moved.tensors:
        origin = base[tensor.name].astype(np.float64)
        changes = [other[tensor.name].astype(np.float64) - origin for other in others]
        up, down = (np.any([sign * d > 0 for d in changes], axis=0) for sign in (1, -1))
        assert tensor.entries == origin.size and tensor.conflicts == np.count_nonzero(up & down)
        assert tensor.changed == sum(np.count_nonzero(d) for d in changes) and tensor.touched == np.count_nonzero(up | down)
        assert tensor.base_square == pytest.approx((origin**2).sum(), rel=1e-5)
        assert tensor.delta_square == pytest.approx(((result[tensor.name] - origin) ** 2).sum(), rel=1e-4, abs=1e-9)
    # Of the two others, the share that changed an entry too, over the entries that any changed.
    counts = np.concatenate([np.sum([other[n] != base[n] for other in others], axis=0).ravel() for n in SHAPES])
    assert moved.overlap == pytest.approx((counts[counts > 0] - 1).mean() / 2)
    # Each changed half of the entries: of 8 alike cases 3 have one that changed it, 3 two, 1 all three, and 1 none.
    assert moved.overlap == pytest.approx((3 * 0 + 3 * 0.5 + 1 * 1) / 7, abs=0.05)


def test_two_checkpoints_overlap_by_the_jaccard_index(folders):
    ones = [np.zeros(10), np.r_[np.ones(6), np.zeros(4)], np.r_[np.zeros(3), np.ones(6), np.zeros(1)]]
    paths = [folders.write(f"m{i}", {"w": row}) for i, row in enumerate(ones)]
    moved = read_moved(folders.merge(*paths[1:], base=paths[0], method="linear"))
    assert moved is not None and moved.overlap == pytest.approx(3 / 9)
    alone = read_moved(folders.merge(paths[1], base=paths[0], method="linear"))
    assert alone is not None and alone.overlap is None


def test_what_moved_is_outside_the_id_and_not_carried_on(merged, folders):
    paths, out = merged
    manifest = read_manifest(out)
    assert "moved.json" not in manifest.files and "overlap" not in manifest.metrics
    again = folders.merge(base=out, checkpoints=())
    assert not (again / "moved.json").exists()
    further = folders.merge(paths[1], base=out, method="linear")
    moved = read_moved(further)
    assert moved is not None and moved.checkpoints == 1


def test_what_running_sums_did_not_read_is_not_claimed(merged, folders):
    paths, _ = merged
    state = folders.root / "state"
    folders.merge(*paths[1:3], base=paths[0], state=state)
    moved = read_moved(folders.merge(paths[3], base=paths[0], state=state))
    assert moved is not None and moved.checkpoints == 0 and moved.overlap is None
    assert [picture.title[:4] for picture in pictures(moved)] == ["‖ΔW‖", "shar"]


def test_what_moved_does_not_depend_on_which_checkpoints_the_sums_held_already(merged, folders):
    # As after a kill between the new state and the merge: the same command finds that all is in the sums.
    paths, _ = merged
    files = []
    for name in ("one", "other"):
        state = folders.root / name
        if name == "other":
            folders.merge(*paths[1:4], base=paths[0], state=state)
        files.append(folders.merge(*paths[1:4], base=paths[0], state=state) / "moved.json")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_picture_has_a_row_per_module_and_a_place_per_layer(merged):
    _, out = merged
    norm, conflicts, overlap = pictures(read_moved(out))
    assert list(norm.rows) == ["embed.weight", "model.layers.*.q.weight", "model.layers.*.mlp.weight"]
    values = [value or 0.0 for value in norm.rows["model.layers.*.q.weight"]]
    assert len(values) == LAYERS and values[0] == 0 and values[1] < values[4] < values[8]
    assert norm.rows["embed.weight"] == [0.0] and overlap.rows["embed.weight"] == [None]
    assert conflicts.top < 1
    assert blocks([0.0, 0.5, 0.49, 1.0, None], 1.0) == "▁▅▄█·"
    drawn = _squares("a", "b", norm)
    assert drawn.count("<rect") == 1 + 2 * LAYERS and 'fill-opacity="1.000"' in drawn


def test_squares_of_a_page_are_labelled_and_as_dark_as_the_table_says(merged):
    _, out = merged
    for picture in pictures(read_moved(out)):
        figure = ElementTree.fromstring(_figure("name", "A & B", picture))
        cells = [[cell.text or "" for cell in row] for row in figure.iter("tr")]
        assert [row[0] for row in cells[1:]] == list(picture.rows)
        assert cells[0][1:] == [str(number) for number in range(LAYERS)]
        svg = next(each for each in figure.iter() if each.tag.endswith("svg"))
        labels = [each.text for each in svg.iter() if each.tag.endswith("text")]
        assert labels == ["embed", "q", "mlp"]
        squares = [each for each in svg.iter() if each.tag.endswith("rect")]
        numbers = [float(text) for row in cells[1:] for text in row[1:] if text not in ("", "–")]
        assert len(squares) == len(numbers) > LAYERS
        top = float(re.findall(r"Darkest: (\S+)\. ?$", "".join(figure.find("p").itertext()))[0])
        for square, number in zip(squares, numbers, strict=True):
            assert float(square.get("fill-opacity")) * top == pytest.approx(number, rel=6e-3, abs=6e-4 * top)
            assert float(square.get("x")) + float(square.get("width")) <= 380.01


def test_show_draws_it(merged):
    _, out = merged
    done = subprocess.run([sys.executable, "-m", "gtrturbo", "show", str(out)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "‖ΔW‖ / ‖W‖, by module and layer (▁ 0, █ " in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  q ") and "…" in line]
    assert all(len(row[1]) == LAYERS for row in rows) and len(rows) == 3
    assert rows[0][1][0] == "▁" and "█" in done.stdout


@pytest.mark.parametrize("letters", ["x", "é漢"])
def test_names_of_any_length_leave_room_for_what_is_said_of_them(letters):
    """Both ends of a name stay, and columns are counted, not letters: 漢 takes two."""
    rows = [(f"model.layers.{number}." + letters * 40 + f".weight{number}", "3 × [6, 6] F32") for number in range(2)]
    console = Console(width=80, record=True, file=io.StringIO())
    section(console, "tensors", rows)
    lines = [line.rstrip() for line in console.export_text().splitlines()[1:]]
    assert [line.split("…")[0][:20] for line in lines] == [
        "  model.layers.0." + (letters * 9)[:3],
        "  model.layers.1." + (letters * 9)[:3],
    ]
    assert [".weight0  3 × [6, 6] F32" in lines[0], ".weight1  3 × [6, 6] F32" in lines[1]] == [True, True]
    assert all(cell_len(line) <= 80 for line in lines) and len(lines) == 2


def test_rows_fit_a_terminal_of_80_columns_whatever_the_model(monkeypatch, tmp_path):
    names = [
        "model.language_model.layers.*.self_attn.q_proj.weight",
        "model.language_model.layers.*.post_attention_layernorm.weight",
    ]
    rows = {name: [0.01 * layer for layer in range(1, 81)] for name in names} | {"model.embed_tokens.weight": [0.5]}
    monkeypatch.setattr(show_moved, "pictures", lambda _: [MovedPicture("‖ΔW‖ / ‖W‖", rows)])
    [(title, found)] = show_moved.moved_sections(tmp_path)
    assert title.endswith("(▁ 0, █ 0.8; a block is the largest of 3 layers)")
    assert [name for name, _ in found] == ["self_attn.q_proj", "post_attention_layernorm", "model.embed_tokens"]
    width = max(len(name) for name, _ in found)
    assert all(2 + width + 2 + len(text) <= 80 for _, text in found)
    drawn = found[0][1].split()[0]
    # 27 blocks: layers 1 to 3 are 0.03 of 0.8, which is in the first eighth, and the last are 0.80 of it.
    assert len(drawn) == 27 and drawn[0] == "▁" and drawn[-1] == "█"
    assert short_names(["a.*.q.weight", "b.*.q.weight"]) == ["a.*.q.weight", "b.*.q.weight"]


@pytest.mark.parametrize("change", [lambda c: c | {"checkpoints": 7}, lambda c: c | {"tensors": 1}])
def test_numbers_that_were_changed_by_hand_are_not_drawn(merged, change):
    _, out = merged
    file = out / "moved.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(GtrTurboError, match=r"moved.json is damaged"):
        read_moved(out)
