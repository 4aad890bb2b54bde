"""What a user may see of a command: no traceback, no control characters, a sentence where it failed."""

import re

from campaign.cases import FoundError
from campaign.forked import Ended

TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|fault of gtrturbo|Exception ignored|Fatal Python error|terminate called|panicked at"
)
RAW = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def inspect(ended: Ended) -> None:
    """Refuse what no user should see.

    Raises:
        FoundError: traceback, hang, raw, or mute.
    """
    out, err = ended.out.decode(errors="surrogateescape"), ended.err.decode(errors="surrogateescape")
    if ended.hung:
        raise FoundError("hang", last(err))
    if TRACEBACK.search(err) or TRACEBACK.search(out):
        raise FoundError("traceback", traced(err))
    if ended.code < 0 or ended.code not in (0, 1, 2, 3, 129, 130, 143):
        raise FoundError("traceback", f"exit code {ended.code}: {last(err)}")
    if found := RAW.search(out + err) or re.search("[\ud800-\udfff]", out + err):
        raise FoundError("raw", repr((out + err)[max(0, found.start() - 40) : found.start() + 20]))
    if ended.code and not err.strip():
        raise FoundError("mute", f"exit code {ended.code}")


def last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def traced(said: str) -> str:
    """The exception, and the place in the package that it was raised from."""
    if told := re.search(r"unexpected error: .*", said):
        return told[0][:300]
    places = re.findall(r'File "[^"]*/(gtrturbo/[^"]+)", line (\d+)', said)
    where = ":".join(places[-1]) if places else "?"
    return f"{last(said)} ({where})"
