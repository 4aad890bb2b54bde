"""Turns, tokens, scores, demos and evaluations that cannot be are refused by whoever reads them, whatever their manifest says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resealed import reseal
from safetensors.numpy import load_file, save_file

from gtrturbo.config import DistillConfig, EvalConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.recording import read_transcript
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import read_demos, read_scores, read_turn_tokens, read_turns

Rows = list[dict[str, Any]]
Arrays = dict[str, np.ndarray]
METADATA = {"format": "pt"}


def changed_rows(source: Path, to: Path, change: Callable[[Rows], Any], file: str = "turns.jsonl") -> Path:
    """Copy an artifact, change its rows, and name the changed file in its manifest."""
    shutil.copytree(source, to)
    rows = [json.loads(line) for line in (to / file).read_text().splitlines()]
    changed = change(rows)
    rows = changed if isinstance(changed, list) else rows
    (to / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return reseal(to)


def changed_arrays(source: Path, to: Path, change: Callable[[Arrays], Any], file: str = "tokens.safetensors") -> Path:
    shutil.copytree(source, to)
    arrays = load_file(to / file)
    arrays = change(arrays) or arrays
    save_file(arrays, to / file, METADATA)
    return reseal(to)


def put(name: str, value: Any, row: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[row].update({name: value})


def at(name: str, place: Any, value: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays[name].__setitem__(place, value)


def first_end(rows: Rows) -> int:
    return next(number for number, row in enumerate(rows) if row["terminated"] or row["truncated"])


def last_turn(change: dict[str, Any]) -> Callable[[Rows], None]:
    return lambda rows: rows[first_end(rows)].update(change)


ROWS: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "no rows": (lambda rows: rows.clear(), "there are no turns"),
    "a row is missing": (lambda rows: rows[1:], "begins with turn 1"),
    "the last row is missing": (lambda rows: rows[:-1], "does not end|begins with|were asked for"),
    "an episode is missing": (lambda rows: rows[first_end(rows) + 1 :], "episode 0 is missing"),
    "an episode stands twice": (lambda rows: [*rows, *rows[: first_end(rows) + 1]], "it stands behind episode"),
    "a row stands twice": (lambda rows: [rows[0], *rows], "follows turn 0"),
    "rows are permuted": (lambda rows: rows[::-1], "begins with turn|stands behind|does not end"),
    "terminated and truncated": (last_turn({"terminated": True, "truncated": True}), "it is terminated and truncated"),
    "the end is in the middle": (put("terminated", True), "terminated and truncated|ended before it"),
    "the end is gone": (last_turn({"terminated": False, "truncated": False, "successor": None}), "before it does not end"),
    "a reward that is not the sum": (put("reward", 7.5), "its reward is 7.5, and its terms sum to"),
    "another seed": (put("seed", 3, row=1), "seed or group is not that of its episode"),
    "a negative seed": (put("seed", -1), "counted from 0"),
    "legal without an action": (lambda rows: next(r for r in rows if r["legal"]).update(action=None), "legal without an action"),
    "another action was executed": (lambda rows: next(r for r in rows if r["legal"]).update(executed="x"), "was executed"),
    "one picture too many": (lambda rows: rows[0]["images"].append(rows[0]["images"][0]), "1 image parts, and it names 2"),
    "no reply": (lambda rows: rows[0]["messages"].pop(), "do not end with the assistant's reply"),
    "a role that is none": (lambda rows: rows[0]["messages"][0].update(role=1), "no chat messages"),
    "a part that is none": (lambda rows: rows[0]["messages"][0].update(content=[{"type": "video"}]), "no chat messages"),
    "a flag that is a number": (put("won", 1), "won: Input should be a valid boolean"),
    "a number that is a flag": (put("episode", False), "episode: Input should be a valid integer"),
    "a number that is a text": (put("reward", "0"), "reward: Input should be a valid number"),
    "a number that is none": (put("reward", float("nan")), "reward: Input should be a finite number"),
    "a key that is not known": (put("extra", 1), "extra: Unexpected keyword argument"),
    "another text than the tokens": (
        lambda rows: rows[0]["messages"][-1]["content"][0].update(text=rows[0]["messages"][-1]["content"][0]["text"] + " "),
        "is not what its tokens say",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_do_not_fit_together_are_refused(case, turns, policy, tmp_path):
    change, said = ROWS[case]
    path = changed_rows(turns, tmp_path / "t", change)
    with pytest.raises(GtrTurboError, match=said):
        read_transcript(path, policy.renderer)
    if "tokens" not in case:
        with pytest.raises(GtrTurboError, match=said):
            read_turns(path)


ARRAYS: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "a log-prob above 0": (at("sample_logprobs", 3, 0.5), "0.5 is no log-probability"),
    "a log-prob that is none": (at("sample_logprobs", 3, np.nan), "nan is no log-probability"),
    "an endless log-prob": (at("sample_logprobs", 3, -np.inf), "-inf is no log-probability"),
    "an offset below 0": (at("response_spans", (0, 0), -1), "run backwards, or out of the reply"),
    "an offset far away": (at("response_spans", (0, 1), 10**6), "run backwards, or out of the reply"),
    "another offset": (at("response_spans", (0, 1), 0), "is not what its tokens say"),
    "another token": (lambda arrays: at("response_ids", 1, arrays["response_ids"][1] + 1)(arrays), "is not what its tokens say"),
    "a token below 0": (at("response_ids", 0, -5), "a token id is negative"),
    "a token that nobody knows": (at("response_ids", 0, 10**6), "a token that the tokenizer does not know"),
    "another token of the prompt": (lambda arrays: at("prompt_ids", 0, arrays["prompt_ids"][0] + 1)(arrays), "renders to other"),
    "thought and action at once": (lambda arrays: arrays["action_mask"].fill(True), "thought and action, or neither"),
    "neither thought nor action": (
        lambda arrays: arrays["thought_mask"].fill(False),
        "thought and action, or neither|and no token",
    ),
    "a mask that is too short": (lambda arrays: arrays.update(thought_mask=arrays["thought_mask"][:-3]), "do not lead from 0"),
    "rows that do not end": (at("response_offsets", -1, 3), "do not lead from 0"),
    "offsets that run backwards": (at("response_offsets", 1, 10**6), "do not lead from 0"),
    "a row less": (
        lambda arrays: arrays.update(prompt_offsets=np.delete(arrays["prompt_offsets"], 1)),
        "there are .* turns and tokens of",
    ),
    "wide token ids": (
        lambda arrays: arrays.update(response_ids=arrays["response_ids"].astype(np.int64)),
        "response_ids is int64",
    ),
    "masks of numbers": (
        lambda arrays: arrays.update(action_mask=arrays["action_mask"].astype(np.uint8)),
        "action_mask is uint8",
    ),
    "narrow log-probs": (
        lambda a: a.update(sample_logprobs=a["sample_logprobs"].astype(np.float16)),
        "sample_logprobs is float16",
    ),
    "no masks": (lambda arrays: arrays.pop("action_mask"), "action_mask is missing or has no place"),
    "an array too many": (lambda arrays: arrays.update(extra=np.zeros(1)), "extra is missing or has no place"),
    "offsets that are no pairs": (
        lambda arrays: arrays.update(response_spans=np.repeat(arrays["response_spans"], 2, axis=1)),
        "are no pairs",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_tokens_that_are_not_those_of_the_turns_are_refused(case, turns, policy, tmp_path):
    change, said = ARRAYS[case]

    def of_copies(arrays: Arrays) -> Any:
        found = change(arrays)
        return found if isinstance(found, dict) else None

    path = changed_arrays(turns, tmp_path / "t", of_copies)
    with pytest.raises(GtrTurboError, match=said):
        read_transcript(path, policy.renderer)


def test_tokens_swapped_with_those_of_other_turns_are_refused(turns, turns_config, policy, tmp_path):
    other = execute(replace(turns_config, out=tmp_path / "other", seed=99)).out
    shutil.copytree(turns, tmp_path / "t")
    shutil.copyfile(other / "tokens.safetensors", tmp_path / "t" / "tokens.safetensors")
    with pytest.raises(GtrTurboError, match=r"tokens.safetensors is not what rollout wrote"):
        read_turn_tokens(tmp_path / "t", read_turns(tmp_path / "t"))
    with pytest.raises(GtrTurboError, match=r"tokens.safetensors is damaged|is not what its tokens say"):
        read_transcript(reseal(tmp_path / "t"), policy.renderer)


@pytest.mark.parametrize("by", [-30.0, -0.2, 0.2])
def test_an_update_refuses_log_probs_that_its_checkpoint_does_not_give(by, turns, ppo_config, tmp_path):
    def shift(arrays: Arrays) -> None:
        place = int(np.argmin(arrays["sample_logprobs"]))
        arrays["sample_logprobs"][place] += by

    path = changed_arrays(turns, tmp_path / "t", shift)
    with pytest.raises(GtrTurboError, match=r"log-probs in .* are up to .* \(most in turn \d+\): these tokens"):
        execute(replace(ppo_config, out=tmp_path / "o", rollouts=path))
    assert not (tmp_path / "o").exists()


def test_a_line_that_names_a_key_twice_is_refused(turns, tmp_path):
    shutil.copytree(turns, tmp_path / "t")
    file = tmp_path / "t" / "turns.jsonl"
    file.write_text(file.read_text().replace('"reward": ', '"reward": 1.0, "reward": ', 1))
    with pytest.raises(GtrTurboError, match="line 1: it names 'reward' twice"):
        read_turns(reseal(tmp_path / "t"))


# Scores

SCORES: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "a log-prob above 0": (at("teacher_logprobs", 0, 1.0), "row 0: 1 is no log-probability"),
    "a log-prob that is none": (at("teacher_logprobs", 0, np.nan), "row 0: nan is no log-probability"),
    "other tokens": (
        lambda arrays: at("offsets", 1, arrays["offsets"][1] + 1)(arrays),
        "of other tokens than those of the turns",
    ),
    "a row less": (
        lambda arrays: arrays.update(offsets=np.delete(arrays["offsets"], 1)),
        "of other tokens than those of the turns",
    ),
    "rows that do not end": (at("offsets", -1, 3), "do not lead from 0"),
    "wide log-probs": (lambda a: a.update(teacher_logprobs=a["teacher_logprobs"].astype(np.float64)), "is float64"),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores_that_are_none_are_refused_by_an_update(case, scores, ppo_config, tmp_path):
    change, said = SCORES[case]
    path = changed_arrays(scores, tmp_path / "s", lambda arrays: change(arrays) and None, file="scores.safetensors")
    with pytest.raises(GtrTurboError, match=said):
        execute(replace(ppo_config, out=tmp_path / "o", scores=path))
    assert not (tmp_path / "o").exists()


TOP: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "a token twice": (lambda a: at("top_ids", (0, 1), a["top_ids"][0, 0])(a), "stands twice"),
    "a token below 0": (at("top_ids", (0, 1), -1), "negative"),
    "out of order": (lambda a: at("top_logprobs", (0, 1), a["top_logprobs"][0, 0] / 2)(a), "not in order|more than certain"),
    "a rest that is none": (at("rest_logprobs", 0, np.nan), "are none"),
    "more than certain": (at("rest_logprobs", 0, 0.0), "more than certain together"),
}


@pytest.fixture(scope="module")
def top_scores(turns, init, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("top") / "scores"
    return execute(DistillConfig(out=out, rollouts=turns, teacher=init, top_logprobs=4)).out


@pytest.mark.parametrize("case", TOP)
def test_likeliest_tokens_that_are_none_are_refused(case, top_scores, tmp_path):
    change, said = TOP[case]
    path = changed_arrays(top_scores, tmp_path / "s", lambda arrays: change(arrays) and None, file="scores.safetensors")
    read_scores(top_scores, top=True)
    with pytest.raises(GtrTurboError, match=said):
        read_scores(path, top=True)


# Demos and evaluations


@pytest.fixture(scope="module")
def demos(turns, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demos") / "demos"
    return execute(DistillConfig(out=out, rollouts=turns, expert=True, mode="thoughts")).out


DEMOS: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "a row is missing": (lambda rows: rows[1:], "demos, and stage.json says"),
    "a row stands twice": (lambda rows: [*rows, rows[0]], "demos, and stage.json says"),
    "a span out of the reply": (put("masked_spans", [[0, 10**6]]), "run backwards, or out of the reply"),
    "a span that runs backwards": (put("masked_spans", [[5, 2]]), "run backwards, or out of the reply"),
    "a span below 0": (put("masked_spans", [[-5, 2]]), "run backwards, or out of the reply"),
    "no pictures": (put("images", []), "1 image parts, and it names 0 pictures"),
    "no reply": (lambda rows: rows[0]["messages"].pop(), "do not end with the assistant's reply"),
}


@pytest.mark.parametrize("case", DEMOS)
def test_demos_that_are_none_are_refused(case, demos, warm, tmp_path):
    change, said = DEMOS[case]
    assert read_demos(demos)
    path = changed_rows(demos, tmp_path / "d", change, file="demos.jsonl")
    with pytest.raises(GtrTurboError, match=said):
        execute(SftConfig(out=tmp_path / "o", data=(path,), checkpoint=warm, steps=1))


def test_an_evaluation_whose_numbers_differ_is_refused(warm, tmp_path):
    path = execute(EvalConfig(out=tmp_path / "e", checkpoint=warm, task="numberline", env=("image=tiny",), episodes=2)).out
    assert read_turns(path)
    metrics = read_manifest(path).metrics
    reseal(path, metrics=metrics | {"success_rate": 1.0 - metrics["success_rate"] / 2})
    with pytest.raises(GtrTurboError, match=r"metrics.json says other numbers than stage.json"):
        read_turns(path)
