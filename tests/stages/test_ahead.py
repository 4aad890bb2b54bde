"""merge --ahead: which checkpoints a teacher moves to, by what they returned when they played."""

import json
import shutil
from dataclasses import replace

import pytest

from gtrturbo.config import MergeConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.stages import execute
from gtrturbo.stages.ahead import only_ahead
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST


@pytest.fixture
def checkpoints(tmp_path, warm):
    """A base and four checkpoints: folders with manifests of their own, which is all that the gate looks at."""
    made = []
    for number in range(5):
        folder = tmp_path / f"checkpoint{number}"
        folder.mkdir()
        manifest = json.loads((warm / MANIFEST).read_text())
        manifest["config"]["steps"] = number + 1
        (folder / MANIFEST).write_text(json.dumps(manifest))
        made.append(folder)
    return made


@pytest.fixture
def played(tmp_path, turns):
    """Write turns that a checkpoint played, of which the manifest alone is looked at."""

    def play(checkpoint, returned, illegal=0.0, **config):
        folder = tmp_path / f"of-{checkpoint.name}-{returned}"
        folder.mkdir()
        manifest = json.loads((turns / MANIFEST).read_text())
        manifest["inputs"]["checkpoint"] = artifact_id(checkpoint)
        manifest["metrics"] |= {"return_mean": returned, "illegal_rate": illegal}
        manifest["config"] |= config
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return folder

    return play


@pytest.mark.parametrize(
    ("returned", "illegal", "taken"),
    [
        ((0.0, 1.0, 2.0, 3.0, 4.0), (0.0,) * 5, [1, 2, 3, 4]),
        ((0.0, -1.0, 1.0, 0.5, 2.0), (0.0,) * 5, [2, 4]),
        ((0.0, 0.0, 0.0, 0.0, 0.0), (0.0,) * 5, []),  # As good is not ahead.
        ((0.0, 3.0, 2.0, 2.5, 2.9), (0.0,) * 5, [1]),  # Ahead of the base is not ahead of the teacher.
        ((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 0.05, 0.06, 0.5, 0.0), [1, 4]),  # What wins by illegal replies is no teacher.
        ((0.0, 1.0, 2.0, 3.0, 4.0), (0.3, 0.3, 0.31, 0.1, 0.2), [1, 3]),  # No worse than the last one, where that was worse.
    ],
)
def test_a_checkpoint_is_taken_where_it_returned_more_than_the_last_one_that_was(checkpoints, played, returned, illegal, taken):
    rollouts = [played(*each) for each in zip(checkpoints, returned, illegal, strict=True)]
    base, *others = checkpoints
    assert only_ahead(base, others, rollouts[::-1]) == tuple(checkpoints[number] for number in taken)


def test_a_checkpoint_that_has_not_played_is_left_out_and_told(checkpoints, played, capsys):
    base, first, second, *_ = checkpoints
    assert only_ahead(base, (first, second), [played(base, 0.0), played(second, 1.0)]) == (second,)
    assert f"{first} has not played" in capsys.readouterr().err.replace("\n", "")


def test_turns_that_say_nothing_of_these_checkpoints_are_refused(checkpoints, played, expert):
    base, first, second, *_ = checkpoints
    of_base = played(base, 0.0)
    with pytest.raises(GtrTurboError, match="was played by none of the checkpoints"):
        only_ahead(base, (first,), [of_base, played(second, 1.0)])
    with pytest.raises(GtrTurboError, match="none of the turns was played by"):
        only_ahead(base, (first,), [played(first, 1.0)])
    with pytest.raises(GtrTurboError, match="were played by the same checkpoint"):
        only_ahead(base, (first,), [of_base, played(base, 2.0)])
    with pytest.raises(GtrTurboError, match="was not played by a checkpoint"):
        only_ahead(base, (first,), [of_base, expert])
    silent = played(second, 5.0)
    manifest = json.loads((silent / MANIFEST).read_text())
    del manifest["metrics"]["illegal_rate"]
    (silent / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(GtrTurboError, match="does not say what its episodes returned"):
        only_ahead(base, (first, second), [of_base, silent])
    with pytest.raises(GtrTurboError, match="played on another task than"):
        only_ahead(base, (first,), [of_base, played(first, 3.0, task="blackjack")])


def test_merge_ahead_is_the_merge_of_those_that_were(root, tmp_path, warm, expert, played):
    config = SftConfig(out=root / "s", data=(expert,), checkpoint=warm, steps=1, learning_rate=1e-3, batch_size=4)
    made = [execute(replace(config, out=tmp_path / f"learned{seed}", seed=seed)).out for seed in range(2)]
    rollouts = (played(warm, 0.0), played(made[0], -1.0), played(made[1], 1.0))
    gated = MergeConfig(out=tmp_path / "gated", base=warm, checkpoints=tuple(made), ahead=rollouts)
    plain = MergeConfig(out=tmp_path / "plain", base=warm, checkpoints=(made[1],))
    assert execute(gated).id == execute(plain).id
    assert read_manifest(gated.out).inputs["checkpoints"] == [artifact_id(made[1])]
    shutil.rmtree(plain.out)
    none = replace(gated, out=tmp_path / "none", ahead=(rollouts[0],))
    assert execute(none).id == execute(MergeConfig(out=tmp_path / "base", base=warm)).id
