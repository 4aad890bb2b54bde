"""A checkpoint on the hub: what is sent, what goes because of it, and what is refused before anything is sent."""

import json
import shlex
import shutil

import huggingface_hub
import pytest
from parsed import parsed

from gtrturbo.config import PushConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.report.pushing import push
from gtrturbo.stages import execute


def test_all_but_the_optimiser_is_sent_with_a_card(ppo, hub):
    assert push(PushConfig(checkpoint=ppo, repository="me/lake", private=True)) == "https://hub/me/lake"
    manifest = json.loads((ppo / "stage.json").read_text())
    expected = {name for name in manifest["files"] if not name.startswith("optimizer")} | {"stage.json", "README.md"}
    assert set(hub.files) - {".gitattributes"} == expected and hub.commits == 1
    assert "optimizer.safetensors" in manifest["files"]  # Else nothing was left out.
    assert hub.files["model.safetensors"] == (ppo / "model.safetensors").read_bytes()
    assert hub.private is True


def test_whether_a_new_repository_is_private_is_the_owners_to_say_where_nothing_is_asked(ppo, hub):
    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert hub.asked is None  # False would make it public in an organisation where all that is new is private.


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_public_repository_is_sent_nothing_that_is_to_be_private(ppo, hub, dry_run):
    hub.files, hub.private = {"README.md": b"for all"}, False
    with pytest.raises(GtrTurboError, match="me/lake is there already, and everybody can read it") as refused:
        push(PushConfig(checkpoint=ppo, repository="me/lake", private=True, dry_run=dry_run))
    assert "make it private in its settings" in refused.value.fix
    assert (hub.files, hub.commits) == ({"README.md": b"for all"}, 0)


@pytest.mark.parametrize("private", [True, False])
def test_a_private_repository_is_sent_what_is_to_be_private_and_stays_so(ppo, hub, private):
    hub.files, hub.private = {}, True
    push(PushConfig(checkpoint=ppo, repository="me/lake", private=private))
    assert hub.private and "model.safetensors" in hub.files


# What was there before: files that would be loaded in the place of what is sent, and files of others.
LOADED_BEFORE = (
    *("adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"),
    *("chat_template.json", "base/model.safetensors", "additional_chat_templates/other.jinja", "model[1].safetensors"),
)
OF_OTHERS = (".gitattributes", "LICENSE", "notes/config.json", "lake.gguf", "picture.png", "training_args.bin")


def test_what_would_be_loaded_in_the_place_of_what_is_sent_goes_and_files_of_others_stay(ppo, hub, capsys):
    hub.files, hub.private = dict.fromkeys((*LOADED_BEFORE, *OF_OTHERS, "model.safetensors"), b"old"), False
    push(PushConfig(checkpoint=ppo, repository="me/lake", dry_run=True))
    said = capsys.readouterr().out
    assert said.partition("Removed from me/lake")[2].splitlines()[1:] == sorted(LOADED_BEFORE) and hub.commits == 0
    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert not hub.files.keys() & set(LOADED_BEFORE) and hub.commits == 1
    assert {name: hub.files[name] for name in OF_OTHERS} == dict.fromkeys(OF_OTHERS, b"old")
    assert hub.files["model.safetensors"] == (ppo / "model.safetensors").read_bytes()
    told = capsys.readouterr().err
    assert all(name in told for name in LOADED_BEFORE) and "LICENSE" not in told
    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    assert "Removed" not in capsys.readouterr().err


def test_full_weights_after_an_adapter_load_as_they_were_sent(ppo, lora, hub, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText

    for checkpoint in (lora, ppo):
        push(PushConfig(checkpoint=checkpoint, repository="me/lake"))
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    sent, kept = (AutoModelForImageTextToText.from_pretrained(path).state_dict() for path in (tmp_path, ppo))
    assert sent.keys() == kept.keys() and all(torch.equal(sent[name], kept[name]) for name in kept)


def test_a_dry_run_that_does_not_reach_the_hub_says_so_and_prints_the_rest(ppo, hub, capsys, monkeypatch):
    monkeypatch.setattr("gtrturbo.report.hub.is_hub_reached", lambda: False)
    push(PushConfig(checkpoint=ppo, repository="me/lake", dry_run=True))
    told = capsys.readouterr()
    assert "Files for me/lake:" in told.out and "what me/lake holds was not looked up" in told.err


def test_what_is_sent_loads_in_plain_transformers(ppo, hub, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText

    push(PushConfig(checkpoint=ppo, repository="me/lake"))
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    sent, kept = (AutoModelForImageTextToText.from_pretrained(path).state_dict() for path in (tmp_path, ppo))
    assert all(torch.equal(sent[name], kept[name]) for name in kept)


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


def test_a_dry_run_sends_nothing(ppo, hub, capsys):
    assert push(PushConfig(checkpoint=ppo, repository="me/lake", dry_run=True)) == ""
    said = capsys.readouterr()
    assert "model.safetensors" in said.out and "optimizer.safetensors" not in said.out and "Removed" not in said.out
    assert (hub.repository, said.err) == (None, "")


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
