"""The card of a checkpoint on the hub: what it says, and what of this machine it does not."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from parsed import parsed

from gtrturbo.analysis.record import record_run
from gtrturbo.config import InitConfig, PushConfig, RunConfig
from gtrturbo.report.card import card_of
from gtrturbo.report.pushing import push
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing


def test_the_card_tells_the_evaluation_the_command_and_the_inputs(ppo, warm, evaluation, hub):
    push(PushConfig(checkpoint=ppo, repository="me/lake", evaluations=(evaluation,)))
    card, numbers = hub.files["README.md"].decode(), json.loads((evaluation / "metrics.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n")
    assert f"| 4 | {numbers['success_rate']:.3f} [{numbers['success_low']:.3f}, {numbers['success_high']:.3f}] |" in card
    assert "| numberline image=tiny |" in card
    assert f"`{sha256_file(warm / 'stage.json')}`" in card
    assert "--no-detach-value" in card and "--learning-rate 0.0001" in card


def test_the_card_of_a_runs_checkpoint_tells_the_run_and_its_evaluations(ppo, evaluation, hub, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ppo, run / "checkpoints" / "0001")
    shutil.copytree(evaluation, run / "evals" / "0001")
    shutil.copytree(evaluation, run / "evals" / "0000")
    other = run / "evals" / "0000" / "stage.json"
    other.write_text(other.read_text().replace(sha256_file(ppo / "stage.json"), "0" * 64))
    config = {"method": "turbo-kl", "task": "numberline", "env": ["image=tiny", "horizon=5"], "seed": 7, "start": "/secret/place"}
    (run / "run.json").write_text(json.dumps({"version": "0.2.0", "config": config}))
    push(PushConfig(checkpoint=run / "checkpoints" / "0001", repository="me/lake"))
    card = hub.files["README.md"].decode()
    assert "--method turbo-kl --start START --task numberline --env image=tiny --env horizon=5 --seed 7 --out RUN" in card
    assert "- turbo-kl\n- numberline\n" in card
    assert card.count("| numberline image=tiny |") == 1
    assert "/secret" not in card


def run_of(checkpoint: Path, run: Path, part: str, **settings) -> Path:
    """A run with these settings, in which a checkpoint lies."""
    shutil.copytree(checkpoint, run / part / "0005")
    record_run(RunConfig(out=run, **settings), replace=True)
    return run / part / "0005"


PLACES = {
    "method": "/srv/client-x/methods.py:MINE",
    "model": "/srv/client-x/models/base",
    "start": Path("/srv/client-x/start"),
    "teacher": Path("/srv/client-x/teacher"),
    "more_teachers": (Path("openai:client-x/model"), Path("/srv/client-x/teachers.py:TERSE")),
    "teacher_weights": "2,1,1",
    "address": "http://10.1.2.3:8000",
    "task": "/srv/client-x/secret_task.py:TASK",
    "env": ("image=tiny", "file=/srv/client-x/world.py:WORLD", "url=https://client-x.example/a", "level=./client-x/a"),
    "eval_env": ("deals=held-out",),
    "set": (
        *("eval.panel=/srv/client-x/panel", "rollout.engine=vllm:http://10.1.2.3:8000", "eval.env=map=~/client-x/map"),
        *("ppo-step.clip-range=0.2", "distill.mode=/srv/client-x/modes.py:MODE", "distill.prompt=client-x/words/prompt"),
    ),
    "label": "mine",
    "eval_teachers": True,
}


def told_command(card: str, command: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"    gtrturbo {command} "))
    return shlex.split(line)[1:]


def test_the_card_tells_no_place_and_no_address_and_its_command_can_be_given(ppo, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("gtrturbo.analysis.record.own_code", lambda config: {})  # There is no such file.
    checkpoint = run_of(ppo, tmp_path / "run", "checkpoints", **PLACES)
    push(PushConfig(checkpoint=checkpoint, repository="me/lake"))
    card = hub.files["README.md"].decode()
    assert not re.search(r"client-x|10\.1\.2\.3|/srv", card)
    words = told_command(card, "run")
    config = parsed(words)
    assert (config.method, config.task, config.model) == ("methods.py:MINE", "secret_task.py:TASK", "MODEL")
    assert list(map(str, (config.teacher, *config.more_teachers))) == ["TEACHER", "TEACHER", "teachers.py:TERSE"]
    assert config.env == ("image=tiny", "file=world.py:WORLD", "url=https://URL", "level=LEVEL")
    assert config.set == (
        *("eval.panel=PANEL", "rollout.engine=vllm:http://ENGINE", "eval.env=map=MAP"),
        *("ppo-step.clip-range=0.2", "distill.mode=modes.py:MODE", "distill.prompt=PROMPT"),
    )
    assert (config.eval_env, config.teacher_weights, config.label) == (("deals=held-out",), "2,1,1", "mine")
    assert config.address == "http://ADDRESS"
    assert "- methods.py:MINE\n- secret_task.py:TASK\n" in card and config.eval_teachers


@pytest.mark.parametrize("task", ["gym:ALE/Pong-v5", "gym:ale_py:ALE/Pong-v5", "minigrid:MiniGrid-Empty-5x5-v0", "my.tasks:LAKE"])
def test_names_that_are_no_places_are_told(ppo, hub, tmp_path, task):
    checkpoint = run_of(ppo, tmp_path / "run", "checkpoints", method="ppo", model="Qwen/Qwen2.5-VL-3B-Instruct", task=task)
    push(PushConfig(checkpoint=checkpoint, repository="me/lake"))
    words = told_command(hub.files["README.md"].decode(), "run")
    assert (words[words.index("--task") + 1], words[words.index("--model") + 1]) == (task, "Qwen/Qwen2.5-VL-3B-Instruct")


def test_a_model_that_the_run_took_from_a_folder_is_told_by_no_name(ppo, init, hub, tmp_path, monkeypatch):
    # The folder is not to be seen from here, and its name has the form of an id.
    shutil.copytree(init, tmp_path / "client" / "model")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    execute(InitConfig(out=run / "init", model="client/model"))
    checkpoint = run_of(ppo, run, "checkpoints", method="ppo", model="client/model")
    monkeypatch.chdir("/")
    push(PushConfig(checkpoint=checkpoint, repository="me/lake"))
    words = told_command(hub.files["README.md"].decode(), "run")
    assert words[words.index("--model") + 1] == "MODEL"
    push(PushConfig(checkpoint=run / "init", repository="me/lake"))
    assert told_command(hub.files["README.md"].decode(), "init").count("--model") == 1


def test_a_merged_teacher_is_told_as_one_and_what_lies_elsewhere_in_a_run_as_of_none(ppo, hub, tmp_path):
    told = {"checkpoints": "of the checkpoints of this run", "teachers": "of the merged teachers of this run", "kept": None}
    for part, wanted in told.items():
        checkpoint = run_of(ppo, tmp_path / part, part, method="ppo")
        push(PushConfig(checkpoint=checkpoint, repository="me/lake"))
        card = hub.files["README.md"].decode()
        assert (f"Number 0005 {wanted}:" in card) if wanted else "of this run" not in card and "- numberline" not in card


@pytest.mark.parametrize(
    ("config", "tag"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "text-generation"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}}, "image-text-to-text"),
        ({"architectures": ["MolmoForCausalLM"], "vision_config": {}}, "image-text-to-text"),
        ({"architectures": ["CLIPModel"], "vision_config": {}}, None),
        ({"architectures": ["T5ForConditionalGeneration"]}, None),
        ({}, None),
    ],
)
def test_the_card_names_the_task_of_a_model_by_its_config(tmp_path, config, tag):
    with writing(tmp_path / "made", Provenance("merge", "checkpoint", {"method": "linear"}, {})) as draft:
        (draft.folder / "config.json").write_text(json.dumps(config))
    card = card_of(tmp_path / "made", read_manifest(tmp_path / "made", "checkpoint"), ())
    assert f"pipeline_tag: {tag}\n" in card if tag else "pipeline_tag" not in card


def test_nothing_that_is_sent_names_a_folder_of_this_machine(ppo, root, hub):
    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert not [name for name, content in hub.files.items() if str(root).encode() in content]


def test_the_command_of_the_card_is_one(ppo, hub):
    from gtrturbo.config import PpoStepConfig

    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    card = hub.files["README.md"].decode()
    words = next(line for line in card.splitlines() if line.startswith("    gtrturbo ppo-step ")).split()[1:]
    assert "--rollouts" in words and "--checkpoint" in words and words[-2:] == ["--out", "OUT"]
    assert isinstance(parsed(words), PpoStepConfig)


def test_the_card_of_an_adapter_on_a_model_of_the_hub_names_it_and_one_that_is_not_here_is_told(lora_warm, hub, tmp_path, capsys):
    adapter = shutil.copytree(lora_warm, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "some/model"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    manifest = json.loads((adapter / "stage.json").read_text())
    manifest["files"]["adapter_config.json"] = sha256_file(adapter / "adapter_config.json")
    (adapter / "stage.json").write_text(json.dumps(manifest))
    push(PushConfig(checkpoint=adapter, repository="me/lake"))
    assert "base_model: some/model\n" in hub.files["README.md"].decode()
    assert "on some/model, which is not on this machine" in capsys.readouterr().err
