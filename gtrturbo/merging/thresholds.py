"""What was measured of each checkpoint's tensors, kept on disk: the next merge with it needs one pass over the files.

One file per checkpoint and question: the magnitudes that bound what is kept of each tensor, under the ids of checkpoint and
base. A file says what it belongs to, and is refused if that is not what is asked.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gtrturbo.errors import GtrTurboError

FORMAT = 1
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Question:
    """What thresholds depend on. `rule` names scope and ties: per tensor, every entry at the threshold is kept."""

    checkpoint: str
    base: str
    method: str
    density: float
    gamma: float
    rule: str = "tensor, at least"
    format: int = FORMAT

    @property
    def file(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def recall(folder: Path, question: Question) -> dict[str, Bounds]:
    """Read what was measured before, by tensor; nothing if it never was.

    Raises:
        GtrTurboError: the file is damaged or belongs to something else.
    """
    file = folder / question.file
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        belongs = content["question"]
        bounds = {
            name: (float(low), math.inf if high is None else float(high)) for name, (low, high) in content["bounds"].items()
        }
        if not all(0 <= low <= high for low, high in bounds.values()):
            raise ValueError("no bounds")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise GtrTurboError(f"{file} is damaged.", "delete it: it is measured again.") from None
    if belongs != asdict(question):
        odd = next(name for name, value in asdict(question).items() if belongs.get(name) != value)
        raise GtrTurboError(f"{file} belongs to another {odd}.", "delete it: it is measured again.")
    return bounds


def remember(folder: Path, question: Question, bounds: Mapping[str, Bounds]) -> None:
    """Write what was measured; the file appears whole or not at all."""
    rows = {name: [low, None if math.isinf(high) else high] for name, (low, high) in sorted(bounds.items())}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{question.file}.{os.getpid()}"
    draft.write_text(json.dumps({"question": asdict(question), "bounds": rows}, indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / question.file)
