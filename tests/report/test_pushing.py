"""A checkpoint on the hub: what is sent, what the card says, and what is refused before anything is sent."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from parsed import parsed

from gtrturbo.config import EvalConfig, PushConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.report.pushing import push
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file


@pytest.fixture(scope="module")
def evaluation(root, ppo) -> Path:
    return execute(
        EvalConfig(
            out=root / "pushed_eval", checkpoint=ppo, task="numberline", env=("image=tiny",), episodes=4, max_new_tokens=48
        )
    ).out


@pytest.fixture
def hub(monkeypatch):
    """A hub that keeps what it is sent."""
    sent = SimpleNamespace(repository=None, private=None, files={})

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, name, *, private, exist_ok):
            assert exist_ok
            sent.repository, sent.private = name, private
            return f"https://hub/{name}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            assert repo_id == sent.repository
            assert commit_message.startswith("gtrturbo ")
            folder = Path(folder_path)
            sent.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return sent


def test_all_but_the_optimiser_is_sent_with_a_card(ppo, hub):
    assert push(PushConfig(checkpoint=ppo, repository="me/lake", private=True)) == "https://hub/me/lake"
    manifest = json.loads((ppo / "stage.json").read_text())
    expected = {name for name in manifest["files"] if not name.startswith("optimizer")} | {"stage.json", "README.md"}
    assert set(hub.files) == expected
    assert "optimizer.safetensors" in manifest["files"]  # Else nothing was left out.
    assert hub.files["model.safetensors"] == (ppo / "model.safetensors").read_bytes()
    assert hub.private is True


def test_what_is_sent_loads_in_plain_transformers(ppo, hub, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText

    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    sent, kept = (AutoModelForImageTextToText.from_pretrained(path).state_dict() for path in (tmp_path, ppo))
    assert all(torch.equal(sent[name], kept[name]) for name in kept)


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
    assert "--method turbo-kl --task numberline --env image=tiny --env horizon=5 --seed 7 --start START --out RUN" in card
    assert "- turbo-kl\n- numberline\n" in card
    assert card.count("| numberline image=tiny |") == 1
    assert "/secret" not in card


def test_the_command_of_the_card_is_one(ppo, hub):
    from gtrturbo.config import PpoStepConfig

    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    card = hub.files["README.md"].decode()
    words = next(line for line in card.splitlines() if line.startswith("    gtrturbo ppo-step ")).split()[1:]
    assert "--rollouts" in words and "--checkpoint" in words and words[-2:] == ["--out", "OUT"]
    assert isinstance(parsed(words), PpoStepConfig)


def test_an_adapters_card_says_that_it_is_one_and_its_own_base_is_sent_along(lora, hub):
    push(PushConfig(checkpoint=lora, repository="me/lake"))
    assert "library_name: peft" in hub.files["README.md"].decode()
    assert {"adapter_model.safetensors", "base/model.safetensors", "base/config.json"} <= hub.files.keys()


def test_an_adapter_on_a_folder_of_this_machine_is_not_sent_and_its_full_weights_are(lora_warm, hub, tmp_path):
    with pytest.raises(GtrTurboError, match=r"an adapter on .*lora/base, which lies on this machine alone") as error:
        push(PushConfig(checkpoint=lora_warm, repository="me/lake", dry_run=True))
    command = error.value.fix.partition("gtrturbo ")[2].partition(" &&")[0]
    execute(parsed(shlex.split(command.replace("FULL", str(tmp_path / "full")))))
    push(PushConfig(checkpoint=tmp_path / "full", repository="me/lake"))
    assert "model.safetensors" in hub.files
    alone = shutil.copytree(lora_warm, tmp_path / "alone")
    with pytest.raises(GtrTurboError, match=r"an adapter on .*lora/base, which is not there: nobody who fetches") as error:
        push(PushConfig(checkpoint=alone, repository="me/lake"))
    assert "--base BASE --out FULL" in error.value.fix


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


def test_a_dry_run_sends_nothing(ppo, hub, capsys):
    assert push(PushConfig(checkpoint=ppo, repository="me/lake", dry_run=True)) == ""
    said = capsys.readouterr().out
    assert "model.safetensors" in said and "optimizer.safetensors" not in said
    assert hub.repository is None


def test_an_evaluation_of_another_checkpoint_is_refused(warm, evaluation, hub):
    with pytest.raises(GtrTurboError, match="is of checkpoint"):
        push(PushConfig(checkpoint=warm, repository="me/lake", evaluations=(evaluation,)))
    assert hub.repository is None


def test_a_changed_checkpoint_is_refused(ppo, hub, tmp_path):
    copy = shutil.copytree(ppo, tmp_path / "ppo")
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(GtrTurboError, match=r"model\.safetensors"):
        push(PushConfig(checkpoint=copy, repository="me/lake"))
    assert hub.repository is None


def test_a_link_out_of_the_checkpoint_is_not_followed(ppo, hub, tmp_path):
    copy = shutil.copytree(ppo, tmp_path / "ppo")
    secret = tmp_path / "secret"
    shutil.copy(copy / "config.json", secret)
    (copy / "config.json").unlink()
    (copy / "config.json").symlink_to(secret)
    with pytest.raises(GtrTurboError):
        push(PushConfig(checkpoint=copy, repository="me/lake"))
    assert hub.repository is None


@pytest.mark.parametrize("name", ["lake", "me/lake/x", "../lake", "me/", "me/la ke", "me/--x", "me/a..b", "https://hub/me/lake"])
def test_a_name_that_is_no_repositorys_is_refused(name, ppo):
    from parsed import parsed

    with pytest.raises((GtrTurboError, AssertionError), match="no name of a repository"):
        parsed(["push", str(ppo), name])


def test_a_connection_that_is_not_made_is_told(ppo, monkeypatch):
    # Nothing listens at the address; the client and its errors are the real ones.
    monkeypatch.setenv("HF_TOKEN", "none")
    made = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **how: made(endpoint="http://127.0.0.1:9", **how))
    with pytest.raises(GtrTurboError, match="the hub did not take me/lake: ") as refused:
        push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert refused.value.fix == "check the connection, then give the same command again."


def test_what_the_hub_says_is_told_in_one_line(ppo, monkeypatch):
    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, *_, **__):
            raise OSError("no\nroute \x1b[31mthere")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(GtrTurboError) as refused:
        push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert "\n" not in refused.value.what and "\x1b" not in refused.value.what
