"""What the page calls resolved above chance: as many seeds as a difference takes."""

import pytest
from made_runs import make_run

from gtrturbo.config import ReportConfig
from gtrturbo.report import report


@pytest.mark.parametrize(("seeds", "said"), [(5, "not resolved above chance"), (6, "resolved above chance")])
def test_below_six_seeds_nothing_is_resolved_above_chance(tmp_path, seeds, said):
    # Won 9 to 12 of 20, chance 0.25: the interval lies above it with five seeds, too.
    runs = tuple(
        make_run(tmp_path / f"{seed}", "ppo", seed, {0: [1] * wins + [0] * (20 - wins)})
        for seed, wins in enumerate((10, 11, 12, 9, 12, 10)[:seeds])
    )
    page = report(ReportConfig(runs=runs, out=tmp_path / "page.html", samples=0)).read_text(encoding="utf-8")
    assert f" over {seeds} seeds, {said} (0.250)" in page
