"""ppo-step with a credit from outside the package that needs no values: nothing of a critic is made, trained or told."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from updates import prepare

from gtrturbo.algorithms.credit import CREDITS
from gtrturbo.config import PpoStepConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play.recording import read_transcript, read_turns
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.train.credit import earned_by

TESTS = Path(__file__).parent.parent
PLUGIN = "tests/plugins/mean_return_credit.py:CREDIT"
OWN = f"{TESTS / 'plugins' / 'mean_return_credit.py'}:CREDIT"
CRITIC = {"explained_variance", "value_error", "value_loss"}


@pytest.fixture(scope="module")
def own_config(root, ppo_config) -> PpoStepConfig:
    return replace(ppo_config, out=root / "own", credit=OWN)


@pytest.fixture(scope="module")
def own(own_config) -> Path:
    """One update from the warm checkpoint, which has no value head, from the command line."""
    options = {
        "--checkpoint": own_config.checkpoint, "--rollouts": own_config.rollouts, "--credit": PLUGIN, "--epochs": 1,
        "--minibatch-size": 32, "--learning-rate": 1e-4, "--seed": 5, "--out": own_config.out,
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    subprocess.run([sys.executable, "-m", "gtrturbo", "ppo-step", *words], check=True, cwd=TESTS.parent)
    return own_config.out


def test_the_advantages_are_those_worked_out_by_hand(own_config, warm, turns):
    policy = load_policy(warm, device="cpu")
    batch, _ = prepare(own_config, policy, read_transcript(turns, policy.renderer))
    played = read_turns(turns)
    # Each episode is a group of its own: its return less the mean is 0, and only texts of illegal turns earn, -2 on NumberLine.
    legal = np.array([turn.legal for turn in played])
    assert batch.advantages.numpy() == pytest.approx(np.where(legal, 0.0, -2.0))
    assert batch.old_values is None and batch.value_targets is None


def test_episodes_of_one_group_are_credited_against_each_other(own_config, warm, turns):
    policy = load_policy(warm, device="cpu")
    transcript = read_transcript(turns, policy.renderer)
    paired = [replace(turn, group=turn.episode // 2) for turn in transcript.turns]
    batch, metrics = prepare(replace(own_config, gamma=0.5), policy, replace(transcript, turns=paired))
    returns = {
        episode: sum(0.5**turn.turn * (turn.reward - 2 * (not turn.legal)) for turn in paired if turn.episode == episode)
        for episode in range(8)
    }
    raw = np.array([returns[turn.episode] - (returns[turn.group * 2] + returns[turn.group * 2 + 1]) / 2 for turn in paired])
    legal = np.array([turn.legal for turn in paired])
    spread = raw[legal].std() + 1e-5
    assert spread > 0.1 and metrics["advantage_std"] == pytest.approx(spread, abs=1e-4)
    expected = np.where(legal, (raw - raw[legal].mean()) / spread, -2.0 / spread)
    assert batch.advantages.numpy() == pytest.approx(expected, abs=1e-4)


def test_no_value_head_is_made_or_saved_and_nothing_is_told_of_one(own):
    rows = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
    assert not (own / "value_head.safetensors").exists()
    assert not [name for name in load_file(own / "optimizer.safetensors") if "value_head" in name]
    assert not CRITIC & (read_manifest(own).metrics.keys() | set().union(*rows))


def test_the_model_learns(own, warm):
    assert sha256_file(own / "model.safetensors") != sha256_file(warm / "model.safetensors")


def test_the_manifest_names_the_file_and_the_sha256_of_its_text(own, own_config):
    text = TESTS / "plugins" / "mean_return_credit.py"
    manifest = read_manifest(own)
    assert manifest.config["credit"] == "mean_return_credit.py:CREDIT"
    assert manifest.plugins == {"credit": {"name": "mean_return_credit.py:CREDIT", "sha256": sha256_file(text)}}
    # The command was given another path to the same text: it is done already.
    assert execute(own_config).id == sha256_file(own / "stage.json")


def test_another_text_is_another_update(own, own_config, tmp_path):
    changed = tmp_path / "mean_return_credit.py"
    changed.write_text((TESTS / "plugins" / "mean_return_credit.py").read_text() + "# changed\n")
    with pytest.raises(GtrTurboError, match=r"was made with another text of mean_return_credit\.py:CREDIT \(--credit, "):
        execute(replace(own_config, credit=f"{changed}:CREDIT"))


def test_a_value_head_that_has_no_part_passes_through_with_its_moments(own_config, ppo, turns_config, tmp_path):
    turns = execute(replace(turns_config, out=tmp_path / "turns", checkpoint=ppo, episodes=4, seed=1)).out
    out = execute(replace(own_config, out=tmp_path / "next", checkpoint=ppo, rollouts=turns)).out
    assert sha256_file(out / "value_head.safetensors") == sha256_file(ppo / "value_head.safetensors")
    assert sha256_file(out / "model.safetensors") != sha256_file(ppo / "model.safetensors")
    before, after = (load_file(path / "optimizer.safetensors") for path in (ppo, out))
    assert before.keys() == after.keys()
    moments = [name for name in before if "value_head" in name]
    assert moments and all(np.array_equal(before[name], after[name]) for name in moments)


def test_a_value_head_is_made_when_values_are_needed_again(own, own_config, turns_config, tmp_path):
    turns = execute(replace(turns_config, out=tmp_path / "turns", checkpoint=own, episodes=4, seed=1)).out
    out = execute(replace(own_config, out=tmp_path / "next", checkpoint=own, rollouts=turns, credit="gae")).out
    assert (out / "value_head.safetensors").is_file() and read_manifest(out).metrics.keys() >= CRITIC
    state = load_file(out / "optimizer.safetensors")
    assert int(state["updates"]) == 2 and [name for name in state if "value_head" in name]


@pytest.mark.parametrize("placement", ["reward", "advantage", "loss"])
def test_guidance_works_without_values(own_config, scores, placement, tmp_path):
    config = replace(own_config, out=tmp_path / "x", scores=scores, kl_placement=placement, kl_estimator="k2")
    assert read_manifest(execute(config).out).metrics["kl_mean"] > 0.1


def test_the_kl_cannot_enter_returns_that_there_are_none_of(own_config, scores, tmp_path):
    config = replace(own_config, out=tmp_path / "x", scores=scores, kl_placement="return")
    with pytest.raises(
        GtrTurboError, match=r"--kl-placement return enters the value targets, and credit .*CREDIT has none"
    ) as error:
        execute(config)
    assert error.value.fix == "use --kl-placement reward or advantage." and list(tmp_path.iterdir()) == []


# Built-in credits among episodes of one deal


@pytest.fixture(scope="module")
def grouped(turns_config, root) -> Path:
    """Two deals, four episodes each."""
    return execute(replace(turns_config, out=root / "grouped", group_size=4)).out


@pytest.mark.parametrize("credit", ["group", "step-group"])
def test_an_update_takes_the_advantages_of_the_credit_as_they_are_but_for_random_actions(ppo_config, warm, grouped, credit):
    policy = load_policy(warm, device="cpu")
    transcript = read_transcript(grouped, policy.renderer)
    config = replace(ppo_config, rollouts=grouped, credit=credit)
    batch, _ = prepare(config, policy, transcript)
    rewards = torch.tensor([turn.reward - 2 * (not turn.legal) for turn in transcript.turns])
    earned = earned_by(transcript.turns, rewards, values=None, bootstrap_values=None, gamma=config.gamma, gae_lambda=0.0)
    assert earned.groups.tolist() == [turn.episode // 4 for turn in transcript.turns]
    given = CREDITS[credit].assign(earned).advantages
    # A text whose executed action was random has its own format reward.
    expected = [a if turn.legal else -2.0 for a, turn in zip(given.tolist(), transcript.turns, strict=True)]
    assert batch.advantages.tolist() == pytest.approx(expected) != given.tolist()
    assert batch.advantages.abs().max() > 0.5 and batch.old_values is None


def test_an_update_in_groups_learns_and_has_no_value_head(ppo_config, warm, grouped, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "next", rollouts=grouped, credit="step-group")).out
    assert not (out / "value_head.safetensors").exists() and not CRITIC & read_manifest(out).metrics.keys()
    assert sha256_file(out / "model.safetensors") != sha256_file(warm / "model.safetensors")


def test_turns_of_one_deal_each_are_refused_before_the_work(ppo_config, tmp_path):
    with pytest.raises(GtrTurboError, match=r"--credit group compares episodes of one deal, and each in .*turns has a") as error:
        execute(replace(ppo_config, out=tmp_path / "x", credit="group"))
    assert error.value.fix == "play them with: gtrturbo rollout --group-size 8 …" and list(tmp_path.iterdir()) == []


def test_turns_without_groups_keep_the_manifest_that_they_had(turns, grouped):
    assert "group_size" not in read_manifest(turns).config and read_manifest(grouped).config["group_size"] == 4
