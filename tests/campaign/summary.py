"""What came of the cases: a table of outcomes by kind, and all of them as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from campaign.cases import FAULTS, FINE, Verdict


@dataclass(frozen=True)
class Done:
    """A case that was worked off."""

    name: str
    kind: str
    verdict: Verdict
    seconds: float


def summary(done: Sequence[Done]) -> str:
    """Lay out cases and events by kind and outcome."""
    columns = [name for name in (*FINE, *FAULTS) if any(each.verdict.outcome == name for each in done)]
    rows = [("", "cases", "events", *columns, "seconds")]
    for kind in [*sorted({each.kind for each in done}), "all"]:
        those = [each for each in done if kind in (each.kind, "all")]
        counts = Counter(each.verdict.outcome for each in those)
        numbers = [len(those), sum(each.verdict.events for each in those), *(counts[name] for name in columns)]
        rows.append((kind, *map(str, numbers), f"{sum(each.seconds for each in those):.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def write(out: Path, done: Sequence[Done], table: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.txt").write_text(table + "\n", encoding="utf-8")
    rows = [asdict(each) for each in sorted(done, key=lambda each: each.name)]
    (out / "results.json").write_text(json.dumps(rows, indent=1, ensure_ascii=True) + "\n")
