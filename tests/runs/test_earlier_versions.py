"""A run that an earlier version began goes on, and what it made keeps its id."""

import json
import tarfile
from pathlib import Path

import pytest
from parsed import parsed

from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.execute import run
from gtrturbo.runs.plan import plan
from gtrturbo.stages import existing
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest

# Killed after distill of its first update, by version 0.1.0 before there were rooms:
#   gtrturbo run --method turbo-sft --task gtrturbo/NumberLine-v0 --env horizon=5 --iterations 2 --episodes 6 --eval-episodes 4
#     --set init.dtype=bfloat16 --set expert.novice=0.5 --set expert.episodes=60 --set rollout.illegal=end
#     --set distill.retries=1 --set ppo-step.epochs=1 --seed 3 --out half
HALF = Path(__file__).parents[1] / "data" / "half-run-0.1.0.tar.xz"
MADE = ("init", "expert", "checkpoints/0000", "evals/0000", "teachers/0000", "rollouts/0000", "guidance/0000")
CALL = (
    "run --method turbo-sft --task numberline --env horizon=5 --iterations 2 --episodes 6 --eval-episodes 4 "
    "--set init.dtype=bfloat16 --set expert.random-expert-share=0.5 --set expert.episodes=60 --set rollout.on-invalid-reply=end "
    "--set distill.retries=1 --set ppo-step.epochs=1 --seed 3 --out half"
)


@pytest.fixture
def half(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(HALF) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "half"


def test_a_half_done_run_goes_on_and_what_was_there_keeps_its_id(half):
    before = {name: artifact_id(half / name) for name in MADE}
    run(parsed(CALL))
    assert {name: artifact_id(half / name) for name in MADE} == before
    assert read_manifest(half / "checkpoints" / "0001").inputs["demos"] == [before["guidance/0000"]]
    assert (half / "evals" / "0002" / "stage.json").is_file()


def test_a_finished_artifact_is_found_finished_under_either_name_of_its_task(half):
    for task in ("numberline", "gtrturbo/NumberLine-v0"):
        steps = plan(parsed(CALL.replace("--task numberline", f"--task {task}")))
        made = {str(step.config.out)[5:]: step.config for step in steps}
        assert all(existing(made[name]) for name in MADE)


def test_another_setting_is_named_as_it_is_called_now(half):
    with pytest.raises(GtrTurboError, match="was made with --on-invalid-reply end, not random"):
        run(parsed(CALL.replace("on-invalid-reply=end", "on-invalid-reply=random")))
    with pytest.raises(GtrTurboError, match=r"was made with --random-expert-share 0.5, not 0.0"):
        run(parsed(CALL.replace("expert.random-expert-share=0.5", "expert.random-expert-share=0")))


def change(folder: Path, **changes):
    file = folder / "stage.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_setting_that_is_gone_is_named_where_it_changed_something(half):
    config = json.loads((half / "guidance/0000/stage.json").read_text())["config"]
    assert config["compat"] == "none"
    change(half / "guidance" / "0000", config=config | {"compat": "release"})
    with pytest.raises(GtrTurboError, match="guidance/0000 exists and was made with --compat release, which there is no more"):
        run(parsed(CALL))


def test_an_unknown_format_is_refused_by_name(half):
    change(half / "init", format=2, version="9.1")
    with pytest.raises(GtrTurboError, match=r"init/stage.json is written in format 2, which this version does not know") as error:
        run(parsed(CALL))
    assert error.value.fix == "use the version of gtrturbo that wrote it: 9.1."
