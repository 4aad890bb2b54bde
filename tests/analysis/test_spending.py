"""What teachers cost: counted by hand from what artifacts say of their calls, in compare, show and the report."""

import json
from pathlib import Path

import pytest
from made_runs import make_run, timed
from typer.testing import CliRunner

from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.spending import spending_of
from gtrturbo.cli import app
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teaching.budget import Budget
from gtrturbo.store.files import save_json
from gtrturbo.store.prices import TokenCounts, read_prices
from gtrturbo.store.provenance import Provenance
from gtrturbo.store.writing import writing

WON = {0: [0, 1], 1: [1, 1]}
# 2.5 a million read, 1.25 read again, 10 written; 36 an hour, which is a cent a second.
PRICES = """dated: 2026-01-31
currency: EUR
hour: 36
models:
  big: {input: 2.5, cached: 1.25, output: 10}
  small: {input: 1, output: 2}
"""


def asked(
    run: Path, place: int, *teachers: tuple[str, int, TokenCounts], seconds: float = 3.0, folder: str = "guidance", **timing
) -> None:
    """Write corrections that teachers gave: name, calls, tokens."""
    out = run / folder / f"{place:04d}"
    with writing(out, Provenance("distill", "demos", {}, {})) as draft:
        told = [
            {"teacher": f"openai:{name}", "calls": calls, "tokens": vars(tokens), "hints": True}
            for name, calls, tokens in teachers
        ]
        save_json(draft.folder / "teacher.json", told)
        (draft.folder / "demos.jsonl").write_text("")
    timed(out, seconds)
    save_json(out / "timing.json", {"seconds": seconds} | timing)


