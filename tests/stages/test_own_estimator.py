"""ppo-step with a KL estimator from outside the package, used from the command line."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gtrturbo.cli import app
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.tensors import load_scores, load_turn_tokens

CODE = Path(__file__).parents[1] / "plugins" / "bounded_kl.py"


@pytest.fixture(scope="module")
def own(root, warm, turns, scores) -> Path:
    out = root / "bounded"
    command = ["ppo-step", "--checkpoint", warm, "--rollouts", turns, "--scores", scores, "--kl-estimator", f"{CODE}:bounded"]
    result = CliRunner().invoke(app, [*map(str, command), "--epochs", "1", "--minibatch-size", "32", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_the_kl_of_a_turn_is_the_mean_of_what_the_estimator_gives_for_its_thought(own, turns, scores):
    # Before the first step the trainer's log-probs are the sampler's, but for rounding.
    tokens, teacher = load_turn_tokens(turns / "tokens.safetensors"), load_scores(scores / "scores.safetensors")
    differences = [row - taught for row, taught in zip(tokens.sample_logprobs, teacher, strict=True)]
    assert max(np.abs(row).max() for row in differences) > 2.5  # The bound counts.
    bounded = [np.clip(row, -2, 2)[mask] for row, mask in zip(differences, tokens.thought_mask, strict=True)]
    expected = np.mean([row.mean() if len(row) else 0.0 for row in bounded])
    metrics = read_manifest(own).metrics
    assert metrics["kl_mean"] == pytest.approx(expected, abs=1e-4)
    assert "kl_k1_mean" not in metrics  # It may compare other log-probs than those of the scores.


def test_the_manifest_names_the_file_and_the_sha256_of_its_text(own):
    manifest = read_manifest(own)
    assert manifest.config["kl_estimator"] == "bounded_kl.py:bounded"
    assert manifest.plugins == {"kl_estimator": {"name": "bounded_kl.py:bounded", "sha256": sha256_file(CODE)}}
