"""What was paid is kept call by call, also after a process that was killed while it wrote."""

import json
from dataclasses import asdict

from gtrturbo.play.teaching.budget import Budget, Call, read_ledger
from gtrturbo.store.prices import TokenCounts

CALL = Call("m", TokenCounts(100, 0, 10), 1.0, None)


def test_calls_after_a_line_that_was_cut_off_are_read_beside_those_before_it(tmp_path):
    line = json.dumps(asdict(CALL)) + "\n"
    ledger = tmp_path / "paid.jsonl"
    ledger.write_text(line + line[:-9])
    budget = Budget("m", None, max_calls=None, max_cost=None, ledger=ledger)
    budget.end(budget.begin(TokenCounts(7, 0, 3)), TokenCounts(7, 0, 3), 0.5)
    assert read_ledger(ledger) == [CALL, Call("m", TokenCounts(7, 0, 3), 0.5, None)]


def test_a_ledger_of_whole_lines_is_left_as_it_is(tmp_path):
    ledger = tmp_path / "paid.jsonl"
    ledger.write_text(2 * (json.dumps(asdict(CALL)) + "\n"))
    before = ledger.read_bytes()
    Budget("m", None, max_calls=None, max_cost=None, ledger=ledger)
    assert ledger.read_bytes() == before