@pytest.fixture
def prices(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    return file


@pytest.fixture
def gtr(tmp_path):
    run = make_run(
        tmp_path / "gtr", "gtr", 0, WON, teacher=Path("openai:big"), address="http://localhost:1", seconds={"rollouts": 5.0}
    )
    asked(run, 0, ("big", 10, TokenCounts(1_000_000, 400_000, 20_000)))
    asked(run, 1, ("big", 30, TokenCounts(3_000_000, 0, 80_000)), ("small", 5, TokenCounts(500_000, 0, 100_000)), seconds=7.0)
    return run


def test_money_is_tokens_times_prices_and_the_machine_seconds_times_its_hour(gtr, prices):
    spent = spending_of(read_history(gtr), read_prices(prices))
    # 0.6 × 2.5 + 0.4 × 1.25 + 0.02 × 10 = 2.2;  3 × 2.5 + 0.08 × 10 = 8.3;  0.5 × 1 + 0.1 × 2 = 0.7
    assert spent.money == pytest.approx(11.2)
    assert (spent.calls, spent.tokens) == (45, TokenCounts(4_500_000, 400_000, 200_000))
    assert spent.seconds == 10.0 and spent.machine == pytest.approx(0.1)
    assert (spent.currency, spent.dated, spent.paid_calls, spent.paid) == ("EUR", "2026-01-31", 0, 0)


def test_what_is_imitated_beside_a_kl_is_counted_too(gtr, prices):
    asked(gtr, 1, ("small", 5, TokenCounts(500_000, 0, 100_000)), folder="demos")
    spent = spending_of(read_history(gtr), read_prices(prices))
    assert (spent.calls, spent.seconds) == (50, 13.0) and spent.money == pytest.approx(11.9)


def test_what_a_run_paid_is_in_its_ledger(gtr, prices):
    budget = Budget("big", None, max_calls=None, max_cost=None, ledger=gtr / "teacher-calls.jsonl")
    for _ in range(3):
        budget.end(budget.begin(TokenCounts()), TokenCounts(200_000, 100_000, 1_000), 2.5)
    spent = spending_of(read_history(gtr), read_prices(prices))
    # 3 × (0.1 × 2.5 + 0.1 × 1.25 + 0.001 × 10)
    assert (spent.paid_calls, spent.waited) == (3, 7.5) and spent.paid == pytest.approx(1.155)
    assert spending_of(read_history(gtr), None).paid is None  # No price was known then.


def test_without_prices_it_is_told_as_it_was_told_then(gtr):
    assert spending_of(read_history(gtr), None).money is None
    for place, cost in ((0, 2.0), (1, 0.5)):
        timing = {"seconds": 1.0, "cost": cost, "currency": "USD", "prices_dated": "2026-01-31"}
        save_json(gtr / "guidance" / f"{place:04d}" / "timing.json", timing)
    spent = spending_of(read_history(gtr), None)
    assert (spent.money, spent.currency, spent.dated) == (2.5, "USD", "2026-01-31")
    save_json(gtr / "guidance/0001/timing.json", timing | {"prices_dated": "2026-02-01"})
    with pytest.raises(GtrTurboError, match="was paid by several prices: USD of 2026-01-31 and USD of 2026-02-01"):
        spending_of(read_history(gtr), None)


@pytest.mark.parametrize("method", ["gtr", "opd"])
@pytest.mark.parametrize(("currency", "dated"), [("JPY", "2026-01-01"), ("USD", "2025-06-01")])
def test_runs_that_were_paid_by_several_prices_are_not_added_up(tmp_path, prices, method, currency, dated):
    runs = []
    for seed, (name, price) in enumerate([("gtr", ("USD", "2026-01-01")), (method, (currency, dated))]):
        runs.append(make_run(tmp_path / f"{seed}", name, seed, WON, teacher=Path("openai:big"), address="http://localhost:1"))
        told = dict(zip(("currency", "prices_dated"), price, strict=True))
        asked(runs[-1], 0, ("big", 10, TokenCounts(1_000, 0, 10)), cost=1.0, **told)
    for command in (["compare", "--out", str(tmp_path / "out")], ["report", "--out", str(tmp_path / "page.html")]):
        said = CliRunner().invoke(app, [*command, *map(str, runs)])
        assert said.exit_code == 1 and "add: --prices FILE.yaml" in said.output
        assert f"by several prices: USD of 2026-01-01 and {currency} of {dated}" in " ".join(said.output.split())
        assert not Path(command[-1]).exists()
        assert CliRunner().invoke(app, [*command, *map(str, runs), "--prices", str(prices)]).exit_code == 0


def test_a_model_without_a_price_is_refused(gtr, prices):
    prices.write_text(PRICES.replace("small", "smaller"))
    with pytest.raises(GtrTurboError, match="--prices says nothing of small"):
        spending_of(read_history(gtr), read_prices(prices))


def test_the_costs_of_methods_stand_beside_one_another(gtr, prices, tmp_path):
    free = make_run(tmp_path / "free", "turbo-kl", 0, WON, seconds={"teachers": 20.0, "guidance": 30.0})
    plain = make_run(tmp_path / "plain", "ppo", 0, WON)
    runs = [str(run) for run in (plain, free, gtr)]
    said = CliRunner().invoke(app, ["compare", *runs, "--prices", str(prices), "--out", str(tmp_path / "compared")])
    assert said.exit_code == 0, said.output
    rows = {
        line.split()[0]: line.split()[1:]
        for line in said.output.partition("the teacher, per run")[2].splitlines()
        if line.strip()
    }
    assert rows["gtr"] == ["45", "4,500,000", "400,000", "200,000", "11.2000", "0", "0.0000", "10.0", "0.1000"]
    assert rows["turbo-kl"] == ["0", "0", "0", "0", "0.0000", "0", "0.0000", "50.0", "0.5000"]
    assert rows["ppo"][-2:] == ["0.0", "0.0000"]
    costs = {cost["method"]: cost["spending"] for cost in json.loads((tmp_path / "compared/compare.json").read_text())["costs"]}
    assert costs["gtr"]["money"] == pytest.approx(11.2) and costs["turbo-kl"]["machine"] == pytest.approx(0.5)
    page = tmp_path / "page.html"
    assert (
        CliRunner().invoke(app, ["report", *runs, "--samples", "0", "--prices", str(prices), "--out", str(page)]).exit_code == 0
    )
    assert "prices of 2026-01-31" in page.read_text() and "<td>11.2000</td>" in page.read_text()
    shown = CliRunner().invoke(app, ["show", str(gtr), "--prices", str(prices)]).output
    assert "11.2 EUR if each were paid for" in shown and "0.1 EUR of this machine" in shown


def test_nothing_is_said_of_costs_where_nobody_was_asked(tmp_path):
    run = make_run(tmp_path / "plain", "ppo", 0, WON)
    assert "the teacher, per run" not in CliRunner().invoke(app, ["compare", str(run)]).output


def test_prices_are_for_runs(prices, tmp_path):
    (tmp_path / "no-run").mkdir()
    said = CliRunner().invoke(app, ["show", str(tmp_path / "no-run"), "--prices", str(prices)])
    assert said.exit_code == 1 and "--prices is for a run" in said.output
