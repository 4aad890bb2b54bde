"""Code of the user's own that is edited while a run is at work: which text its later steps are made by."""

from pathlib import Path

from gtrturbo.analysis.record import AGAIN
from gtrturbo.config.fields import seams
from gtrturbo.console import stderr
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import load, names_code
from gtrturbo.runs.plan import Step
from gtrturbo.store.ids import short
from gtrturbo.store.names import MANIFEST


class Watch:
    """Looks before each step at the code that it names, as the run holds it (`plugins.one_text`).

    In one process the run goes on with the text that it began with, which its manifests name, and that is told once. A step that
    is a process of its own (`alone`) would import the new text.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._told: set[str] = set()

    def __call__(self, step: Step) -> None:
        """Look at a step that is still to be done.

        Raises:
            GtrTurboError: code that a process of its own would import has another text than when the run began.
        """
        if (step.config.out / MANIFEST).is_file():
            return
        named = {(kind, name) for kind, name in seams(step.config).values() if names_code(Path(name))}
        for code in [load(kind, name) for kind, name in sorted(named)]:
            if code.edited and self._alone:
                raise GtrTurboError(
                    f"{code.file} was edited while the run is at work: {step.stage} of iteration {step.iteration} would be made "
                    "by another text.",
                    f"bring it back as it was, and {AGAIN}",
                )
            if code.edited and code.name not in self._told:
                self._told.add(code.name)
                stderr.print(
                    f"{code.file} was edited while the run is at work, which goes on with the text that it began with "
                    f"(sha256 {short(code.sha256)}…); bring it back before you start the run again.",
                    style="yellow",
                    soft_wrap=True,
                )
