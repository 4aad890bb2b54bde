"""JSON that was written by others or may have been damaged since, read as what it should be, or refused by its name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from gtrturbo.config.regular_files import open_regular, read_regular
from gtrturbo.errors import GtrTurboError

Content = TypeVar("Content")
MOST_OF_JSON = 256 << 20


def read_json(file: Path, kind: type[Content], *, mend: str) -> Content:
    """Read a file as a value of a type, such as a dataclass or `dict[str, float]`; numbers are finite.

    Args:
        mend: what to do where it is damaged.

    Raises:
        OSError, GtrTurboError: it cannot be read, or holds something else.
    """
    return _valid(file, TypeAdapter(kind), read_regular(file, most=MOST_OF_JSON), "", mend)


def read_json_lines(file: Path, kind: type[Content], *, mend: str) -> Iterator[Content]:
    """Read each line of a file as `read_json` reads a file; says of which line it cannot."""
    adapter = TypeAdapter(kind)
    with open_regular(file) as opened:
        for number, line in enumerate(opened, 1):
            yield _valid(file, adapter, line, f" line {number}", mend)


def _valid(file: Path, adapter: TypeAdapter[Any], content: bytes, where: str, mend: str) -> Any:
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        raise GtrTurboError(f"{file}{where} is damaged: {told(error)}.", mend) from None


def told(error: ValidationError) -> str:
    """Say in a few words what is wrong first, and where."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return f"{place}: {first['msg']}" if place else first["msg"]
