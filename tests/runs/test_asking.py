"""What a dry run says that teachers on servers will be asked."""

from pathlib import Path

from small_runs import run_config

from gtrturbo.runs.asking import about_asking
from gtrturbo.runs.plan import plan
from gtrturbo.runs.sample import Play

PLAY = Play(text=100, pictures=(), reply=20, turns=5.0, row=1000, png=500.0)
PRICES = """
dated: 2026-01-01
currency: EUR
models:
  m: {input: 1000000, output: 0}
"""


def told(**settings) -> str:
    config = run_config(**({"method": "gtr", "teacher": Path("openai:m"), "address": "http://localhost:1"} | settings))
    return about_asking(config, plan(config), PLAY)[0]


def test_calls_are_counted_by_the_episodes_that_are_played():
    assert "is asked about 640 times" in told()  # Two updates of 64 episodes of 5 turns.
    assert "is asked about 10,240 times" in told(set=("rollout.episodes=1024",))
    assert told(set=("rollout.episodes=1024",)) == told(episodes=1024)


def test_what_set_says_of_several_teachers_counts_too():
    shared = {"more_teachers": (Path("openai:n"),)}
    assert "is asked about 320 times" in told(**shared)
    assert told(**shared, set=("distill.teacher-weights=3,1",)) == told(**shared, teacher_weights="3,1")
    assert "is asked about 480 times" in told(**shared, teacher_weights="3,1")


def test_what_is_paid_is_of_the_prices_that_the_stages_have(tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    paid = told(set=(f"distill.prices={tmp_path}/prices.yaml",))
    assert "EUR by prices of 2026-01-01" in paid and paid == told(prices=tmp_path / "prices.yaml")
