"""Checkpoints of quantised weights are refused: what they store are codes, whose mean is no mean of weights."""

from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.quantised import quantisation_of, way_back

NO_WAY = "merge the checkpoints as they were before they were quantised, or write their weights dequantised"


def require_plain(folder: Path) -> None:
    """Refuse a folder that says that its weights are quantised.

    Raises:
        GtrTurboError: names the method and where it is said.
    """
    if said := quantisation_of(folder):
        written = way_back(said.method, "AutoModelForCausalLM")
        raise GtrTurboError(
            f"the weights in {folder} are quantised ({said.method}): codes and scales cannot be merged apart.",
            f"{f'{written}, and merge OUT' if written else NO_WAY}; if the weights are plain numbers all the same, take "
            f"{said.where} away.",
        )
