"""Artifacts: whole or absent, named by what they hold."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store import claims
from gtrturbo.store.files import save_json
from gtrturbo.store.ids import artifact_id, same_artifact, seed_for
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.pruned import damaged_files
from gtrturbo.store.saved_pictures import save_image
from gtrturbo.store.tensors import TurnTokens, load_scores, load_turn_tokens, save_scores, save_turn_tokens
from gtrturbo.store.writing import finished, writing

WORK = Provenance(stage="sft", kind="checkpoint", config={"steps": 3, "lr": 0.1}, inputs={"checkpoint": "a" * 64})


def write(out: Path, content: str = "weights", work: Provenance = WORK, *, overwrite: bool = False):
    with writing(out, work, overwrite=overwrite) as draft:
        (draft.folder / "model.bin").write_text(content)
        (draft.folder / "images").mkdir()
        (draft.folder / "images" / "a.png").write_bytes(b"\x89PNG")
        draft.metrics = {"loss": 0.5}
    return draft.result


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_behind(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_id_is_the_sha256_of_the_manifest(tmp_path):
    result = write(tmp_path / "a")
    assert result.id == artifact_id(tmp_path / "a") == sha256(tmp_path / "a" / MANIFEST)


def test_the_manifest_holds_the_hash_of_every_file_but_itself_and_the_timing(tmp_path):
    write(tmp_path / "a")
    files = json.loads((tmp_path / "a" / "stage.json").read_text())["files"]
    assert files == {
        "model.bin": hashlib.sha256(b"weights").hexdigest(),
        "images/a.png": hashlib.sha256(b"\x89PNG").hexdigest(),
    }
    assert (tmp_path / "a" / "timing.json").is_file()


def test_the_same_work_gives_the_same_id_in_another_folder_at_another_time(tmp_path):
    assert write(tmp_path / "a").id == write(tmp_path / "elsewhere" / "b").id


@pytest.mark.parametrize(
    "other",
    [
        Provenance("sft", "checkpoint", {"steps": 4, "lr": 0.1}, WORK.inputs),
        Provenance("sft", "checkpoint", WORK.config, {"checkpoint": "b" * 64}),
    ],
    ids=["knob", "input"],
)
def test_other_work_gives_another_id_although_the_files_are_equal(tmp_path, other):
    assert write(tmp_path / "a").id != write(tmp_path / "b", work=other).id


def test_the_manifest_names_no_path_of_this_machine(tmp_path):
    write(tmp_path / "a")
    assert str(tmp_path) not in (tmp_path / "a" / MANIFEST).read_text()


def test_a_finished_write_leaves_nothing_beside_the_artifact(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "a", "other", overwrite=True)
    assert left_behind(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing
with writing(Path(sys.argv[1]), Provenance("sft", "checkpoint", {}, {})) as draft:
    (draft.folder / "model.bin").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_leaves_no_artifact_and_the_next_one_succeeds(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    write(tmp_path / "a")
    assert left_behind(tmp_path) == ["a"] and damaged_files(tmp_path / "a") == []


def test_a_file_of_the_killed_write_does_not_slip_into_the_next_artifact(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED.replace("model.bin", "stray.bin"), str(tmp_path / "a")], check=False)
    write(tmp_path / "a")
    assert sorted(read_manifest(tmp_path / "a").files) == ["images/a.png", "model.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_nothing(tmp_path, error):
    with pytest.raises(error), writing(tmp_path / "a", WORK) as draft:
        (draft.folder / "model.bin").write_text("half")
        raise error
    assert left_behind(tmp_path) == []


def test_an_exception_while_overwriting_keeps_the_old_artifact(tmp_path):
    before = write(tmp_path / "a").id
    with pytest.raises(RuntimeError), writing(tmp_path / "a", WORK, overwrite=True):
        raise RuntimeError
    assert artifact_id(tmp_path / "a") == before and damaged_files(tmp_path / "a") == []


WAITING = """
import sys
from pathlib import Path
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing
with writing(Path(sys.argv[1]), Provenance("sft", "checkpoint", {}, {})) as draft:
    (draft.folder / "model.bin").write_text("first")
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_while_the_first_is_alive(tmp_path):
    command = [sys.executable, "-c", WAITING, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "inside\n"
        with pytest.raises(GtrTurboError, match="is being written by another process"):
            write(tmp_path / "a")
        first.stdin.close()
        assert first.wait() == 0
    # The refused writer did not touch the first one's files.
    assert (tmp_path / "a" / "model.bin").read_text() == "first" and damaged_files(tmp_path / "a") == []


def test_an_existing_folder_is_not_written_over_unasked(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(GtrTurboError, match=r"a exists\.\nchoose another --out, or add --overwrite"):
        write(tmp_path / "a", "other")
    assert (tmp_path / "a" / "model.bin").read_text() == "weights"


def test_overwrite_replaces_the_whole_folder(tmp_path):
    with writing(tmp_path / "a", WORK) as draft:
        (draft.folder / "old.bin").write_text("old")
    write(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a" / "model.bin").read_text() == "new"
    assert not (tmp_path / "a" / "old.bin").exists()


def test_overwrite_never_removes_a_folder_that_is_no_artifact(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.tex").write_text("years of work")
    with pytest.raises(GtrTurboError, match="exists and is no artifact of gtrturbo"):
        write(tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_overwrite_left_does_not_stop_the_next(tmp_path):
    # Killed after the old artifact was moved aside, before the new one took its place.
    write(tmp_path / ".a.replaced")
    write(tmp_path / "a")
    write(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a" / "model.bin").read_text() == "new" and left_behind(tmp_path) == ["a"]


def test_nothing_there_is_not_finished(tmp_path):
    assert finished(tmp_path / "a", WORK) is None


def test_the_same_work_is_finished_and_keeps_its_metrics(tmp_path):
    result = write(tmp_path / "a")
    assert finished(tmp_path / "a", WORK) == result
    assert result.metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Provenance("merge", "checkpoint", WORK.config, WORK.inputs), "was made by sft, not merge."),
        (Provenance("sft", "checkpoint", {"steps": 3, "lr": 0.2}, WORK.inputs), "was made with --lr 0.1, not 0.2."),
        (
            Provenance("sft", "checkpoint", WORK.config, {"checkpoint": "c" * 64}),
            "was made from another --checkpoint (aaaaaa, not cccccc).",
        ),
        (
            Provenance("sft", "checkpoint", WORK.config, WORK.inputs | {"data": ["d" * 64, "e" * 64]}),
            "was made from another --data (none, not [dddddd eeeeee]).",
        ),
    ],
    ids=["stage", "knob", "input", "list of inputs"],
)
def test_other_work_at_the_same_place_is_refused_by_its_first_difference(tmp_path, wanted, said):
    write(tmp_path / "a")
    with pytest.raises(GtrTurboError) as error:
        finished(tmp_path / "a", wanted)
    assert str(error.value) == f"{tmp_path / 'a'} exists and {said}\nchoose another --out, or add --overwrite."


def test_a_folder_that_is_no_artifact_is_never_taken_for_one(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(GtrTurboError, match="exists and is no artifact of gtrturbo"):
        finished(tmp_path / "a", WORK)


def test_a_folder_without_manifest_is_an_unfinished_stage(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(GtrTurboError, match=r"has no stage.json: the stage did not finish.\nrun it again with the same --out"):
        read_manifest(tmp_path / "a")


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(GtrTurboError, match="nowhere does not exist"):
        artifact_id(tmp_path / "nowhere")


def test_an_artifact_of_another_kind_is_refused_with_the_command_that_makes_the_right_one(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(GtrTurboError, match=r"holds checkpoint \(made by sft\), not turns.\nmake one with: gtrturbo rollout"):
        read_manifest(tmp_path / "a", "turns")


@pytest.mark.parametrize("content", ["{", '{"format": 1}'])
def test_a_damaged_manifest_is_called_damaged(tmp_path, content):
    write(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).write_text(content)
    with pytest.raises(GtrTurboError, match=r"stage\.json is damaged"):
        read_manifest(tmp_path / "a")


def test_metrics_that_are_nan_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError), writing(tmp_path / "a", WORK) as draft:
        draft.metrics = {"loss": float("nan")}
    assert left_behind(tmp_path) == []


def test_nan_is_refused_in_json_files(tmp_path):
    with pytest.raises(ValueError):
        save_json(tmp_path / "metrics.json", {"loss": float("nan")})


def test_an_untouched_artifact_has_no_damage(tmp_path):
    write(tmp_path / "a")
    assert damaged_files(tmp_path / "a") == []


def test_a_flipped_bit_a_missing_and_an_added_file_are_found(tmp_path):
    out = write(tmp_path / "a").out
    (out / "model.bin").write_bytes(bytes([ord("w") ^ 1]) + b"eights")
    (out / "images" / "a.png").unlink()
    (out / "extra.txt").write_text("?")
    assert damaged_files(out) == ["extra.txt", "images/a.png", "model.bin"]


# N = 3 turns; the second has an empty prompt and the third an empty reply.
RAGGED = TurnTokens(
    prompt_ids=[np.array([5, 6, 7], np.int32), np.array([], np.int32), np.array([8], np.int32)],
    response_ids=[np.array([1, 2], np.int32), np.array([3], np.int32), np.array([], np.int32)],
    response_spans=[np.array([[0, 3], [3, 3]], np.int32), np.array([[0, 1]], np.int32), np.empty((0, 2), np.int32)],
    thought_mask=[np.array([True, False]), np.array([False]), np.array([], bool)],
    action_mask=[np.array([False, True]), np.array([True]), np.array([], bool)],
    sample_logprobs=[np.array([-0.5, -1.5], np.float32), np.array([-2.0], np.float32), np.array([], np.float32)],
)


def same_rows(left, right) -> bool:
    return len(left) == len(right) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("rows", [RAGGED, TurnTokens([], [], [], [], [], [])], ids=["three turns", "no turns"])
def test_tokens_of_turns_come_back_as_they_were(tmp_path, rows):
    save_turn_tokens(tmp_path / "tokens.safetensors", rows)
    back = load_turn_tokens(tmp_path / "tokens.safetensors")
    for name, values in vars(rows).items():
        assert same_rows(getattr(back, name), values), name


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_scores_come_back_as_they_were_with_an_empty_row_anywhere(tmp_path, empty):
    rows = [np.array([] if i == empty else [-i - 0.25, -1.0], np.float32) for i in range(3)]
    save_scores(tmp_path / "scores.safetensors", rows)
    assert same_rows(load_scores(tmp_path / "scores.safetensors"), rows)


def test_safetensors_files_have_exactly_one_metadata_key(tmp_path):
    save_scores(tmp_path / "scores.safetensors", [np.zeros(2, np.float32)])
    content = (tmp_path / "scores.safetensors").read_bytes()
    # A safetensors file begins with the header's length, 8 bytes little-endian, and the header as JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_a_damaged_array_file_is_named_with_the_command_that_checks_it(tmp_path):
    save_scores(tmp_path / "scores.safetensors", [np.zeros(2, np.float32)])
    (tmp_path / "scores.safetensors").write_bytes(b"\x08")
    with pytest.raises(GtrTurboError, match=rf"scores.safetensors cannot be read: .*\nsee: gtrturbo show {tmp_path} --check"):
        load_scores(tmp_path / "scores.safetensors")


def test_equal_pictures_are_one_file_and_different_ones_are_two(tmp_path):
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    first, again, other = save_image(tmp_path, black), save_image(tmp_path, black.copy()), save_image(tmp_path, white)
    assert first == again != other
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_pictures_of_equal_bytes_and_another_shape_are_two_files(tmp_path):
    assert save_image(tmp_path, np.zeros((4, 6, 3), np.uint8)) != save_image(tmp_path, np.zeros((6, 4, 3), np.uint8))


def test_seeds_are_those_of_every_other_process_and_machine():
    # printf 0/episode/1 | sha256sum | cut -c1-16, and the same of 7/ppo.
    assert seed_for(0, "episode", 1) == 0xB2B0D0B82060CE44 >> 1
    assert seed_for(7, "ppo") == 0x3188B1BA4A22CFDE >> 1


def test_a_foreign_model_folder_is_identified_by_its_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"1")
    assert artifact_id(tmp_path / "a") == artifact_id(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"2")
    assert artifact_id(tmp_path / "a") != artifact_id(tmp_path / "b")


def test_foreign_model_folders_are_the_same_where_all_their_files_are(tmp_path):
    def write(name, weights, config="{}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        return tmp_path / name

    size = 1 << 20  # Many times what is read at once.
    a = write("a", b"1" * (size + 1))
    assert same_artifact(a, a) and same_artifact(a, write("copy", b"1" * (size + 1)))
    assert not same_artifact(a, write("last", b"1" * size + b"2"))
    assert not same_artifact(a, write("longer", b"1" * (size + 2)))
    assert not same_artifact(a, write("configured", b"1" * (size + 1), "[]"))
    (write("more", b"1" * (size + 1)) / "x.json").touch()
    assert not same_artifact(a, tmp_path / "more")
    with pytest.raises(GtrTurboError, match="does not exist"):
        same_artifact(a, tmp_path / "nowhere")


def test_artifacts_are_the_same_where_their_ids_are(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("a", "b"):
        (tmp_path / name / MANIFEST).write_text("{}")
    assert same_artifact(tmp_path / "a", tmp_path / "b")
    assert not same_artifact(tmp_path / "a", tmp_path / "c")
    (tmp_path / "b" / MANIFEST).write_text("[]")
    assert not same_artifact(tmp_path / "a", tmp_path / "b")


def test_a_writer_that_waited_for_the_lock_does_not_replace_what_was_finished_meanwhile(tmp_path, monkeypatch):
    lock = claims._locked

    def lock_late(place, busy):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / MANIFEST).write_text("the first writer's")
        return lock(place, busy)

    monkeypatch.setattr(claims, "_locked", lock_late)
    with pytest.raises(GtrTurboError, match="exists"):
        write(tmp_path / "out")
    assert (tmp_path / "out" / MANIFEST).read_text() == "the first writer's"


def test_what_others_put_in_the_place_while_it_was_written_stays(tmp_path):
    with pytest.raises(GtrTurboError, match="exists and is no artifact"), writing(tmp_path / "out", WORK):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work" and left_behind(tmp_path) == ["out"]
