"""python -m gtrturbo, and the command gtrturbo."""

import gc
import importlib
import os

from gtrturbo.distributed.children import follow_parent
from gtrturbo.distributed.escapes import complain, one_line, warn_visibly, write_in_any_encoding
from gtrturbo.distributed.interrupts import answer_signals, exit_code, leave
from gtrturbo.errors import GtrTurboError, require_unix


def main() -> None:
    """Load the command line and run it."""
    try:
        write_in_any_encoding()
        require_unix()
        follow_parent()
        answer_signals()
        warn_visibly()
        _require_place()
        # Imports make thousands of objects that stay: to search them for garbage takes a quarter of the time to start and end.
        gc.disable()
        cli = importlib.import_module("gtrturbo.cli")
        gc.freeze()
        gc.enable()
        cli.main()
    except GtrTurboError as error:  # While it was loading: of the environment.
        complain(one_line(error.what))
        complain(one_line(error.fix))
        leave(SystemExit(2))
    except KeyboardInterrupt as error:  # While it was loading, or between commands.
        leave(SystemExit(exit_code(error)))
    except SystemExit as error:
        leave(error)


def _require_place() -> None:
    """Refuse to begin in a folder that is gone: libraries that are loaded from there end the process."""
    try:
        os.getcwd()
    except OSError:
        raise GtrTurboError("the folder that this command is given in is gone.", "change to another: cd") from None


if __name__ == "__main__":
    main()
