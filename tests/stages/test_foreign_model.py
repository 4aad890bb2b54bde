"""Any image-text-to-text model goes through the stages: here a tiny LLaVA, which shares no code with Qwen-VL."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny_families import students_llava

from gtrturbo.config import DistillConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "blackjack", "env": ("image=tiny",)}


@pytest.fixture(scope="module")
def llava(root) -> Path:
    return students_llava(root / "llava")


def test_a_llava_goes_through_two_iterations(llava, tmp_path):
    first = execute(InitConfig(out=tmp_path / "init", model=str(llava))).out
    data = execute(RolloutConfig(out=tmp_path / "expert", expert=True, episodes=60, **TASK)).out
    sft = SftConfig(out=tmp_path / "0", checkpoint=first, data=(data,), steps=150, learning_rate=5e-3, batch_size=16)
    checkpoints = [execute(sft).out]
    for k in range(2):
        play = RolloutConfig(out=tmp_path / f"t{k}", checkpoint=checkpoints[k], episodes=8, max_new_tokens=64, **TASK)
        turns = execute(play).out
        teacher = execute(MergeConfig(out=tmp_path / f"m{k}", base=checkpoints[0], checkpoints=tuple(checkpoints[1:]))).out
        scores = execute(DistillConfig(out=tmp_path / f"s{k}", teacher=teacher, rollouts=turns)).out
        update = PpoStepConfig(
            out=tmp_path / str(k + 1),
            checkpoint=checkpoints[k],
            rollouts=turns,
            scores=scores,
            epochs=1,
            minibatch_size=4,
            learning_rate=1e-3,
        )
        result = execute(update)
        checkpoints.append(result.out)
        assert result.metrics["first_ratio_error"] < 1e-5 and result.metrics["sampler_trainer_gap_max"] < 1e-3
    assert read_manifest(tmp_path / "m1").metrics["delta_norm"] > 0
    moments = load_file(checkpoints[2] / "optimizer.safetensors")
    assert moments["updates"] == 2
    # LLaVA reads the layer before the last of its vision tower, so no gradient reaches the last one.
    assert not [name for name in moments if "layers.1." in name and "vision_tower" in name]
