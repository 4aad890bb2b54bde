"""python -m gtrturbo, and the command gtrturbo."""

import gc
import importlib


def main() -> None:
    """Load the command line and run it."""
    # Imports make thousands of objects that stay: to search them for garbage takes a quarter of the time to start and end.
    gc.disable()
    cli = importlib.import_module("gtrturbo.cli")
    gc.freeze()
    gc.enable()
    cli.main()


if __name__ == "__main__":
    main()
