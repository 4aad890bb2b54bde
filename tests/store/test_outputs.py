"""Files that commands write or copy: into no artifact, over nothing of others, and no link's target along."""

from pathlib import Path

import pytest

from gtrturbo.config import CompareConfig, ReportConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import copy_checkpoint, copy_renderer, copy_side_files
from gtrturbo.play.by_hand import play_by_hand
from gtrturbo.report import report
from gtrturbo.runs.execute import run
from gtrturbo.show.comparison import compare
from gtrturbo.store.claims import require_own_file
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing

WRITERS = {
    "report": lambda out: report(ReportConfig(runs=(Path("run"),), out=out)),
    "compare": lambda out: compare(CompareConfig(runs=(Path("run"),), out=out)),
    "play": lambda out: play_by_hand("numberline", (), seed=0, out=out, expert=False),
    "run": lambda out: run(RunConfig(out=out)),
}


@pytest.fixture
def artifact(tmp_path):
    with writing(tmp_path / "a", Provenance("init", "checkpoint", {}, {})) as draft:
        (draft.folder / "config.json").write_text("{}")
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "deep").symlink_to(tmp_path / "a" / "sub")
    return tmp_path / "a"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("place", ["a/stage.json", "a/config.json", "a/new", "a/sub/new", "link/new", "deep/new", "a/sub/../new"])
def test_no_command_writes_into_an_artifact(artifact, write, place):
    before = contents(artifact)
    with pytest.raises(GtrTurboError, match=r"lies in the artifact .*a, which stays as it is"):
        write(artifact.parent / place)
    assert contents(artifact) == before


def test_a_report_replaces_pages_alone(tmp_path):
    for name, content in {"run.json": "{}", "empty": "", "notes.html": "<p>mine</p>"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(GtrTurboError, match="exists and is no page that report wrote"):
            report(ReportConfig(runs=(tmp_path,), out=tmp_path / name))
        assert (tmp_path / name).read_text() == content
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    for name in ("folder.html", "dangling.html"):
        with pytest.raises(GtrTurboError, match="exists and is no page that report wrote"):
            report(ReportConfig(runs=(tmp_path,), out=tmp_path / name))


def test_nothing_is_written_among_the_files_of_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    require_own_file(tmp_path / "report.html")  # As many a project has one.
    (tmp_path / "model-1.safetensors").touch()
    with pytest.raises(GtrTurboError, match="lies among the files of the model"):
        require_own_file(tmp_path / "report.html")


def test_a_picture_of_play_takes_no_link_for_a_free_name(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "picture-0000.png").symlink_to(tmp_path / "victim")
    monkeypatch.setattr("builtins.input", lambda _: "q")
    play_by_hand("numberline", (), seed=0, out=tmp_path / "out", expert=False)
    assert not (tmp_path / "victim").exists() and (tmp_path / "out" / "picture-0001.png").is_file()


COPIES = {"side files": copy_side_files, "checkpoint": copy_checkpoint, "renderer": copy_renderer}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("target", ["{}/secret", "../secret", "blobs/../../secret"])
def test_no_target_of_a_link_is_copied(tmp_path, copy, target):
    (tmp_path / "secret").write_text("secret")
    model, out = tmp_path / "model", tmp_path / "out"
    (model / "blobs").mkdir(parents=True)
    out.mkdir()
    (model / "tokenizer.json").symlink_to(target.format(tmp_path))
    with pytest.raises(GtrTurboError, match=r"tokenizer\.json is a link to .*secret, which is not copied"):
        copy(model, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_the_links_of_the_hubs_cache_and_those_within_a_folder_are_files(tmp_path, copy):
    blobs, snapshot, out = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0", tmp_path / "out"
    for folder in (blobs, snapshot, out):
        folder.mkdir(parents=True)
    (blobs / "0f").write_text('{"cached": 1}')
    (snapshot / "tokenizer.json").symlink_to("../../blobs/0f")
    (snapshot / "own.json").write_text('{"own": 1}')
    (snapshot / "vocab.json").symlink_to("own.json")
    copy(snapshot, out)
    assert (out / "tokenizer.json").read_text() == '{"cached": 1}' and not (out / "tokenizer.json").is_symlink()
    assert (out / "vocab.json").read_text() == '{"own": 1}'
