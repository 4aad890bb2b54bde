"""Turns in the formats of other tools: what is written here, and with the tools themselves what they read (make test-export)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from gtrturbo.config import ExportConfig
from gtrturbo.config.choices import ExportFormat
from gtrturbo.errors import GtrTurboError
from gtrturbo.report.exporting import export
from gtrturbo.store.turns import read_turn_tokens, read_turns


def exported(turns: Path, to: ExportFormat, tmp_path: Path) -> Path:
    return export(ExportConfig(turns=turns, to=to, out=tmp_path / to))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_an_image_folder_has_a_row_per_turn_and_its_pictures(turns, tmp_path):
    folder, played = exported(turns, "hf", tmp_path), read_turns(turns)
    rows = lines(folder)
    assert [(row["episode"], row["turn"], row["reward"], row["won"]) for row in rows] == [
        (turn.episode, turn.turn, turn.reward, turn.won) for turn in played
    ]
    for row, turn in zip(rows, played, strict=True):
        assert row["images_file_names"] == turn.images
        assert [part["text"] for part in row["messages"][-1]["content"]] == [turn.reply]
        assert (pixels(folder / turn.images[0]) == pixels(turns / turn.images[0])).all()
    assert {path.name for path in folder.iterdir()} == {"metadata.jsonl", "images"}


def test_prompts_and_completions_are_of_replies_that_parse(turns, tmp_path):
    rows, legal = lines(exported(turns, "trl", tmp_path)), [turn for turn in read_turns(turns) if turn.legal]
    assert 0 < len(rows) == len(legal) < len(read_turns(turns))
    for row, turn in zip(rows, legal, strict=True):
        assert row["completion"] == [{"role": "assistant", "content": [{"type": "text", "text": turn.reply}]}]
        assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]


def test_of_replies_to_one_input_that_after_which_most_was_earned_is_preferred(turns, tmp_path):
    played = read_turns(turns)
    after = [sum(t.reward for t in played[row:] if t.episode == turn.episode) for row, turn in enumerate(played)]
    wanted = []
    for other, turn in enumerate(played):
        same = [k for k, each in enumerate(played) if (each.images, each.messages[:-1]) == (turn.images, turn.messages[:-1])]
        most = max(after[k] for k in same)
        chosen = next(played[k].reply for k in same if after[k] == most)
        if after[other] < most and chosen != turn.reply:
            wanted.append((chosen, turn.reply, most, after[other]))
    rows = lines(exported(turns, "trl-preference", tmp_path))
    told = [(row["chosen"][0]["content"][0]["text"], row["rejected"][0]["content"][0]["text"]) for row in rows]
    assert wanted and told == [pair[:2] for pair in wanted]
    earned = [value for row in rows for value in (row["chosen_return"], row["rejected_return"])]
    assert earned == pytest.approx([value for pair in wanted for value in pair[2:]], rel=1e-12)
    for row in rows:
        assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]


def said(role, text):
    return {"role": role, "content": [{"type": "text", "text": text}]}


def test_replies_after_which_as_much_was_earned_but_for_rounding_are_no_pair(turns, tmp_path, monkeypatch):
    first = read_turns(turns)[0]
    # In double precision 0.1 + 0.2 is above 0.3, and 0.1 ten times below 1 where it is added bit by bit.
    rewards = {"a": [0.3], "b": [0.1, 0.2], "c": [0.1] * 10 + [-0.7], "worse": [0.29999]}
    made = [
        replace(
            first,
            episode=episode,
            turn=turn,
            reward=reward,
            # All are asked the same at first, and afterwards what nobody else is.
            messages=[said("user", "?" if turn == 0 else f"{reply} {turn}"), said("assistant", reply)],
        )
        for episode, (reply, paid) in enumerate(rewards.items())
        for turn, reward in enumerate(paid)
    ]
    monkeypatch.setattr("gtrturbo.report.exporting.read_turns", lambda path: made)
    rows = lines(exported(turns, "trl-preference", tmp_path))
    assert [(row["chosen"], row["rejected"]) for row in rows] == [([said("assistant", "a")], [said("assistant", "worse")])]


@pytest.mark.parametrize("to", get_args(ExportFormat))
def test_turns_whose_picture_was_changed_are_not_exported(turns, tmp_path, to):
    copy = shutil.copytree(turns, tmp_path / "turns")
    names = sorted({name for turn in read_turns(copy) for name in turn.images})
    shutil.copy(copy / names[1], copy / names[0])  # A picture as it should be, but of another state.
    with pytest.raises(GtrTurboError, match=rf"{names[0]} is not what rollout wrote") as refused:
        exported(copy, to, tmp_path)
    assert refused.value.fix.endswith(f"see: gtrturbo show {copy} --check")
    assert not (tmp_path / to).exists()


def test_without_two_replies_to_one_input_nothing_is_preferred(turns, tmp_path, monkeypatch):
    monkeypatch.setattr("gtrturbo.report.exporting.read_turns", lambda path: read_turns(path)[:1])
    with pytest.raises(GtrTurboError, match="earned differently"):
        exported(turns, "trl-preference", tmp_path)


def test_a_trajectory_holds_an_episode_with_tokens_and_rewards(turns, tmp_path):
    folder, played = exported(turns, "atif", tmp_path), read_turns(turns)
    tokens = read_turn_tokens(turns, played)
    files = sorted(folder.glob("episode-*.json"))
    assert len(files) == len({turn.episode for turn in played})
    said = []
    for file in files:
        trajectory = json.loads(file.read_text(encoding="utf-8"))
        steps = trajectory["steps"]
        assert [step["step_id"] for step in steps] == list(range(1, len(steps) + 1))
        said += [step for step in steps if step["source"] == "agent"]
        rewards = [step["extra"]["reward"] for step in steps if step["source"] == "agent"]
        assert trajectory["final_metrics"]["extra"]["return"] == pytest.approx(sum(rewards))
    assert [step["message"] for step in said] == [turn.reply for turn in played]
    for step, ids, logprobs in zip(said, tokens.response_ids, tokens.sample_logprobs, strict=True):
        assert step["metrics"]["completion_token_ids"] == ids.tolist()
        assert step["metrics"]["logprobs"] == pytest.approx(logprobs.tolist())


def test_an_experts_turns_have_no_tokens_and_are_exported_too(expert, tmp_path):
    folder = exported(expert, "atif", tmp_path)
    trajectory = json.loads((folder / "episode-000000.json").read_text(encoding="utf-8"))
    assert all("metrics" not in step for step in trajectory["steps"])
    assert trajectory["agent"]["model_name"] == "expert"


def test_what_is_no_turns_is_refused(warm, tmp_path):
    with pytest.raises(GtrTurboError, match="holds checkpoint, not turns"):
        exported(warm, "hf", tmp_path)


def test_nothing_is_replaced_and_nothing_is_half_there(turns, tmp_path, monkeypatch):
    out = tmp_path / "hf"
    out.mkdir()
    with pytest.raises(GtrTurboError, match="exists"):
        exported(turns, "hf", tmp_path)
    with pytest.raises(GtrTurboError, match="stays as it is"):
        export(ExportConfig(turns=turns, to="hf", out=turns / "exported"))
    monkeypatch.setattr("gtrturbo.report.exporting.copy_picture", lambda *_: (_ for _ in ()).throw(OSError(28, "full", "x")))
    with pytest.raises(OSError, match="full"):
        exported(turns, "trl", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_turns_without_a_reply_that_parses_are_no_demonstrations(turns, tmp_path, monkeypatch):
    from gtrturbo.report import exporting

    monkeypatch.setattr(exporting, "read_turns", lambda path: [replace(turn, legal=False) for turn in read_turns(path)])
    with pytest.raises(GtrTurboError, match="nothing to imitate"):
        exported(turns, "trl", tmp_path)


def test_datasets_loads_the_pictures(turns, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = exported(turns, "hf", tmp_path)
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    played = read_turns(turns)
    assert rows["reward"][:] == [turn.reward for turn in played]
    assert (np.asarray(rows[3]["images"][0]) == pixels(turns / played[3].images[0])).all()


def test_the_atif_package_validates_every_trajectory(turns, expert, tmp_path):
    atif = pytest.importorskip("atif")
    for source in (turns, expert):
        for file in exported(source, "atif", tmp_path / source.name).glob("*.json"):
            trajectory = atif.Trajectory.model_validate(json.loads(file.read_text(encoding="utf-8")))
            assert trajectory.has_multimodal_content()


def test_parquet_holds_pictures_and_token_ids(turns, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(exported(turns, "parquet", tmp_path) / "turns.parquet").to_pylist()
    played = read_turns(turns)
    assert rows[2]["images"][0]["bytes"] == (turns / played[2].images[0]).read_bytes()
    assert rows[2]["completion_token_ids"] == read_turn_tokens(turns, played).response_ids[2].tolist()


def test_without_pyarrow_the_package_is_named(turns, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(GtrTurboError) as refused:
        exported(turns, "parquet", tmp_path)
    assert refused.value.fix == "install it with: pip install pyarrow"


def test_trl_takes_a_supervised_step(turns, warm, policy, tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    folder = exported(turns, "trl", tmp_path)
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False,
        max_length=None, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model=policy.model, args=settings, train_dataset=rows, processing_class=policy.processor)
    trainer.train()
    assert 0 < trainer.state.log_history[0]["loss"] < 5


def settings_of(kind, tmp_path):
    return kind(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False,
        max_length=None, save_strategy="no", logging_steps=1,
    )  # fmt: skip


@pytest.fixture
def preferences(turns, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = exported(turns, "trl-preference", tmp_path)
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def test_trl_takes_a_step_on_preferences_with_pictures(preferences, policy, tmp_path):
    trl = pytest.importorskip("trl")
    settings = settings_of(trl.DPOConfig, tmp_path)
    trainer = trl.DPOTrainer(model=policy.model, args=settings, train_dataset=preferences, processing_class=policy.processor)
    trainer.train()
    # Before the first step policy and reference are one: log 2.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)


def test_trl_trains_a_reward_model_of_the_texts(preferences, policy, tmp_path):
    """Its reward trainer has no pictures."""
    trl, transformers = pytest.importorskip("trl"), pytest.importorskip("transformers")
    tokenizer = policy.processor.tokenizer
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    text = transformers.Qwen2Config(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **shape)
    tokenizer.chat_template = policy.processor.chat_template
    trainer = trl.RewardTrainer(
        model=transformers.Qwen2ForSequenceClassification(text),
        args=settings_of(trl.RewardConfig, tmp_path),
        train_dataset=preferences.remove_columns("images"),
        processing_class=tokenizer,
    )
    trainer.train()
    assert 0 < trainer.state.log_history[0]["loss"] < 5
