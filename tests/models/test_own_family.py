"""A model family of the user's own: chosen at init, written beside the model as data, and read by every later stage."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gtrturbo.config import InitConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.families import FAMILIES, family_of, find_family, read_family
from gtrturbo.stages import execute, existing
from gtrturbo.store.manifest import read_manifest

OWN = f"{Path(__file__).parents[1] / 'plugins' / 'plain_family.py'}:FAMILY"


@pytest.fixture(scope="module")
def born(tmp_path_factory):
    out = tmp_path_factory.mktemp("family") / "init"
    words = ["init", "--model", "tiny", "--lora-rank", "2", "--family", OWN, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "gtrturbo", *words], check=True, capture_output=True)
    return out


@pytest.mark.long
def test_the_family_is_written_beside_the_model_and_named_in_the_manifest(born):
    manifest = read_manifest(born)
    assert manifest.config["family"] == "plain_family.py:FAMILY"
    assert manifest.plugins["family"]["name"] == "plain_family.py:FAMILY"
    assert json.loads((born / "family.json").read_text())["picture_ids"] == ["image_token_id"]
    assert "family.json" in manifest.files


def test_it_decides_what_gets_an_adapter_and_what_is_never_sampled(born, init):
    policy, usual = load_policy(born, device="cpu"), load_policy(init, device="cpu")
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in policy.model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}
    assert policy.forbidden.tolist() == [policy.model.config.image_token_id]
    assert len(usual.forbidden) > 1


def test_a_checkpoint_that_is_trained_from_it_is_of_the_same_family(born, expert, tmp_path):
    trained = execute(SftConfig(out=tmp_path / "sft", checkpoint=born, data=(expert,), steps=1)).out
    assert read_family(trained, "qwen2_5_vl") == find_family(OWN)
    turns = RolloutConfig(out=tmp_path / "turns", checkpoint=trained, task="numberline", env=("image=tiny",), episodes=1)
    assert execute(replace(turns, max_new_tokens=4, on_invalid_reply="end")).metrics["episodes"] == 1


def test_without_one_nothing_is_written_and_the_table_decides(init):
    assert not (init / "family.json").exists()
    assert read_family(init, "qwen2_5_vl") == FAMILIES["qwen2_5_vl"] == family_of("qwen2_5_vl")
    assert existing(InitConfig(out=init)) is not None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("picture_ids=('imge_token_id',)", "names imge_token_id in picture_ids, which is no id in the config of "),
        ("picture_ids=('image_token_id', 'vision_strat_token_id')", "names vision_strat_token_id in picture_ids"),
        ("repeated_id='imge_token_id'", "names imge_token_id in repeated_id"),
        ("picture_ids='image_token_id'", "has 'image_token_id' for picture_ids: Input should be a valid tuple"),
        ("towers='visual'", "has 'visual' for towers: Input should be a valid tuple"),
        ("repeated_id=('image_token_id',)", "has .'image_token_id',. for repeated_id: Input should be a valid string"),
        ("per_token=('input_ids',)", "has .'input_ids',. for per_token: Input should be a valid"),
        ("picture_ids=()", "names no picture_ids, and so forbids no token, that the config of "),
    ],
)
def test_a_family_that_forbids_nothing_it_names_is_refused(tmp_path, settings, told):
    (tmp_path / "mine.py").write_text(f"from gtrturbo.models.families import Family\nFAMILY = Family({settings})\n")
    with pytest.raises(GtrTurboError, match=told) as error:
        execute(InitConfig(out=tmp_path / "init", model="tiny", family=f"{tmp_path / 'mine.py'}:FAMILY"))
    assert error.value.fix and not (tmp_path / "init").exists()


def test_what_is_no_family_is_refused(tmp_path, init):
    (tmp_path / "mine.py").write_text("FAMILY = {'picture_ids': ()}\n")
    with pytest.raises(GtrTurboError, match="is a dict, not a Family"):
        find_family(f"{tmp_path / 'mine.py'}:FAMILY")
    with pytest.raises(GtrTurboError, match="there is no model family 'qwen2_5'") as error:
        find_family("qwen2_5")
    assert "qwen2_5_vl" in error.value.fix
    (tmp_path / "family.json").write_text('{"picture_ids": 3}')
    with pytest.raises(GtrTurboError, match=r"family.json is damaged"):
        read_family(tmp_path, "qwen2_5_vl")
