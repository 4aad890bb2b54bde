"""Files that commands write or copy: into no artifact, over nothing of others, and no link's target along."""

from pathlib import Path

import pytest
from made_runs import make_run

from gtrturbo.config import CompareConfig, ReportConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import copy_checkpoint, copy_renderer, copy_side_files
from gtrturbo.play.by_hand import play_by_hand
from gtrturbo.report import report
from gtrturbo.report.page import page
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
    own = "<!doctype html>\n<html><head><title>mine</title></head><body>as report writes: generator gtrturbo report</body>"
    for name, content in {"run.json": "{}", "empty": "", "notes.html": "<p>mine</p>", "index.html": own}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(GtrTurboError, match="exists and is no page that report wrote"):
            report(ReportConfig(runs=(tmp_path,), out=tmp_path / name))
        assert (tmp_path / name).read_text() == content
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    for name in ("folder.html", "dangling.html"):
        with pytest.raises(GtrTurboError, match="exists and is no page that report wrote"):
            report(ReportConfig(runs=(tmp_path,), out=tmp_path / name))


def test_a_page_of_an_earlier_version_is_replaced(tmp_path):
    out = tmp_path / "page.html"
    written = page("runs", ["<p>as it was</p>"])
    earlier = written.replace('<meta name="generator" content="gtrturbo report">\n', "")
    assert earlier != written
    for text in (written, earlier):
        out.write_text(text)
        with pytest.raises(GtrTurboError, match="run does not exist"):  # It is the run that is refused, and not the place.
            report(ReportConfig(runs=(tmp_path / "run",), out=out))


FOREIGN = {"compare.json": ['{"estimates": []}', "[]", "", "no JSON"], "compare.csv": ["task,mine\n1,2\n", ""]}


@pytest.mark.parametrize(("name", "content"), [(name, each) for name, contents in FOREIGN.items() for each in contents])
def test_compare_replaces_no_file_of_others(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(GtrTurboError, match=rf"{name} exists and is no .* that compare wrote"):
        compare(CompareConfig(runs=(tmp_path / "run",), out=tmp_path))
    assert (tmp_path / name).read_text() == content


def test_compare_replaces_what_it_wrote_and_where_the_second_file_fails_neither(tmp_path, monkeypatch):
    runs = [make_run(tmp_path / f"run-{count}", "ppo", 0, {0: [1] * count + [0]}) for count in (1, 2)]
    out = tmp_path / "out"
    compare(CompareConfig(runs=(runs[0],), out=out))
    first = contents(out)
    written = iter([None, OSError(28, "No space left on device")])

    def full(descriptor):
        if error := next(written):
            raise error

    with monkeypatch.context() as disk:
        disk.setattr("gtrturbo.store.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            compare(CompareConfig(runs=(runs[1],), out=out))
    assert contents(out) == first
    compare(CompareConfig(runs=(runs[1],), out=out))
    assert len(contents(out)) == 2 and all(content != first[name] for name, content in contents(out).items())


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
    (model / "model.safetensors").touch()
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
    (snapshot / "model.safetensors").touch()
    (blobs / "0f").write_text('{"cached": 1}')
    (snapshot / "tokenizer.json").symlink_to("../../blobs/0f")
    (snapshot / "own.json").write_text('{"own": 1}')
    (snapshot / "vocab.json").symlink_to("own.json")
    copy(snapshot, out)
    assert (out / "tokenizer.json").read_text() == '{"cached": 1}' and not (out / "tokenizer.json").is_symlink()
    assert (out / "vocab.json").read_text() == '{"own": 1}'
