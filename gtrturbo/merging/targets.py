"""What an adapter's config says of its modules: PEFT loads those that it names, at the rank that it names, and leaves out others.

Source: PEFT's `check_target_module_exists`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtrturbo.errors import GtrTurboError
from gtrturbo.store.names import ADAPTER_CONFIG

MEND = "fetch or write the adapter again, or write there what PEFT wrote."
# Of names of modules in a config, which are regular expressions.
LONGEST_PATTERN, MOST_REPEATED = 500, 4
SLOW, REPEATED = re.compile(r"\)\s*[*+{]"), re.compile(r"[*+{]")
FIRST_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
DEFAULT_RANK = 8  # PEFT's


def is_quick(pattern: str) -> bool:
    """Tell whether matching a pattern surely ends: no repeated groups, and few repetitions in a row."""
    return len(pattern) <= LONGEST_PATTERN and not SLOW.search(pattern) and len(REPEATED.findall(pattern)) <= MOST_REPEATED


@dataclass(frozen=True)
class Named:
    """The modules that a config names."""

    folder: Path = Path()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def saved(self) -> list[str]:
        """Modules that were trained as a whole."""
        return _listed(self.config.get("modules_to_save"))

    def adapts(self, module: str) -> bool | None:
        """Tell whether PEFT adapts a module; None where that is not easily told: the pattern is one that may match without end.

        Raises:
            GtrTurboError: the config says what no config does.
        """
        targets, out = self._modules("target_modules"), self._modules("exclude_modules")
        excluded = _fits(out, module) if out else False
        if excluded or _within(module, self.saved):
            return False
        found = _fits(targets, module) if targets else False
        if found and not isinstance(targets, str):
            found = self._in_layers(module)
        if not found and self.config.get("ensure_weight_tying"):
            return None  # What is tied to a module that is named is adapted, too.
        return None if found and excluded is None else found

    def _modules(self, name: str) -> str | list[str] | None:
        value = self.config.get(name)
        if not isinstance(value, str | None) and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise GtrTurboError(f"{name} is {str(value)[:80]} in {self.folder / ADAPTER_CONFIG}, not a list of modules.", MEND)
        return value

    def _in_layers(self, module: str) -> bool | None:
        chosen = self.config.get("layers_to_transform")
        if chosen is None or chosen == []:
            return True
        patterns = _listed(self.config.get("layers_pattern"))
        if not all(map(str.isidentifier, patterns)):
            return None
        tried = [re.compile(rf"(?:.*?\.)?{pattern}\.(\d+)\.") for pattern in patterns] or [FIRST_LAYER]
        layer = next((found for each in tried if (found := each.match(module))), None)
        return bool(layer) and int(layer[1]) in (chosen if isinstance(chosen, list) else [chosen])

    def require(self, module: str, rank: int, chosen: Any) -> None:
        """Refuse a module that the config does not name, whose factors have another rank than it says, or that joins several.

        Raises:
            GtrTurboError: names both.
        """
        if ".base_layer." in f".{module}":
            attention = module.split(".base_layer.")[0]
            raise GtrTurboError(
                f"{self.folder} adapts {attention}, an nn.MultiheadAttention: its joined projections are not merged here.",
                "merge it into whole weights with PEFT's merge_and_unload, and merge those.",
            )
        if self.config.get("target_modules") is None and not self.config.get("target_parameters"):
            raise GtrTurboError(
                f"{self.folder / ADAPTER_CONFIG} names no target_modules: PEFT would take those that are usual for the model.",
                f"write there all that were trained, such as {module.rpartition('.')[2]}.",
            )
        if self.adapts(module) is False:
            raise GtrTurboError(
                f"{self.folder} holds factors of {module}, which its {ADAPTER_CONFIG} does not name: PEFT would leave them out.",
                MEND,
            )
        if type(chosen) is not int or chosen != rank:
            raise GtrTurboError(f"{module} in {self.folder} has rank {rank}, and {chosen!r} in its {ADAPTER_CONFIG}.", MEND)

    def without_tensors(self, weights: Iterable[str], changed: Iterable[str]) -> list[str]:
        """List modules of a base that the config names and that nothing is held of.

        Args:
            weights: names of the base's matrices.
            changed: names of what the adapter changes.

        Raises:
            GtrTurboError: one of them was trained as a whole, so that PEFT does not load the adapter.
        """
        held = set(changed)
        left = [name.removesuffix(".weight") for name in weights if name.endswith(".weight") and name not in held]
        if whole := next((module for module in left if _within(module, self.saved)), None):
            raise GtrTurboError(
                f"{self.folder} holds nothing of {whole}, which its {ADAPTER_CONFIG} names in modules_to_save.", MEND
            )
        return [module for module in left if self.adapts(module)]


def _within(module: str, names: Iterable[str]) -> bool:
    """Tell whether a module is, or lies in, one that is called so."""
    return any(f".{name}." in f".{module}." for name in names)


def _listed(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [each for each in values if isinstance(each, str)]


def _fits(named: str | list[str], module: str) -> bool | None:
    if isinstance(named, list):
        return any(f".{module}".endswith(f".{name}") for name in named)
    if named == "all-linear" or not is_quick(named):
        return None
    try:
        return bool(re.fullmatch(named, module))
    except re.error:
        return None
