"""YAML from strangers: read without running anything, within bounds, and refused where two readers may differ."""

import re
from pathlib import Path
from typing import Any

import yaml

from gtrturbo.errors import GtrTurboError

MOST_BYTES = 250_000
MOST_NODES = 20_000  # aliases count as often as they are used
MOST_DEPTH = 40
MOST_DIGITS = 40
DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9_]*)")
TAG = "tag:yaml.org,2002:"


def read_yaml(file: Path) -> Any:
    """Read one YAML document of mappings, lists, texts, numbers, truths and nulls.

    Raises:
        GtrTurboError: it cannot be read, is too large, names a key twice, or holds what readers take for different things.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise GtrTurboError(
                f"{file} has more than {MOST_BYTES:,} bytes, which no recipe needs.", "name a recipe of mergekit."
            )
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GtrTurboError(f"{file} cannot be read: {error}") from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML from a text; `name` is what errors call it."""
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise GtrTurboError(f"{name} cannot be read: {said or type(error).__name__}") from None
    if len(nodes) > 1:
        raise GtrTurboError(
            f"{name} holds {len(nodes)} documents, and a merge is one.",
            "write each to a file of its own, merge them in turn, and name the folder that each made (docs/merge.md).",
        )
    return _Reader(name).value(nodes[0], 0) if nodes else None


class _Reader:
    """Turns nodes into values and counts them."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name, 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > MOST_NODES or depth > MOST_DEPTH:
            raise self._refusal(node, f"it has more than {MOST_NODES:,} values or {MOST_DEPTH} levels, aliases included")
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            return [self.value(each, depth + 1) for each in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._refusal(node, f"{node.tag} is no mapping, list, text or number")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == TAG + "merge":
                others = self.value(value_node, depth + 1)
                for other in others if isinstance(others, list) else [others]:
                    if not isinstance(other, dict):
                        raise self._refusal(value_node, "<< is no mapping")
                    merged = other | merged
                continue
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise self._refusal(key_node, "a key is no text")
            if key in found:
                raise self._refusal(key_node, f"{key} stands twice")
            found[key] = self.value(value_node, depth + 1)
        return merged | found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        match node.tag.removeprefix(TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in ("true", "yes", "on")
            case "int":
                return self._integer(node)
            case "float":
                return self._float(node)
            case "str" | "timestamp" | "value":
                return text
        raise self._refusal(node, f"{node.tag} is no text or number")

    def _integer(self, node: yaml.ScalarNode) -> int:
        # 1:30 is 90, 010 is 8 and 0b11 is 3 in one YAML and texts in another.
        if not DECIMAL.fullmatch(node.value) or len(node.value) > MOST_DIGITS:
            raise self._refusal(node, f"{_short(node.value)} is no plain decimal number")
        return int(node.value.replace("_", ""))

    def _float(self, node: yaml.ScalarNode) -> float:
        if ":" in node.value or len(node.value) > 2 * MOST_DIGITS:
            raise self._refusal(node, f"{_short(node.value)} is no plain decimal number")
        if node.value.lower().lstrip("+-") in (".inf", ".nan"):
            raise self._refusal(node, f"{node.value} is not finite")
        return float(node.value.replace("_", ""))

    def _refusal(self, node: yaml.Node, what: str) -> GtrTurboError:
        return GtrTurboError(f"{self._name} line {node.start_mark.line + 1}: {what}.", "write it plainly.")


def _short(text: str) -> str:
    return text if len(text) <= MOST_DIGITS else f"{text[:MOST_DIGITS]}…"
