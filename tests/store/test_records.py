"""Rows of turns.jsonl and demos.jsonl."""

import json
from dataclasses import asdict, replace

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.records import Demo, Successor, Turn, chat, mean, read_rows, write_rows

TURN = Turn(
    episode=3,
    turn=0,
    seed=11,
    messages=chat("Which way?", '{"thoughts": "größer — 上", "action": "+"}'),
    images=["images/a.png"],
    action="+",
    executed="+",
    legal=True,
    perception_correct=False,
    reward=-1.0,
    reward_terms={"environment": -1.0},
    terminated=False,
    truncated=True,
    won=False,
    info={"Target": 4, "cards": ["T", "A"]},
    successor=Successor(messages=chat("And now?"), images=["images/b.png"]),
)
ILLEGAL = replace(TURN, action=None, executed=None, legal=False, perception_correct=None, truncated=False, successor=None)
DEMO = Demo(messages=TURN.messages, images=TURN.images, masked_spans=[(3, 5), (7, 9)])


@pytest.mark.parametrize(("kind", "rows"), [(Turn, [TURN, ILLEGAL]), (Demo, [DEMO]), (Turn, [])])
def test_rows_come_back_as_they_were(tmp_path, kind, rows):
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl", kind)) == rows


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_not_written(tmp_path, bad):
    with pytest.raises(ValueError):
        write_rows(tmp_path / "rows.jsonl", [replace(TURN, reward=bad)])


def written(folder, **changes) -> str:
    """Write a good row and, below it, one with changed fields, as text; a field changed to ... is left out."""
    write_rows(folder / "turns.jsonl", [TURN])
    row = json.loads((folder / "turns.jsonl").read_text()) | changes
    row = {name: value for name, value in row.items() if value is not ...}
    with (folder / "turns.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return f"{folder / 'turns.jsonl'} line 2: "


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"reward": float("nan")}, "reward: Input should be a finite number"),
        ({"reward": ...}, "reward"),
        ({"rewards": 1.0}, "rewards"),
        ({"episode": "first"}, "episode"),
        ({"legal": None}, "legal"),
        ({"reward_terms": {"environment": "much"}}, "reward_terms.environment"),
        ({"successor": {"messages": []}}, "successor"),
    ],
    ids=["nan", "missing", "unknown", "type", "null", "inner", "successor"],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, changes, field):
    where = written(tmp_path, **changes)
    with pytest.raises(GtrTurboError) as error:
        list(read_rows(tmp_path / "turns.jsonl", Turn))
    assert str(error.value).startswith(where + field)


def test_half_a_line_is_named(tmp_path):
    (tmp_path / "turns.jsonl").write_text('{"episode": 1, "turn"')
    with pytest.raises(GtrTurboError, match=r"turns.jsonl line 1: row: Invalid JSON"):
        list(read_rows(tmp_path / "turns.jsonl", Turn))


def test_a_question_has_an_image_part_before_its_text_and_no_reply():
    assert chat("Which way?") == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which way?"}]}]


def test_the_reply_of_a_turn_is_what_the_assistant_said():
    assert TURN.reply == '{"thoughts": "größer — 上", "action": "+"}'


def test_written_rows_hold_plain_chat_messages_for_other_trainers(tmp_path):
    write_rows(tmp_path / "turns.jsonl", [TURN])
    row = json.loads((tmp_path / "turns.jsonl").read_text())
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert sum(part["type"] == "image" for message in row["messages"] for part in message["content"]) == len(row["images"])


def test_the_mean_of_no_numbers_is_zero_and_else_the_mean():
    assert mean([]) == 0.0
    assert mean([1, 2, 6]) == 3.0


def test_rows_of_earlier_versions_are_read_under_their_old_names(tmp_path):
    file = tmp_path / "turns.jsonl"
    row = asdict(TURN) | {"reads_truly": True, "policy": "adapter-1"}
    for name in ("perception_correct", "agent", "group"):
        del row[name]
    file.write_text(json.dumps(row) + "\n")
    [turn] = read_rows(file, Turn)
    assert (turn.perception_correct, turn.agent, turn.group) == (True, "adapter-1", None)
    old = {"messages": [], "images": [], "unlearned": [[3, 5]]}
    file.write_text(json.dumps(old) + "\n")
    assert next(read_rows(file, Demo)).masked_spans == [(3, 5)]
