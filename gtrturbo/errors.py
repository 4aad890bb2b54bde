"""The one error that a user is meant to read."""


class GtrTurboError(Exception):
    """Say what is wrong, with the value, and what mends it.

    Args:
        what: one sentence, lower-case start, naming the offending value.
        fix: the command or change that mends it; empty when `what` already says so.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what = what
        self.fix = fix
