"""ppo-step with guards: what a minibatch with a ratio above 10 counts as, where an update ends early, and who is told what."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from updates import prepare

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play.recording import read_transcript
from gtrturbo.stages import execute, ppo_step
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.train.critic import give_value_head
from gtrturbo.train.inputs import read_rollout
from gtrturbo.train.steps import Student, add_gradients

OWN = f"{Path(__file__).parent.parent / 'plugins' / 'wide_guard.py'}:GUARD"
ROWS = list(range(16))


def gradients(config, warm, *, guard, shift):
    """Return the gradients of one minibatch, in passes of a few turns, whose last turn was `shift` nats less likely before."""
    policy = load_policy(warm, device="cpu", trainable=True)
    give_value_head(policy, needed=True, seed=0)
    transcript = read_transcript(config.rollouts, policy.renderer)
    batch, _ = prepare(config, policy, transcript)
    last = torch.arange(len(batch.advantages)) == ROWS[-1]
    advantages = torch.where(last, -1.0, batch.advantages)
    batch = replace(batch, tokens=1200, old_logprobs=batch.old_logprobs - shift * last, advantages=advantages)
    student = Student(policy, ppo_step.optimizer_of(config, policy), transcript, batch)
    settings = replace(ppo_step.loss_settings(config, read_rollout(config.rollouts)), guard=guard)
    told = add_gradients(student, ROWS, [], settings=settings)
    flat = torch.cat([p.grad.flatten() for p in student.optimizer.named.values() if p.grad is not None])
    return flat, told


def test_a_minibatch_with_a_ratio_above_ten_counts_clipped_only(ppo_config, warm):
    guards = ppo_step.find_guard("clipped-only"), ppo_step.find_guard("none")
    found, told = gradients(ppo_config, warm, guard=guards[0], shift=3.0)
    alone, strict = gradients(ppo_config, warm, guard=guards[0].strict, shift=3.0)
    plain, _ = gradients(ppo_config, warm, guard=guards[1], shift=3.0)
    assert told == strict and told["ratio_max"] == pytest.approx(20.09, abs=0.1)
    assert torch.equal(found, alone) and (plain - found).norm() > 0.1 * plain.norm()


def test_a_minibatch_without_one_counts_as_ever(ppo_config, warm):
    guarded, plain = (gradients(ppo_config, warm, guard=ppo_step.find_guard(n), shift=2.0)[0] for n in ("clipped-only", "none"))
    assert torch.equal(guarded, plain)


def test_an_update_ends_before_the_step_that_would_start_too_far(ppo_config, tmp_path):
    far = replace(ppo_config, epochs=3, minibatch_size=10_000)
    out = execute(replace(far, out=tmp_path / "ended", target_kl=1e-9)).out
    once = execute(replace(far, out=tmp_path / "once", epochs=1)).out
    assert read_manifest(out).metrics["optimizer_steps"] == 1 == len((out / "metrics.jsonl").read_text().splitlines())
    assert sha256_file(out / "model.safetensors") == sha256_file(once / "model.safetensors")
    whole = execute(replace(far, out=tmp_path / "whole", target_kl=100.0)).out
    assert read_manifest(whole).metrics["optimizer_steps"] == 3


def test_the_epsilon_of_adam_bounds_how_far_a_small_gradient_goes(ppo_config, ppo, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "still", adam_epsilon=1e6)).out
    start, still, moved = (load_policy(path, device="cpu").model.state_dict() for path in (ppo_config.checkpoint, out, ppo))
    name = next(name for name, weight in start.items() if not torch.equal(weight, moved[name]))
    assert (still[name] - start[name]).abs().max() < 1e-3 * (moved[name] - start[name]).abs().max()


def test_what_is_off_leaves_the_manifest_as_it_was(ppo):
    assert not {"guard", "target_kl", "adam_epsilon"} & read_manifest(ppo).config.keys()
    assert "optimizer_steps" not in read_manifest(ppo).metrics


def test_a_guard_of_the_users_own_is_named_by_the_manifest(ppo_config, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "own", guard=OWN)).out
    manifest = json.loads((out / "stage.json").read_text())
    assert manifest["config"]["guard"] == "wide_guard.py:GUARD"
    assert manifest["plugins"]["guard"]["sha256"] == sha256_file(Path(OWN.partition(":")[0]))


def test_what_is_no_guard_is_refused_before_the_work(ppo_config, tmp_path):
    with pytest.raises(GtrTurboError, match="there is no guard 'dual-clop'") as error:
        execute(replace(ppo_config, out=tmp_path / "x", guard="dual-clop"))
    assert "did you mean dual-clip?" in error.value.fix
    (tmp_path / "mine.py").write_text("NUMBER = 3\n")
    with pytest.raises(GtrTurboError, match=r"mine\.py:NUMBER is a int, not a Guard"):
        execute(replace(ppo_config, out=tmp_path / "x", guard=f"{tmp_path / 'mine.py'}:NUMBER"))
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]
