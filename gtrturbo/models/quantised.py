"""Models that say that their weights are quantised: found by their configs alone, before any library is asked to load them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.hub_names import folder_of
from gtrturbo.models.under_adapter import base_here, full_weights_command
from gtrturbo.store.names import MODEL_CONFIG, QUANTISATION_CONFIGS
from gtrturbo.store.weight_files import FETCH

FIELDS = ("quantization_config", "compression_config", "quantization")
DEQUANTISED = ("fp8", "mxfp8")  # transformers makes plain weights of them, with no other package and on any device.
LOADING = "model = {kind}.from_pretrained(FOLDER{how}); {then}model.save_pretrained(OUT)"
AT_LOADING = ", quantization_config={config}(dequantize=True)"
# transformers' own ways back; what is not here has none, and no way back is exact. Of each, how it loads, and what then.
WAYS_BACK = {
    "bitsandbytes": ("", "model = model.dequantize(); "),
    "higgs": ("", "model = model.dequantize(); "),
    "fp8": (AT_LOADING.format(config="FineGrainedFP8Config"), ""),
    "mxfp4": (AT_LOADING.format(config="Mxfp4Config"), ""),
    "compressed-tensors": (AT_LOADING.format(config="CompressedTensorsConfig"), ""),
}


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised, as far as it is said, and where that is said."""

    method: str
    where: str


def quantisation_of(folder: Path) -> Quantisation | None:
    """Find what a model's folder says of how its weights, or those of a part of it, are quantised; None where it says nothing.

    Raises:
        GtrTurboError: a config is damaged.
    """
    config = _read(folder / MODEL_CONFIG)
    nested = [config, *(value for value in config.values() if isinstance(value, dict))]
    for field in FIELDS:
        for part in nested:
            if part.get(field):
                return Quantisation(_method(part[field]) or field, f"{field} of {MODEL_CONFIG}")
    beside = next((name for name in QUANTISATION_CONFIGS if (folder / name).is_file()), None)
    return Quantisation(_method(_read(folder / beside)) or beside, beside) if beside else None


def way_back(method: str, kind: str) -> str | None:
    """Say in transformers' words how weights are written dequantised, as a class of it loads them; None where it has no way."""
    if method not in WAYS_BACK:
        return None
    how, then = WAYS_BACK[method]
    return LOADING.format(kind=kind, how=how, then=then)


def require_loadable(model: str | Path, revision: str | None = None) -> None:
    """Refuse quantised weights that do not become plain ones as they are loaded; of what is not on this machine nothing is known.

    Args:
        model: a folder or hub id; of an adapter the model under it counts.
        revision: of a hub id.

    Raises:
        GtrTurboError: names the method and where it is said.
    """
    name, folder = _under(model, revision)
    said = quantisation_of(folder) if folder else None
    if said and said.method not in DEQUANTISED:
        written = way_back(said.method, "AutoModelForImageTextToText")
        back = f"write its weights dequantised: {written}, and take OUT" if written else "write its weights dequantised"
        raise GtrTurboError(
            f"the weights of {name} are quantised ({said.method}), and only {' and '.join(DEQUANTISED)} are made plain here.",
            f"choose the model as it was before it was quantised, or {back}; if the weights are plain numbers all the same, take "
            f"{said.where} away.",
        )


def require_plain_base(model: str | Path, revision: str | None = None, *, option: str = "--model") -> None:
    """Refuse a model whose stored weights are quantised as what checkpoints are merged around, be it under adapters.

    Args:
        model: a folder or hub id; of an adapter the model under it counts.
        revision: of a hub id.
        option: that names it.

    Raises:
        GtrTurboError: names the method, and the command that writes plain weights.
    """
    require_loadable(model, revision)
    name, folder = _under(model, revision)
    said = quantisation_of(folder) if folder else None
    if said:
        chosen = f" --revision {shell_word(revision)}" if revision else ""
        written, then = f"gtrturbo init --model {shell_word(name)}{chosen} --out PLAIN", "PLAIN"
        if is_adapter(Path(model)):
            written, then = f"{written}; {full_weights_command(Path(model), 'PLAIN')}", "FULL"
        raise GtrTurboError(
            f"the weights of {name} are quantised ({said.method}): nothing is merged around codes, nor adapters on them.",
            f"write them dequantised: {written}; then {option} {then}",
        )


def _under(model: str | Path, revision: str | None) -> tuple[str, Path | None]:
    """Name a model, or that under an adapter, and say where on this machine it lies."""
    folder = Path(model)
    if not is_adapter(folder):
        return str(model), folder_of(str(model), revision)
    here = base_here(folder)
    return str(here or model), here


def _method(said: Any) -> str:
    if not isinstance(said, dict):
        return ""
    return str(said.get("quant_method") or said.get("quant_algo") or said.get("format") or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        raise GtrTurboError(f"{path} is damaged.", FETCH) from None
    return content if isinstance(content, dict) else {}
