"""YAML as a person means it: no key twice, no number that reads as another, no file that unfolds without end."""

import re
from pathlib import Path
from typing import Any

import yaml

from gtrturbo.config.digits import MOST_DIGITS
from gtrturbo.config.regular_files import read_regular
from gtrturbo.errors import GtrTurboError

MOST_OF_YAML = 1 << 20
MOST_ALIASES = 100
LINES = "write it as lines such as: seed: 1"
PLAIN = re.compile(r"[+-]?(0|[1-9][0-9]*)")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what YAML 1.1 would read in a way that is not seen, and what unfolds without end."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._named, self._aliases, self.most_aliases = 0, 0, MOST_ALIASES

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        self._aliases += alias
        if alias and (self._named or self._aliases > self.most_aliases):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} is an alias inside of an alias, or one of too many: write its value instead",
                problem_mark=event.start_mark,
            )
        named = not alias and event.anchor is not None
        self._named += named
        node = super().compose_node(parent, index)
        self._named -= named
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: Any) -> int | str:
        if not PLAIN.fullmatch(node.value):
            raise yaml.MarkedYAMLError(
                problem=f"{node.value} is another number in YAML than it seems: write plain digits, or a text in quotes",
                problem_mark=node.start_mark,
            )
        return int(node.value) if len(node.value) <= MOST_DIGITS else node.value

    def construct_number(self, node: Any) -> float:
        if ":" in node.value or "_" in node.value:
            return self.construct_whole(node)  # type: ignore[return-value]
        return self.construct_yaml_float(node)

    def construct_day(self, node: Any) -> str:
        return node.value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_day)


def read_yaml(file: Path, *, aliases: int = MOST_ALIASES) -> Any:
    """Read a small YAML file that a person wrote, in which so many aliases may stand.

    Raises:
        OSError: it cannot be read.
        GtrTurboError: it is no YAML, or says something twice or in a way that reads as something else; names the line.
    """
    content = read_regular(file, most=MOST_OF_YAML)
    try:
        loader = _Loader(content.decode())
        loader.most_aliases = aliases
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        where = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise GtrTurboError(f"{file}{where}: {error.problem}.", "mend that line.") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise GtrTurboError(f"{file} is no YAML: {' '.join(str(error).split())}.", LINES) from None
    except RecursionError:
        raise GtrTurboError(
            f"{file} is no YAML of ours: it is nested too deeply.", "write it as lines such as: seed: 1"
        ) from None
