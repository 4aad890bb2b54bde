"""Names inside an artifact, and files that are opened and removed there without following links."""

import json
import os

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.inside import open_inside, plain, remove_inside, remove_whole
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.records import Demo, Successor, Turn, read_rows
from gtrturbo.store.writing import writing

ELSEWHERE = (
    "/etc/passwd", "../victim", "../../victim", "a/../../victim", "a/..", "./a", "a//b", "a/", "", ".", "..", "a\0b", "a\\b",
    "..\\victim", "file:///etc/passwd", "a\nb", "a\x1b[2J", "\u202ea", "a" * 256, "\udc80", "~/\r",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a", "images/0f.png", "base/model.safetensors", "a.b c", "größe", "~a", "..a", "a:b", "x" * 255]
)
def test_a_plain_name_is_a_name(name):
    assert plain(name) == name


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_none(name):
    with pytest.raises(ValueError, match="is no plain name of a file inside the artifact"):
        plain(name)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_manifest_that_names_files_elsewhere_is_refused_when_it_is_read(tmp_path, name):
    with writing(tmp_path / "a", Provenance("init", "checkpoint", {}, {})):
        pass
    file = tmp_path / "a" / "stage.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"files": {name: "0" * 64}}))
    with pytest.raises(GtrTurboError, match=r"(?s)stage.json is damaged: .*no plain name"):
        read_manifest(tmp_path / "a")


TURN = {
    "episode": 0, "turn": 0, "seed": 0, "messages": [], "action": None, "executed": None, "legal": False,
    "perception_correct": None, "reward": 0.0, "reward_terms": {}, "terminated": True, "truncated": False,
    "won": False, "info": {},
}  # fmt: skip


@pytest.mark.parametrize("name", ["/etc/passwd", "../../picture.png", "images/../../picture.png"])
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Turn, lambda name: TURN | {"images": [name]}),
        (Turn, lambda name: TURN | {"images": [], "successor": {"messages": [], "images": [name]}}),
        (Demo, lambda name: {"messages": [], "images": [name], "masked_spans": []}),
        (Successor, lambda name: {"messages": [], "images": [name]}),
    ],
)
def test_a_row_that_names_a_picture_elsewhere_is_refused_when_it_is_read(tmp_path, kind, row, name):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("images/0.png")) + "\n" + json.dumps(row(name)) + "\n")
    rows = read_rows(tmp_path / "rows.jsonl", kind)
    next(rows)
    with pytest.raises(GtrTurboError, match=r"rows.jsonl line 2: .*images\.0: .*no plain name"):
        next(rows)


@pytest.fixture
def artifact(tmp_path):
    """An artifact with one file in a folder, and a victim outside."""
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / "a" / "images" / "0.png").write_text("own")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "0.png").write_text("precious")
    return tmp_path / "a"


def read(folder, name):
    with open_inside(folder, name) as file:
        return file.read()


def test_a_file_inside_is_opened_also_where_the_artifact_itself_is_reached_through_a_link(artifact, tmp_path):
    (tmp_path / "link").symlink_to(artifact)
    assert (read(artifact, "images/0.png"), read(tmp_path / "link", "images/0.png")) == (b"own", b"own")


def test_no_link_is_followed_neither_of_the_file_nor_of_a_folder_above_it(artifact, tmp_path):
    (artifact / "file.png").symlink_to(tmp_path / "victim" / "0.png")
    (artifact / "folder").symlink_to(tmp_path / "victim")
    for name in ("file.png", "folder/0.png"):
        with pytest.raises(GtrTurboError, match=f"{name} is not touched: a link lies on the way"):
            read(artifact, name)
    with pytest.raises(GtrTurboError, match="a link lies on the way"):
        remove_inside(artifact, "folder/0.png")
    remove_inside(artifact, "file.png")
    assert not (artifact / "file.png").is_symlink() and (tmp_path / "victim" / "0.png").read_text() == "precious"


def test_what_is_no_file_is_not_opened_and_not_waited_for(artifact):
    os.mkfifo(artifact / "pipe")
    for name in ("pipe", "images"):
        with pytest.raises(GtrTurboError, match=f"{name} is no file"):
            read(artifact, name)
    with pytest.raises(FileNotFoundError, match=r"a/images/1\.png"):
        read(artifact, "images/1.png")


def test_a_file_inside_is_removed_and_a_folder_in_its_place_is_not(artifact):
    remove_inside(artifact, "images/0.png")
    remove_inside(artifact, "images/0.png")
    assert list((artifact / "images").iterdir()) == []
    with pytest.raises(GtrTurboError, match="images is not touched"):
        remove_inside(artifact, "images")
    assert (artifact / "images").is_dir()


def test_whatever_is_removed_whole_no_link_in_it_is_followed(artifact, tmp_path):
    (artifact / "folder").symlink_to(tmp_path / "victim")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for path in (artifact, tmp_path / "link", tmp_path / "nothing"):
        remove_whole(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim"]
    assert (tmp_path / "victim" / "0.png").read_text() == "precious"
