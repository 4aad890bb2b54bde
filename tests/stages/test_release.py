"""The teacher and the KL of the paper's published code, defects and all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from resealed import reseal
from safetensors.numpy import load_file
from updates import prepare

from gtrturbo.config import DistillConfig, MergeConfig, SftConfig, ShowConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import read_transcript
from gtrturbo.show.artifact import show
from gtrturbo.stages import execute
from gtrturbo.store.ids import sha256_file
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.tensors import load_scores

BLIND = f"{Path(__file__).parents[2]}/examples/reproduce/release.py:BLIND"
BLIND_KL = f"{BLIND}_KL"

# The merge

MERGE = f"{Path(__file__).parents[2]}/examples/reproduce/release.py:MERGE"


@pytest.fixture(scope="module")
def trained(root, warm, expert):
    config = SftConfig(out=root / "t", data=(expert,), checkpoint=warm, steps=2, learning_rate=1e-3, batch_size=4)
    return tuple(execute(replace(config, out=root / f"released{seed}", seed=seed)).out for seed in range(2))


@pytest.fixture
def merge(tmp_path, warm):
    def run(*checkpoints, **settings):
        out = tmp_path / f"teacher{len(list(tmp_path.iterdir()))}"
        config = {"out": out, "base": warm, "checkpoints": checkpoints, "method": MERGE}
        return execute(MergeConfig(**config | settings)).out

    return run


def test_the_released_teacher_is_the_base_and_a_quarter_of_the_trimmed_change(merge, trained, warm):
    base, first, found = (load_file(path / "model.safetensors") for path in (warm, trained[0], merge(trained[0])))
    for name, value in base.items():
        change = first[name].astype(np.float64) - value
        least = np.sort(np.abs(change).ravel())[::-1][max(1, int(0.8 * change.size)) - 1]
        expected = (value + 0.25 * np.where(np.abs(change) >= least, change, 0.0)).astype(np.float32)
        assert found[name].dtype == np.float32 and np.array_equal(found[name], expected), name


def test_the_released_teacher_is_never_merged_again(merge, trained):
    first, later = merge(trained[0]), merge(*trained)
    assert sha256_file(first / "model.safetensors") == sha256_file(later / "model.safetensors")


def test_a_quarter_is_what_the_report_shows(merge, trained):
    metrics = read_manifest(merge(trained[0])).metrics
    assert metrics["norm_ratio"] == pytest.approx(0.25, abs=0.01) and metrics["cosine"] > 0.95


def test_before_the_first_update_the_released_teacher_is_the_base(merge, warm):
    assert sha256_file(merge() / "model.safetensors") == sha256_file(warm / "model.safetensors")


# The KL


@pytest.fixture(scope="module")
def released(root, init, turns):
    return execute(DistillConfig(out=root / "released-scores", rollouts=turns, teacher=init, mode=BLIND)).out


def repeated(policy, transcript, row):
    """log p(y_t | ids, …, y_t) at temperature 1 of ids alone, at positions 0, 1, 2, …: no pictures, one token off. [R]"""
    ids = transcript.tokens.response_ids[row].astype(np.int64)
    prompt = transcript.prompts[row].ids.astype(np.int64)
    whole = torch.from_numpy(np.concatenate([prompt, ids]))[None]
    positions = torch.arange(whole.shape[1]).expand(3, 1, -1)
    with torch.no_grad():
        logits = policy.model(input_ids=whole, attention_mask=torch.ones_like(whole), position_ids=positions).logits
    logits = logits[0, len(prompt) :].double().index_fill(-1, policy.forbidden, -torch.inf)
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(ids)].numpy()


def test_released_scores_are_of_ids_alone_one_token_off_at_temperature_1(released, init, turns):
    teacher = load_policy(init, device="cpu")
    transcript, rows = read_transcript(turns, teacher.renderer), load_scores(released / "scores.safetensors")
    assert [*map(len, rows)] == [*map(len, transcript.tokens.response_ids)]
    for row in (0, 4, 9):
        np.testing.assert_allclose(rows[row], repeated(teacher, transcript, row), atol=2e-5)


def test_the_released_teacher_is_blind(released, warm, turns, tmp_path):
    shutil.copytree(turns, tmp_path / "inverted")
    for file in (tmp_path / "inverted" / "images").iterdir():
        ImageOps.invert(Image.open(file)).save(file)
    reseal(tmp_path / "inverted")
    seen, inverted = (
        execute(DistillConfig(out=tmp_path / name, rollouts=path, teacher=warm, mode=BLIND)).out
        for name, path in (("a", turns), ("b", tmp_path / "inverted"))
    )
    left, right = (np.concatenate(load_scores(path / "scores.safetensors")) for path in (seen, inverted))
    np.testing.assert_allclose(left, right, atol=1e-5)


def student(ppo_config, policy, turns, **settings):
    """Prepare an update of the warm checkpoint with a new value head, so that every value is 0."""
    policy.value_head = ValueHead.new(policy.model.config.get_text_config().hidden_size, seed=0)
    return prepare(replace(ppo_config, **settings), policy, read_transcript(turns, policy.renderer))


def test_the_student_is_compared_as_the_teacher_was_scored(released, init, ppo_config, policy, turns):
    transcript, teacher = read_transcript(turns, policy.renderer), load_policy(init, device="cpu")
    settings = {"scores": released, "kl_placement": "return", "kl_estimator": BLIND_KL}
    guided, measured = student(ppo_config, policy, turns, **settings)
    plain, _ = student(ppo_config, policy, turns)
    kl = []
    for row, thought in enumerate(transcript.tokens.thought_mask):
        clipped = np.clip(repeated(policy, transcript, row) - repeated(teacher, transcript, row), 0, 10)
        kl.append(clipped[thought].mean())
    assert np.max(kl) > 0.1
    assert (plain.value_targets - guided.value_targets).numpy() == pytest.approx(np.array(kl), abs=1e-3)
    assert measured["kl_mean"] == pytest.approx(np.mean(kl), rel=1e-3)
    assert "kl_k1_mean" not in measured


def test_the_released_kl_of_a_student_to_itself_is_zero(ppo_config, policy, warm, turns, tmp_path):
    own = execute(DistillConfig(out=tmp_path / "own", rollouts=turns, teacher=warm, mode=BLIND)).out
    _, measured = student(ppo_config, policy, turns, scores=own, kl_estimator=BLIND_KL)
    assert measured["kl_mean"] < 1e-5


def test_the_released_kl_is_no_loss(released, ppo_config, tmp_path):
    config = replace(ppo_config, out=tmp_path / "x", scores=released, kl_placement="loss", kl_estimator=BLIND_KL)
    with pytest.raises(GtrTurboError, match=r"BLIND_KL is no loss: a function of your own gives a KL without gradient"):
        execute(config)
    assert list(tmp_path.iterdir()) == []


def test_scores_of_earlier_versions_that_imitate_the_release_are_refused_with_the_mend(scores, ppo_config, tmp_path):
    old = shutil.copytree(scores, tmp_path / "old")
    manifest = json.loads((old / "stage.json").read_text())
    manifest["config"] |= {"compat": "release"}
    (old / "stage.json").write_text(json.dumps(manifest))
    with pytest.raises(GtrTurboError, match="was made with --compat release, which earlier versions had") as error:
        execute(replace(ppo_config, out=tmp_path / "x", scores=old))
    assert "--kl-estimator examples/reproduce/release.py:BLIND_KL" in error.value.fix and not (tmp_path / "x").exists()


def test_an_update_under_the_released_kl_names_its_source(released, ppo_config, tmp_path):
    out = execute(replace(ppo_config, out=tmp_path / "x", scores=released, kl_estimator=BLIND_KL, kl_placement="return")).out
    source = Path(BLIND_KL.rpartition(":")[0])
    manifest = read_manifest(out)
    assert manifest.config["kl_estimator"] == "release.py:BLIND_KL"
    assert manifest.plugins == {"kl_estimator": {"name": "release.py:BLIND_KL", "sha256": sha256_file(source)}}
    assert str(source.parent) not in (out / "stage.json").read_text()


def test_blind_scores_are_of_single_tokens_of_a_checkpoint_in_this_process(init, turns, tmp_path):
    blind = {"rollouts": turns, "mode": BLIND}
    with pytest.raises(GtrTurboError, match="--top-logprobs is for --mode kl"):
        execute(DistillConfig(out=tmp_path / "x", teacher=init, top_logprobs=3, **blind))
    with pytest.raises(GtrTurboError, match="scores are the teacher's log-probs, computed here"):
        execute(DistillConfig(out=tmp_path / "x", teacher=init, engine="vllm:http://x", **blind))
    with pytest.raises(GtrTurboError, match="a scripted expert has no log-probs"):
        execute(DistillConfig(out=tmp_path / "x", expert=True, **blind))
    assert list(tmp_path.iterdir()) == []


def test_blind_scores_are_told_apart_and_colour_no_tokens(released, turns):
    assert read_manifest(released).config["mode"] == read_manifest(released).plugins["mode"]["name"] == "release.py:BLIND"
    assert read_manifest(released).metrics.keys() == {"turns", "tokens"}
    with pytest.raises(GtrTurboError, match=r"made by mode .*release.py:BLIND, whose log-probs are not of the tokens sampled"):
        show(ShowConfig(artifact=turns, turn=0, scores=released))
