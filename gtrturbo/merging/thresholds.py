"""What was measured of each checkpoint's tensors, kept on disk: the next merge with it needs one pass over the files.

One file per checkpoint and key: the magnitudes that bound what is kept of each tensor, under the ids of checkpoint and base. A
file says what it belongs to, and is refused if that is not what is asked.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.plan import MergePlan
from gtrturbo.store.files import write_whole
from gtrturbo.store.hashes import sealed_by

THRESHOLDS_FORMAT = 3  # 2: products of adapters were float32
Bounds = tuple[float, float]
Thresholds = dict[tuple[str, int], Bounds]  # By tensor and number of the checkpoint.
# A key names the way of trimming by the method that it was first made for; a user's rule that trims asks for what TIES does.
NAMED_AFTER = {"largest": "ties", "middle": "breadcrumbs"}


@dataclass(frozen=True)
class ThresholdKey:
    """What thresholds depend on. `rule` names scope and ties: per tensor, every entry at the threshold is kept."""

    checkpoint: str
    base: str
    method: str
    density: float
    gamma: float
    rule: str = "tensor, at least"
    format: int = THRESHOLDS_FORMAT

    @property
    def file(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def recall(folder: Path, key: ThresholdKey) -> dict[str, Bounds]:
    """Read what was measured before, by tensor; nothing if it never was.

    Raises:
        GtrTurboError: the file is damaged, was changed by hand, or belongs to something else.
        OSError: it is there, and cannot be read.
    """
    file = folder / key.file
    if not file.is_file():
        return {}
    text = file.read_bytes()
    try:
        content = json.loads(text)
        belongs = content["question"]
        bounds = {
            name: (float(low), math.inf if high is None else float(high)) for name, (low, high) in content["bounds"].items()
        }
        if not all(0 <= low <= high for low, high in bounds.values()):
            raise ValueError("no bounds")
        if content["seal"] != sealed_by([belongs, content["bounds"]]):
            raise ValueError("changed by hand")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise GtrTurboError(f"{file} is damaged.", "delete it: it is measured again.") from None
    if belongs != asdict(key):
        odd = next(name for name, value in asdict(key).items() if belongs.get(name) != value)
        raise GtrTurboError(f"{file} belongs to another {odd}.", "delete it: it is measured again.")
    return bounds


def remember(folder: Path, key: ThresholdKey, bounds: Mapping[str, Bounds]) -> None:
    """Write what was measured; the file appears whole or not at all."""
    rows = {name: [low, None if math.isinf(high) else high] for name, (low, high) in sorted(bounds.items())}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"question": asdict(key), "bounds": rows, "seal": sealed_by([asdict(key), rows])}
    text = json.dumps(content, indent=1) + "\n"
    write_whole(folder / key.file, text.encode())


@dataclass(frozen=True)
class ThresholdCache:
    """A folder of thresholds, and the keys of a merge's checkpoints in it."""

    folder: Path
    keys: Sequence[ThresholdKey]

    def recall(self, tensors: Iterable[str]) -> Thresholds:
        """Read what was measured before of the tensors at hand; where it cannot be read it is measured again."""
        names = set(tensors)
        try:
            return {
                (name, index): bounds
                for index, key in enumerate(self.keys)
                for name, bounds in recall(self.folder, key).items()
                if name in names
            }
        except OSError as error:
            _tell(self.folder, "read", error, "all is measured again.")
            return {}

    def remember(self, thresholds: Thresholds) -> None:
        """Add what was measured since. A merge that is done is not thrown away because its cache cannot be written."""
        try:
            self._remember(thresholds)
        except OSError as error:
            _tell(self.folder, "written", error, "the next merge measures again.")

    def _remember(self, thresholds: Thresholds) -> None:
        for index, key in enumerate(self.keys):
            known = recall(self.folder, key)
            measured = {name: bounds for (name, number), bounds in thresholds.items() if number == index}
            if measured.keys() - known.keys():
                remember(self.folder, key, known | measured)


def _tell(folder: Path, done: str, error: OSError, then: str) -> None:
    stderr.print(f"the cache {visible(str(folder))} cannot be {done} ({error.strerror}): {then}", style="yellow")


def cache_of(folder: Path, plan: MergePlan, *, base: str, checkpoints: Sequence[str]) -> ThresholdCache | None:
    """Return where a merge's thresholds are kept, given the ids of what it reads; None where it needs none."""
    if plan.measures != "ranks":
        return None
    method = NAMED_AFTER[str(plan.method.keeps)]
    keys = [
        ThresholdKey(checkpoint=identity, base=base, method=method, density=density, gamma=plan.gamma)
        for identity, density in zip(checkpoints, plan.densities, strict=False)
    ]
    return ThresholdCache(folder, keys)
