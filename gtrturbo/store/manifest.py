"""Manifests: what stage.json says of an artifact, and what a stage means to make."""

import functools
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from gtrturbo.config.recorded import CONFIGS, require_recorded
from gtrturbo.config.regular_files import read_regular
from gtrturbo.distributed.escapes import shell_word
from gtrturbo.errors import GtrTurboError, few
from gtrturbo.store.ageing import upgraded
from gtrturbo.store.inside import PlainName
from gtrturbo.store.names import MANIFEST
from gtrturbo.store.strict_json import parse_json

MANIFEST_FORMAT = 1
MADE_BY = {
    "checkpoint": "gtrturbo init",
    "turns": "gtrturbo rollout",
    "scores": "gtrturbo distill --mode kl",
    "demos": "gtrturbo distill --mode thoughts",
    "evaluation": "gtrturbo eval",
}
# Numbers that sums and intervals are made of: shares, and counts with the least they can be. No artifact has others.
SHARES = (
    "success_rate",
    "success_low",
    "success_high",
    "positive_return_rate",
    "illegal_rate",
    "invalid_rate",
    "thought_accuracy",
)
LEAST = {"episodes": 1, "turns": 0}
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


@dataclass(frozen=True)
class Manifest:
    """What stage.json holds. `config` are knobs only, no paths; `renderer` hashes tokenizer, processor and chat template.
    `plugins` name by option what is not of this package: its `name`, with the `sha256` of the user's own file, or the
    `version` of the environment that a task plays; and a panel, with the `sha256` of its episodes. `tokenizer` hashes, of turns
    that a model played, the contents of its tokenizer, by which scores of another model may be told apart from nonsense.
    `base` hashes, of an adapter on a model outside its folder, the files of that model by name."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False, extra="forbid")

    format: int
    kind: str
    stage: str
    version: str
    config: dict[str, Any]
    inputs: dict[str, str | list[str]]
    files: dict[PlainName, Sha256]
    metrics: dict[str, Annotated[float, Strict()]]
    renderer: Sha256 | None
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)
    tokenizer: dict[Literal["vocabulary", "merges", "special"], Sha256] | None = None
    base: dict[PlainName, Sha256] = field(default_factory=dict)


class _Part(dict[str, Any]):
    """What a manifest names, which says so where a name is missing."""

    def __init__(self, file: Path, what: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._file, self._what = file, what

    def __missing__(self, name: str) -> Any:
        raise GtrTurboError(f"{self._file} is damaged: it names no {self._what} {name}.", "make the artifact again.")


def read_manifest(path: Path, kind: str | None = None) -> Manifest:
    """Read an artifact's manifest.

    Raises:
        GtrTurboError: no such folder, unfinished, damaged, or of another kind than the one wanted.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise absent(path)
    try:
        manifest = _parsed(file, read_regular(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GtrTurboError(f"{file} is damaged: {where}: {first['msg']}.", "make the artifact again.") from None
    except ValueError as error:
        raise GtrTurboError(f"{file} is damaged: {error}.", "make the artifact again.") from None
    parts = {"metrics": "metric", "config": "setting", "inputs": "input"}
    manifest = replace(manifest, **{name: _Part(file, what, getattr(manifest, name)) for name, what in parts.items()})
    if kind and manifest.kind != kind:
        raise GtrTurboError(f"{path} holds {manifest.kind} (made by {manifest.stage}), not {kind}.", _make(kind))
    return manifest


@functools.lru_cache(maxsize=32)
def _parsed(file: Path, text: bytes) -> Manifest:
    content = parse_json(text)
    _require_format(file, content)
    manifest = TypeAdapter(Manifest).validate_python(upgraded(content))
    if manifest.kind not in MADE_BY or manifest.stage not in CONFIGS:
        raise ValueError(f"no stage {manifest.stage!r} that writes {manifest.kind!r} is known")
    require_recorded(manifest.stage, manifest.config)
    _require_sane(manifest.metrics)
    return manifest


def _require_sane(metrics: dict[str, float]) -> None:
    """Refuse shares beyond 0 and 1, and counts that nothing can be divided by."""
    for name in SHARES:
        if not 0 <= metrics.get(name, 0) <= 1:
            raise ValueError(f"metrics.{name} is {metrics[name]}, which is no share")
    for name, least in LEAST.items():
        if metrics.get(name, least) < least or metrics.get(name, least) % 1:
            raise ValueError(f"metrics.{name} is {metrics[name]}, which is no number of {name}")


def _require_format(file: Path, content: Any) -> None:
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int:
        raise ValueError(f"its format is {found!r}, not a whole number")
    if found != MANIFEST_FORMAT:
        raise GtrTurboError(
            f"{file} is written in format {found}, which this version does not know (it knows {MANIFEST_FORMAT}).",
            f"use the version of gtrturbo that wrote it: {content.get('version')}.",
        )


def absent(path: Path) -> GtrTurboError:
    """Return the error that says why no artifact is there."""
    if path.is_dir():
        return GtrTurboError(f"{path} has no {MANIFEST}: the stage did not finish.", "run it again with the same --out.")
    if not path.is_absolute() and len(path.parts) == 2 and not path.parent.exists():  # OWNER/NAME
        fix = f"if it is a model of the hub, fetch it with: gtrturbo init --model {shell_word(str(path))} --out FOLDER"
        return GtrTurboError(f"{path} does not exist.", fix)
    return GtrTurboError(f"{path} does not exist.", _beside(path))


def _beside(path: Path) -> str:
    """Name what there is in the place of an artifact that is not there: what is spelt alike, else the first."""
    above = path.parent
    there = sorted(file.parent.name for file in above.glob(f"*/{MANIFEST}")) if above.is_dir() else []
    numbered = [name for name in there if path.name.isdecimal() and name.isdecimal() and int(name) == int(path.name)]
    if close := numbered or get_close_matches(path.name, there, n=1):
        return f"did you mean {shell_word(str(above / close[0]))}?"
    if there:
        return f"there are: {few([shell_word(str(above / name)) for name in there])}"
    return "check its spelling."


def _make(kind: str) -> str:
    return f"make one with: {MADE_BY[kind]} …"
