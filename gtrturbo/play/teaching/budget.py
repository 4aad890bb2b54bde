"""What may be paid for a teacher's answers, what was paid, and the file that says so call by call."""

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.claims import require_own_file
from gtrturbo.store.prices import Price, TokenCounts

CHARACTERS_PER_TOKEN = 3
# Of a picture, as OpenAI counts those of high detail: a base, and more for each tile of 512 pixels.
BASE_TOKENS, TILE_TOKENS, TILE = 85, 170, 512
LARGER = "give a larger one to go on: what was answered is kept, and not asked again."


def picture_tokens(height: int, width: int) -> int:
    """Estimate a picture's tokens: 85 + 170 for each tile of 512 pixels, larger sides scaled to 2048 and the shorter one to 768.

    Source: OpenAI, "Images and vision", how tokens of high detail are counted for GPT-4o. Other models count otherwise.
    """
    scale = min(1.0, 2048 / max(height, width), 768 / min(height, width))
    tiles = -(-round(height * scale) // TILE) * -(-round(width * scale) // TILE)
    return BASE_TOKENS + TILE_TOKENS * tiles


@dataclass(frozen=True)
class Call:
    """One call that was paid for. `cost` is None where no price was known."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    tokens: TokenCounts
    seconds: Annotated[float, Field(ge=0)]
    cost: Annotated[float, Field(ge=0)] | None = None


class SpentError(GtrTurboError):
    """Say that a budget is used up."""


class Budget:
    """Counts calls and money, and lets no call begin that may go beyond; used from several threads.

    Args:
        model: that is asked.
        price: of it, if known.
        max_calls, max_cost: None for no bound.
        ledger: file that holds earlier calls, and gets each that is paid now.
    """

    def __init__(
        self, model: str, price: Price | None, *, max_calls: int | None, max_cost: float | None, ledger: Path | None = None
    ) -> None:
        if max_cost is not None and price is None:
            raise GtrTurboError("--max-cost needs to know what a call costs.", "add: --prices FILE.yaml")
        self.model, self.price, self.max_calls, self.max_cost = model, price, max_calls, max_cost
        self.calls, self.tokens, self.cost, self.seconds = 0, TokenCounts(), 0.0, 0.0
        self._ledger, self._lock = ledger, threading.Lock()
        before = read_ledger(ledger) if ledger else []
        if ledger:
            _drop_unfinished(ledger)
        self._before = (len(before), sum(call.cost or 0.0 for call in before))
        self._running, self._reserved = 0, 0.0

    def begin(self, tokens: TokenCounts) -> float:
        """Reserve a call that will read and write about so many tokens; return the money that is reserved.

        Raises:
            SpentError: it may go beyond what is allowed.
        """
        cost = self.price.of(1, tokens) if self.price else 0.0
        with self._lock:
            calls, paid = self.calls + self._before[0], self.cost + self._before[1]
            if self.max_calls is not None and calls + self._running >= self.max_calls:
                raise SpentError(f"--max-calls {self.max_calls} allows no further call to the teacher's server.", LARGER)
            if self.max_cost is not None and paid + self._reserved + cost > self.max_cost:
                raise SpentError(
                    f"the teacher's server was paid {paid:.4g}, a further call may cost {cost:.2g}, "
                    f"and --max-cost is {self.max_cost:g}.",
                    LARGER,
                )
            self._running += 1
            self._reserved += cost
        return cost

    def end(self, reserved: float, tokens: TokenCounts | None, seconds: float = 0.0) -> None:
        """Count what a call came to; None where nothing was paid for it."""
        with self._lock:
            self._running -= 1
            self._reserved -= reserved
            if tokens is None:
                return
            cost = self.price.of(1, tokens) if self.price else None
            self.calls, self.tokens, self.seconds = self.calls + 1, self.tokens + tokens, self.seconds + seconds
            self.cost += cost or 0.0
            if self._ledger:
                _append(self._ledger, Call(self.model, tokens, round(seconds, 3), cost))


def _drop_unfinished(file: Path) -> None:
    """Cut off a last line that a killed process did not finish, so that the next call begins a line of its own."""
    content = file.read_bytes() if file.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content) == file.stat().st_size:  # Else another process has just added its own.
        os.truncate(file, whole)


def _append(file: Path, call: Call) -> None:
    """Add a line with one write, so that lines of several processes stand beside one another."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(call), ensure_ascii=False, allow_nan=False) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_ledger(file: Path) -> list[Call]:
    """Read the calls that were paid for; a last line that a killed process did not finish is left out.

    Raises:
        GtrTurboError: another line is no call.
    """
    require_own_file(file, "--ledger")
    if not file.exists():
        return []
    content = file.read_bytes()
    calls = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            calls.append(TypeAdapter(Call).validate_json(line))
        except ValidationError:
            raise GtrTurboError(
                f"{file} line {number} is no call to a teacher.", "name another --ledger, or restore this one."
            ) from None
    return calls
