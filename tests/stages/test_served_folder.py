"""The folder that a server names proves what it loaded only where it is the one that lay there when the server began."""

import os
import shutil
import time
from pathlib import Path

import pytest
from fake_server import serving

from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.under_adapter import base_of
from gtrturbo.play import served_folder
from gtrturbo.play.served_folder import require_own_folder
from gtrturbo.play.server import Server
from gtrturbo.stages import execute

LATER = 0.05  # seconds, more than the clock of files is coarse


@pytest.fixture
def checkpoint(warm, tmp_path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "trained"))


@pytest.fixture(scope="module")
def served(warm):
    return load_policy(warm, device="cpu")


def proves(served, path, root, **settings) -> bool:
    with serving(served, root=str(root), **settings) as fake:
        return require_own_folder(Server("vllm", fake.url), path)


def test_a_folder_that_lay_there_before_the_server_began_proves_what_it_loaded(served, checkpoint):
    time.sleep(LATER)
    assert proves(served, checkpoint, checkpoint)


def test_a_server_of_our_own_began_when_we_say_whatever_its_process_tells(served, checkpoint):
    cut = time.time() - 1  # As Linux tells it, from when the machine was started to a second.
    time.sleep(LATER)
    with serving(served, root=str(checkpoint), started=cut) as fake:
        assert require_own_folder(Server("vllm", fake.url, own=lambda: None, began=time.time()), checkpoint)
        assert not require_own_folder(Server("vllm", fake.url, own=lambda: None), checkpoint)


def test_a_checkpoint_that_was_made_anew_at_the_same_path_proves_nothing(served, warm, checkpoint):
    began = time.time()
    time.sleep(LATER)
    shutil.rmtree(checkpoint)
    shutil.copytree(warm, checkpoint)
    for file in checkpoint.iterdir():
        os.utime(file, (1, 1))  # What copies it may keep the times of its contents.
    assert not proves(served, checkpoint, checkpoint, started=began)


def test_a_checkpoint_that_was_moved_to_the_same_path_proves_nothing(served, warm, checkpoint):
    shutil.copytree(warm, checkpoint.with_name("other"))
    time.sleep(LATER)
    began = time.time()
    time.sleep(LATER)
    shutil.rmtree(checkpoint)
    checkpoint.with_name("other").rename(checkpoint)
    assert not proves(served, checkpoint, checkpoint, started=began)


@pytest.mark.parametrize("below", ["", "0001"])
def test_a_link_that_was_moved_since_proves_nothing_and_an_older_one_does(served, warm, checkpoint, tmp_path, below):
    latest, aim = tmp_path / "latest", tmp_path / "run" if below else checkpoint
    if below:
        shutil.copytree(warm, aim / below)
        checkpoint = aim / below
    latest.symlink_to(aim)
    time.sleep(LATER)
    began = time.time()
    assert proves(served, checkpoint, latest / below)
    time.sleep(LATER)
    latest.unlink()
    latest.symlink_to(aim)
    assert not proves(served, checkpoint, latest / below, started=began)


def test_where_nobody_says_when_the_server_began_its_folder_proves_nothing_but_may_refute(served, init, checkpoint):
    assert not proves(served, checkpoint, checkpoint, started=None)
    with pytest.raises(GtrTurboError, match="whose weights are not those of"):
        proves(served, checkpoint, init, started=None)


def test_weights_before_any_training_need_no_proof_by_folder(served, init):
    assert proves(served, init, init, started=None)


@pytest.mark.parametrize("trained", [False, True])
def test_the_base_of_an_adapter_is_looked_at_where_it_was_trained(served, lora_warm, monkeypatch, trained):
    base = base_of(lora_warm)
    monkeypatch.setattr(served_folder, "_is_trained", lambda path: trained and path == Path(base))
    for began, seen in ((time.time(), True), (1.0, not trained)):
        with serving(served, root=base, started=began) as fake:
            server = Server("vllm", fake.url)
            server.load_adapter("mine", lora_warm)
            assert require_own_folder(server, lora_warm) == seen


@pytest.mark.parametrize(("ahead", "expected"), [(0.0, 0.0), (300.0, 0.0), (-300.0, -300.0)])
def test_a_servers_clock_makes_it_begin_no_later_than_it_did(served, monkeypatch, ahead, expected):
    """It began 60 seconds ago; its clock is ahead or behind, and /v1/models tells what it shows now."""
    now = time.time()
    with serving(served, started=now - 60 + ahead) as fake:
        server = Server("vllm", fake.url)
        listed = server._ask

        def ask(path, kind, *given):
            return kind([type(each)(each.id, each.root, int(now + ahead)) for each in listed(path, kind, *given).data])

        monkeypatch.setattr(server, "_ask", ask)
        assert server.started() == pytest.approx(now - 60 + expected, abs=5)


@pytest.mark.parametrize("said", ["nan", "inf", "1e999", "", "x", "-"])
def test_a_start_that_is_no_time_is_none(served, said):
    with serving(served, started=said) as fake:
        assert Server("vllm", fake.url).started() is None


def test_a_rollout_says_that_a_folder_made_anew_proves_nothing(served, checkpoint, tmp_path, capsys):
    play = {"task": "numberline", "env": ("image=tiny",), "episodes": 1, "max_new_tokens": 16, "num_envs": 1}
    with serving(served, root=str(checkpoint), started=time.time() - 100) as fake:
        execute(RolloutConfig(out=tmp_path / "x", checkpoint=checkpoint, engine=f"vllm:{fake.url}", **play))
    assert " ".join(capsys.readouterr().err.split()).count("was not changed since it started") == 1


def test_where_another_model_of_the_server_is_the_checkpoint_the_hint_names_it(checkpoint, init, tmp_path):
    class Listing:
        base_url, name, model = "http://there", "first", "first"

        def __init__(self, **roots):
            self.roots = lambda: {name: str(root) for name, root in roots.items()}

    with pytest.raises(GtrTurboError, match=r"serves .* as first, whose weights") as told:
        require_own_folder(Listing(first=init, empty=tmp_path, gone="/none", second=checkpoint), checkpoint)
    assert told.value.fix == f"it serves {checkpoint} as second: add --served-model second"
    with pytest.raises(GtrTurboError, match="as first, whose weights") as told:
        require_own_folder(Listing(first=init, other=init), checkpoint)
    assert told.value.fix == f"serve that checkpoint: start vLLM with --model {checkpoint}"
