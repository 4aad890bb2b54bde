"""The campaign's own judgement: what it must call a fault, and that each mutation damages what it says."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from safetensors.numpy import save_file

from campaign.cases import FoundError, Verdict
from campaign.damage import Inapplicable, Mutation
from campaign.forked import Ended
from campaign.mutations import passed
from campaign.mutators import mutations_for
from campaign.summary import Done, summary
from campaign.terminal import inspect
from campaign.trees import contents, differences
from campaign.watching import Watch


def ended(code: int = 0, out: bytes = b"", err: bytes = b"", **more: bool) -> Ended:
    return Ended(code, out, err, 0.1, **more)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (ended(1, err=b"Traceback (most recent call last):\n  File x\nKeyError: 1\n"), "traceback"),
        (ended(-11), "traceback"),
        (ended(4, err=b"?"), "traceback"),
        (ended(1, err=b"\x1b[31mred"), "raw"),
        (ended(1, err="a\u202eb".encode()), "raw"),
        (ended(1, err=b"\xff"), "raw"),
        (ended(1), "mute"),
        (ended(0, hung=True), "hang"),
    ],
)
def test_what_no_user_should_see_is_a_fault(found, outcome):
    with pytest.raises(FoundError) as error:
        inspect(found)
    assert error.value.verdict.outcome == outcome and error.value.verdict.is_fault


def test_a_sentence_and_an_ordinary_end_are_none():
    inspect(ended(1, err="turns/turns.jsonl ist für niemanden lesbar.\nrun: gtrturbo show turns --check\n".encode()))
    inspect(ended(0, out=b"turns\n"))


@pytest.mark.parametrize(
    ("breaks", "reader", "opened", "hashed", "same", "outcome"),
    [
        (False, "rollout", True, True, True, "silent"),  # Its hash is another, and it was read.
        (False, "rollout", False, True, True, "same"),  # It was not read.
        (False, "check", False, True, True, "silent"),
        (True, "check", True, False, False, "accepted"),  # As sealed: hashes are all that it looks at.
        (True, "rollout", True, False, False, "silent"),
        (False, "rollout", True, False, False, "accepted"),  # Another valid file.
        (True, "rollout", True, False, True, "same"),
        (False, "show", True, True, False, "accepted"),  # It shows what is there.
    ],
)
def test_a_damaged_file_that_was_taken_is_a_fault_where_it_counts(breaks, reader, opened, hashed, same, outcome):
    mutation = Mutation("any", lambda path, draw: None, breaks=breaks)
    try:
        verdict = passed(mutation, reader, "turns.jsonl", opened=opened, hashed=hashed, same=same)
    except FoundError as error:
        verdict = error.verdict
    assert verdict.outcome == outcome


TURN = {
    "episode": 0, "turn": 0, "messages": [{"role": "user", "content": [{"text": "?"}]}, {"role": "assistant",
    "content": [{"text": "!"}]}],
    "images": ["images/0.png"], "reward": 1.0, "won": True, "masked_spans": [[0, 1]], "terms": {"a": 1, "b": None},
}  # fmt: skip
ARRAYS = {
    "sample_logprobs": np.linspace(-1, -2, 8, dtype=np.float32), "response_ids": np.arange(8, dtype=np.int32),
    "prompt_ids": np.arange(8, dtype=np.int32), "response_offsets": np.array([0, 4, 8]), "prompt_offsets": np.array([0, 4, 8]),
    "response_spans": np.arange(16, dtype=np.int32).reshape(8, 2), "thought_mask": np.arange(8) < 4,
    "action_mask": np.arange(8) > 4,
    "teacher_logprobs": np.linspace(-1, -2, 8, dtype=np.float32), "offsets": np.array([0, 4, 8]),
    "top_ids": np.arange(8, dtype=np.int32) + 1, "rest_logprobs": np.linspace(-1, -2, 8, dtype=np.float32),
}  # fmt: skip


def file(folder: Path, name: str) -> Path:
    path = folder / "artifact" / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(TURN | {"turn": turn}) + "\n" for turn in range(3)))
    elif name.endswith(".json"):
        path.write_text(json.dumps(TURN))
    elif name.endswith(".safetensors"):
        save_file(ARRAYS, path)
    else:
        path.write_bytes(bytes(range(200)))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "turns.jsonl",
        "demos.jsonl",
        "stage.json",
        "tokens.safetensors",
        "scores.safetensors",
        "model.safetensors",
        "a.png",
        "t.jinja",
    ],
)
def test_every_mutation_damages_its_file_the_same_way_for_one_seed(tmp_path, name):
    for number, mutation in enumerate(mutations_for(name, "turns")):
        trees = []
        for attempt in ("a", "b"):
            folder = tmp_path / str(number) / attempt
            folder.mkdir(parents=True)
            path = file(folder, name)
            before = contents(path.parent)
            try:
                mutation.change(path, Random(number))
            except Inapplicable:
                pytest.fail(f"{mutation.name} does not apply to {name}")
            trees.append(contents(path.parent))
            assert differences(trees[-1], before), mutation.name
        assert trees[0] == trees[1], mutation.name


def test_the_kernel_says_whether_a_file_was_opened(tmp_path):
    paths = [tmp_path / name for name in ("read", "unread")]
    for path in paths:
        path.write_text("x")
    seen = {}
    for path in paths:
        with Watch([path]) as watch:
            paths[0].read_text()
        seen[path.name] = watch.opened
    assert seen == {"read": True, "unread": False}


def test_the_table_counts_cases_and_events_by_kind_and_outcome():
    done = [
        Done("kills/a/1", "kill", Verdict("same"), 1.0),
        Done("kills/a/2", "chain", Verdict("same", events=9), 1.0),
        Done("kills/a/3", "kill", Verdict("lost"), 2.0),
    ]
    assert [line.split() for line in summary(done).splitlines()] == [
        ["cases", "events", "same", "lost", "seconds"],
        ["chain", "1", "9", "1", "0", "1"],
        ["kill", "2", "2", "1", "1", "3"],
        ["all", "3", "11", "2", "1", "4"],
    ]
