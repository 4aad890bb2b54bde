"""rollout: whole episodes on disk, in parts or at once."""

import json
from dataclasses import replace

import pytest

from gtrturbo.analysis.summary import summarize
from gtrturbo.analysis.thoughts import thought_entropy
from gtrturbo.config import RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.draws import repeats_of
from gtrturbo.play.recording import read_turns
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.tensors import load_turn_tokens
from gtrturbo.tasks.built_in import TASKS


def test_two_parts_have_the_turns_and_tokens_of_the_whole(turns, turns_config, tmp_path):
    parts = [
        execute(replace(turns_config, out=tmp_path / f"part{first}", first_episode=first, episodes=count, num_envs=2)).out
        for first, count in ((0, 3), (3, 5))
    ]
    assert [turn for part in parts for turn in read_turns(part)] == read_turns(turns)
    ids = [row.tolist() for part in parts for row in load_turn_tokens(part / "tokens.safetensors").response_ids]
    assert ids == [row.tolist() for row in load_turn_tokens(turns / "tokens.safetensors").response_ids]
    pictures = {path.name for part in parts for path in (part / "images").iterdir()}
    assert pictures == {path.name for path in (turns / "images").iterdir()}


def test_the_same_rollout_twice_has_the_same_id_and_another_seed_another(turns, turns_config, tmp_path):
    assert execute(replace(turns_config, out=tmp_path / "again")).id == sha256_file(turns / "stage.json")
    assert execute(replace(turns_config, out=tmp_path / "other", seed=1, episodes=8)).id != sha256_file(turns / "stage.json")


def test_the_metrics_are_the_summary_of_the_turns(turns):
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    repeats = repeats_of(read_turns(turns), tokens, tokens.sample_logprobs)
    expected = summarize(read_turns(turns), knows_truth=True, own_parser=False) | thought_entropy(turns) | repeats.metrics()
    assert read_manifest(turns).metrics == pytest.approx(expected)


def test_the_warm_policy_says_both_legal_and_illegal_things(turns):
    # What the other tests rest on.
    assert 0.05 < read_manifest(turns).metrics["illegal_rate"] < 0.9


def test_an_expert_wins_reads_truly_and_leaves_no_tokens(expert):
    metrics = read_manifest(expert).metrics
    assert (metrics["success_rate"], metrics["thought_accuracy"], metrics["illegal_rate"]) == (1.0, 1.0, 0.0)
    assert not (expert / "tokens.safetensors").exists()
    assert read_manifest(expert).renderer is None


def test_turns_name_the_checkpoint_that_played_them_and_its_renderer(turns, warm):
    manifest = read_manifest(turns)
    assert manifest.inputs == {"checkpoint": sha256_file(warm / "stage.json")}
    assert manifest.renderer == read_manifest(warm).renderer


@pytest.mark.parametrize("illegal", ["noop", "end"])
def test_what_illegal_replies_do_is_the_configs_choice(init, turns_config, tmp_path, illegal):
    settings = {"checkpoint": init, "episodes": 2, "max_new_tokens": 2, "on_invalid_reply": illegal}
    turns = read_turns(execute(replace(turns_config, out=tmp_path / "mute", **settings)).out)
    assert all(turn.executed is None and not turn.legal for turn in turns)
    assert len(turns) == {"noop": 20, "end": 2}[illegal]


@pytest.mark.parametrize("task", ["ezpoints", "blackjack", "points24"])
def test_every_task_can_be_played_by_expert_and_policy(task, init, tmp_path):
    settings = {"task": task, "env": ("image=tiny",), "episodes": 2}
    played = execute(RolloutConfig(out=tmp_path / "expert", expert=True, **settings)).out
    assert all(turn.legal and turn.perception_correct for turn in read_turns(played))
    mute = execute(
        RolloutConfig(out=tmp_path / "mute", checkpoint=init, max_new_tokens=2, on_invalid_reply="end", **settings)
    ).out
    assert len(read_turns(mute)) == 2


@pytest.mark.parametrize("task", TASKS)
def test_a_novice_reads_truly_keeps_to_the_rules_and_wins_less(task, tmp_path):
    settings = {"task": task, "env": ("image=tiny",), "expert": True, "episodes": 60}
    expert, random_expert, half = (
        execute(RolloutConfig(out=tmp_path / str(share), random_expert_share=share, **settings)).out for share in (0.0, 1.0, 0.5)
    )
    played = {out: read_manifest(out).metrics for out in (expert, random_expert, half)}
    assert played[random_expert]["illegal_rate"] == 0
    assert played[random_expert]["thought_accuracy"] == 1
    assert played[random_expert]["success_rate"] < played[half]["success_rate"] < played[expert]["success_rate"]
    texts = [[turn.messages[-1] for turn in read_turns(out)] for out in (expert, random_expert, half)]
    assert all(message in texts[0] or message in texts[1] for message in texts[2])


def test_a_novice_has_no_place_where_a_checkpoint_plays(init, tmp_path):
    config = RolloutConfig(out=tmp_path / "turns", checkpoint=init, task="ezpoints", random_expert_share=0.5)
    with pytest.raises(GtrTurboError, match="add: --expert"):
        execute(config)


@pytest.mark.parametrize("settings", [{"checkpoint": None}, {"expert": True}])
def test_a_rollout_without_player_or_with_two_is_refused(turns_config, tmp_path, settings):
    with pytest.raises(GtrTurboError, match="a rollout needs either --checkpoint or --expert"):
        execute(replace(turns_config, out=tmp_path / "x", **settings))


def test_an_unknown_task_and_an_unknown_option_are_refused_before_anything_is_written(turns_config, tmp_path):
    with pytest.raises(GtrTurboError, match="there is no task 'chess'"):
        execute(replace(turns_config, out=tmp_path / "x", task="chess"))
    with pytest.raises(GtrTurboError, match="numberline has no option 'size'"):
        execute(replace(turns_config, out=tmp_path / "x", env=("size=tiny",)))
    assert list(tmp_path.iterdir()) == []


def test_knobs_are_in_the_manifest_and_paths_and_devices_are_not(turns):
    config = json.loads((turns / "stage.json").read_text())["config"]
    assert config["temperature"] == 0.9 and config["env"] == ["image=tiny"]
    assert not config.keys() & {"out", "overwrite", "device", "checkpoint"}
