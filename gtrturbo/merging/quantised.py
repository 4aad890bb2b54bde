"""Checkpoints of quantised weights are refused: what they store are codes, whose mean is no mean of weights."""

import json
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.names import MODEL_CONFIG, QUANTISATION_CONFIGS
from gtrturbo.store.weight_files import FETCH

FIELDS = ("quantization_config", "compression_config", "quantization")
LOADING = "model = AutoModelForCausalLM.from_pretrained(FOLDER{how}); {then}model.save_pretrained(OUT), and merge OUT"
AT_LOADING = ", quantization_config={config}(dequantize=True)"
# transformers' own ways back; what is not here has none, and no way back is exact.
WAYS_BACK = {
    "bitsandbytes": LOADING.format(how="", then="model = model.dequantize(); "),
    "higgs": LOADING.format(how="", then="model = model.dequantize(); "),
    "fp8": LOADING.format(how=AT_LOADING.format(config="FineGrainedFP8Config"), then=""),
    "mxfp4": LOADING.format(how=AT_LOADING.format(config="Mxfp4Config"), then=""),
    "compressed-tensors": LOADING.format(how=AT_LOADING.format(config="CompressedTensorsConfig"), then=""),
}
NO_WAY = "merge the checkpoints as they were before they were quantised, or write their weights dequantised"


def require_plain(folder: Path) -> None:
    """Refuse a folder that says that its weights are quantised.

    Raises:
        GtrTurboError: names the method and where it is said.
    """
    for name in QUANTISATION_CONFIGS:
        if (folder / name).is_file():
            raise _refusal(folder, _method(_read(folder / name)) or name, name)
    config = _read(folder / MODEL_CONFIG)
    nested = [config, *(value for value in config.values() if isinstance(value, dict))]
    for part in nested:
        for field in FIELDS:
            if part.get(field):
                raise _refusal(folder, _method(part[field]) or field, f"{field} of {MODEL_CONFIG}")


def _method(said: Any) -> str:
    if not isinstance(said, dict):
        return ""
    return str(said.get("quant_method") or said.get("quant_algo") or said.get("format") or "")


def _refusal(folder: Path, method: str, where: str) -> GtrTurboError:
    return GtrTurboError(
        f"the weights in {folder} are quantised ({method}): codes and scales cannot be merged apart.",
        f"{WAYS_BACK.get(method, NO_WAY)}; if the weights are plain numbers all the same, take {where} away.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        raise GtrTurboError(f"{path} is damaged.", FETCH) from None
    return content if isinstance(content, dict) else {}
