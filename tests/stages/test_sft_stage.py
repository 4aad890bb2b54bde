"""sft: loss on the reply only, and it stops when told to."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from gtrturbo.config import RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play.recording import read_turns, render
from gtrturbo.stages import execute
from gtrturbo.stages.sft import learning_rate
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest


def log(path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def few(root):
    """Two episodes of the expert."""
    return execute(RolloutConfig(out=root / "few", task="numberline", env=("image=tiny",), expert=True, episodes=2, seed=3)).out


@pytest.fixture
def config(tmp_path, warm, few):
    count = len(read_turns(few))
    return SftConfig(out=tmp_path / "out", data=(few,), checkpoint=warm, steps=2, batch_size=count, learning_rate=1e-3)


def test_the_first_loss_is_the_mean_negative_log_likelihood_of_the_reply_tokens(config, few, warm):
    out = execute(config).out
    policy = load_policy(warm, device="cpu")
    total, count = 0.0, 0
    for turn in read_turns(few):
        prompt = render(policy.renderer, few, turn.messages[:-1], turn.images)
        ids = policy.processor.tokenizer(turn.reply)["input_ids"] + [policy.processor.tokenizer.eos_token_id]
        inputs, tail = dict(prompt.tensors), torch.tensor([ids])
        for name, value in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
            inputs[name] = torch.cat([inputs[name], value], dim=1)
        with torch.no_grad():
            logits = policy.model(**inputs).logits[0, len(prompt.ids) - 1 : -1].double()
        logits[:, policy.forbidden] = -torch.inf
        total -= logits.log_softmax(-1)[torch.arange(len(ids)), tail[0]].sum().item()
        count += len(ids)
    assert log(out)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_micro_batches_change_the_loss_by_rounding_only(config, tmp_path):
    whole, parts = log(execute(config).out), log(execute(replace(config, out=tmp_path / "parts", micro_batch_tokens="250")).out)
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_loss_falls(warm):
    losses = [row["loss"] for row in log(warm)]
    assert len(losses) == 80 and np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])


def test_it_stops_when_the_running_loss_falls_below_the_given_one(config, init):
    out = execute(replace(config, checkpoint=init, steps=200, stop_loss=4.0, learning_rate=3e-3)).out
    running = []
    for row in log(out):
        running.append(row["loss"] if not running else 0.8 * running[-1] + 0.2 * row["loss"])
        assert row["running_loss"] == pytest.approx(running[-1], rel=1e-9)
    assert running[-1] < 4.0 <= min(running[:-1])
    assert read_manifest(out).metrics["steps"] == len(running) < 200
    assert read_manifest(out).metrics["final_loss"] == pytest.approx(running[-1])


def test_without_a_given_loss_all_steps_are_taken(config):
    assert len(log(execute(config).out)) == 2


def test_the_learning_rate_rises_linearly_and_falls_along_half_a_cosine():
    rates = [learning_rate(step, peak=1.0, warmup=2, steps=6) for step in range(6)]
    # 1/2, 2/2, then (1 + cos(pi k / 4)) / 2 for k = 0 … 3.
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466], abs=1e-6)


def test_the_learning_rate_reaches_the_optimiser(config):
    out = execute(replace(config, steps=3, warmup_steps=1, learning_rate=2e-3)).out
    assert [row["learning_rate"] for row in log(out)] == pytest.approx([2e-3, 2e-3, 1e-3], rel=1e-9)


def test_a_value_head_passes_through_byte_by_byte_and_the_optimiser_is_left_behind(config, ppo):
    out = execute(replace(config, checkpoint=ppo)).out
    assert sha256_file(out / "value_head.safetensors") == sha256_file(ppo / "value_head.safetensors")
    assert not (out / "optimizer.safetensors").exists()
    assert sha256_file(out / "model.safetensors") != sha256_file(ppo / "model.safetensors")


def test_a_checkpoint_without_value_head_gets_none(config):
    assert not (execute(config).out / "value_head.safetensors").exists()


def test_the_same_steps_twice_give_the_same_id_and_another_seed_another(config, tmp_path):
    small = replace(config, batch_size=2)
    first, again = execute(small), execute(replace(small, out=tmp_path / "again"))
    other = execute(replace(small, out=tmp_path / "other", seed=1))
    assert first.id == again.id != other.id


def test_training_an_adapter_leaves_its_base_and_moves_the_adapter(config, lora, tmp_path):
    before = {path.name: sha256_file(path) for path in (lora / "base").iterdir()}
    out = execute(replace(config, checkpoint=lora, learning_rate=1e-2)).out
    assert {path.name: sha256_file(path) for path in (lora / "base").iterdir()} == before
    old, new = (load_file(path / "adapter_model.safetensors") for path in (lora, out))
    assert all(not np.array_equal(old[name], new[name]) for name in old)


def test_mixed_data_are_told_and_learned(config, tmp_path, capsys):
    full = execute(RolloutConfig(out=tmp_path / "full", task="numberline", expert=True, episodes=1)).out
    execute(replace(config, data=(*config.data, full), steps=1))
    assert "different sizes of pictures are learned together" in capsys.readouterr().err


def test_turns_that_are_all_illegal_teach_nothing(config, init, turns_config, tmp_path):
    mute = execute(replace(turns_config, out=tmp_path / "mute", checkpoint=init, episodes=1, max_new_tokens=3)).out
    with pytest.raises(GtrTurboError, match=f"there is nothing to learn in {mute}: every reply is illegal"):
        execute(replace(config, data=(mute,)))
    assert not config.out.exists()


def test_a_loss_that_is_not_finite_stops_the_stage_and_nothing_is_written(config):
    with pytest.raises(GtrTurboError, match=r"loss is .* at step \d+\. nothing was written\.\nlower --learning-rate"):
        execute(replace(config, learning_rate=1e9, steps=5))
    assert not config.out.exists()
