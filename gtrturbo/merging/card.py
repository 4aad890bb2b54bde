"""The model card of a merge: what was merged, how, from which inputs by hash, and what came of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gtrturbo.console import visible

LINE_FEED = "\u240a"


@dataclass(frozen=True)
class ModelCard:
    """What a card says. `inputs`: (id, weight) of each checkpoint, oldest first; `moved`: the tensors that moved most."""

    base: str
    inputs: Sequence[tuple[str, float | None]]
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]
    moved: Sequence[tuple[str, float]]

    def markdown(self) -> str:
        """Write the card as README.md, with the front matter that the Hugging Face hub reads."""
        front = yaml.safe_dump({"library_name": "transformers", "tags": ["merge", "gtrturbo"]}, sort_keys=True)
        rows = [
            f"| {number} | `{identity}` | {'' if weight is None else format(weight, '.6g')} |"
            for number, (identity, weight) in enumerate(self.inputs, 1)
        ]
        facts = [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in self.metrics.items()]
        options = " ".join(f"--{name.replace('_', '-')} {_said(value)}" for name, value in self.settings.items())
        lines = [
            f"---\n{front}---\n",
            "# Merged checkpoint\n",
            f"{code(f'gtrturbo merge {options}')}\n",
            f"Base: `{self.base}`. Inputs are named by the sha256 of their manifest, or of their files.\n",
            "| | checkpoint | weight |",
            "|---|---|---|",
            *rows,
            "",
            "| | |",
            "|---|---|",
            *facts,
            "",
        ]
        if self.moved:
            lines += [
                "Tensors that moved most, ‖ΔW‖ / ‖W‖:\n",
                *(f"- {code(name)} {share:.3g}" for name, share in self.moved),
                "",
            ]
        return "\n".join(lines)


def code(text: str) -> str:
    """Write text of others as code in Markdown, where nothing in it can end the code, break the line or steer a terminal."""
    plain = visible(text).replace("\n", LINE_FEED)
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{plain}{space}{fence}"


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
