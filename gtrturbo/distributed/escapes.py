"""Texts of others as a terminal may show them: a name, a reply or an error must not steer it. Nothing is printed elsewhere."""

import codecs
import io
import logging
import shlex
import sys
import unicodedata
import warnings
from typing import Any

# Of what Unicode counts as formats, those that letters and pictures of whole languages are joined with.
JOINERS = "\u200c\u200d"
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Controls, formats such as U+202E, halves of pairs, separators of lines.
REPLACED = "\ufffd"


class _Shown(dict[int, str]):
    """By the code of a character the one that is shown for it, found when it is asked for first."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character != "\n" and character not in JOINERS and unicodedata.category(character) in HIDDEN:
            character = chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else REPLACED
        self[code] = character
        return character


_SHOWN = _Shown()


def visible(text: str) -> str:
    """Replace what steers a terminal or turns a line around one for one, but for line breaks."""
    return text.translate(_SHOWN)


def one_line(text: str) -> str:
    """Replace line breaks, too: a name in a message is no line of its own."""
    return visible(text).replace("\n", "\u240a")


def shell_word(word: str) -> str:
    """Quote a word for bash, so that it can be both shown and run: what cannot be shown stands as its bytes."""
    if one_line(word) == word:
        return shlex.quote(word)
    return f"$'{''.join(map(_written, word.encode(errors='surrogateescape')))}'"


def _written(byte: int) -> str:
    character = chr(byte)
    return character if " " <= character <= "~" and character not in "\\'" else f"\\x{byte:02x}"


def say(text: str, *, end: str = "\n") -> None:
    """Print to stdout."""
    print(visible(text), end=end, flush=True)


def complain(text: str) -> None:
    """Print to stderr."""
    print(visible(text), file=sys.stderr, flush=True)


# What is written for a sign that the terminal's or the pipe's encoding has not; a question mark for all others.
PLAIN = str.maketrans("…−–—·×→≤≥±‖█▇▆▅▄▃▂▁‹›", ".---*x><>~|#*+=-:._<>")


def write_in_any_encoding() -> None:
    """Let whatever is printed be printed: a sign that stdout's or stderr's encoding has not stands as one that it has."""
    codecs.register_error("gtrturbo.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gtrturbo.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(PLAIN)
    return "".join(character if character.isascii() else "?" for character in plain), error.end


def warn_visibly() -> None:
    """Let what Python and its libraries warn of be told as all else: one line each, in which nothing steers the terminal."""
    warnings.showwarning = _warn
    if logging.lastResort:  # Of libraries that log and set up nothing.
        logging.lastResort.setFormatter(_VisibleLines())


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    complain(one_line(f"{category.__name__}: {message}"))


class _VisibleLines(logging.Formatter):
    """Lays a record out as one line."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(record.getMessage())
