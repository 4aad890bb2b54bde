"""Provenance: what an artifact is to be made from, and how one that is there differs from it."""

from dataclasses import dataclass, field
from typing import Any

from gtrturbo.config.games import without_folders
from gtrturbo.store.ids import short
from gtrturbo.store.manifest import Manifest

PANEL = "panel"
UNDER = "under_"  # With what the names of inputs begin that are models under adapters.


@dataclass(frozen=True)
class Provenance:
    """What an artifact is made from: the stage, its knobs, and the ids of its inputs, taken before the work starts.

    `plugins` name by option what is not of this package, see `Manifest`; `absent` says what a knob means that a manifest lacks.
    `idle` knobs have no part in the work, whatever they are.
    """

    stage: str
    kind: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()


def difference(manifest: Manifest, wanted: Provenance) -> str | None:
    """Say how an artifact was made otherwise than wanted, by the first difference; None if it was not."""
    if manifest.stage != wanted.stage:
        return f"by {manifest.stage}, not {wanted.stage}"
    recorded = _without_paths(manifest.config)
    for name in [*wanted.config, *(name for name in recorded if name not in wanted.config)]:
        was = recorded.get(name, wanted.absent.get(name))
        if name not in wanted.config and name not in wanted.absent:
            return f"with --{name.replace('_', '-')} {_said(was)}, which there is no more"
        now = wanted.config.get(name, wanted.absent.get(name))
        if was != now and name not in wanted.idle:
            return f"with --{name.replace('_', '-')} {_said(was)}, not {_said(now)}"
    for name in sorted(wanted.plugins.keys() | manifest.plugins.keys()):
        if found := _other_code(name, manifest.plugins.get(name, {}), wanted.plugins.get(name, {})):
            return found
    for name in sorted(wanted.inputs.keys() | manifest.inputs.keys()):
        if found := _other_input(name, manifest.inputs.get(name), wanted.inputs.get(name)):
            return found
    return None


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return knobs as they are written today: where a file of settings lies was among them at first."""
    env = config.get("env")
    return dict(config) | ({"env": without_folders(config.get("task"), env)} if env else {})


def _other_input(name: str, was: Any, now: Any) -> str | None:
    """Say that an input is another; a model under an adapter was not named at first, and may not be on this machine."""
    if was == now or (name.startswith(UNDER) and None in (was, now)):
        return None
    another = "on another model under" if name.startswith(UNDER) else "from another"
    return f"{another} --{name.removeprefix(UNDER).replace('_', '-')} ({short(was)}, not {short(now)})"


def _other_code(name: str, was: dict[str, str], now: dict[str, str]) -> str | None:
    """Say how code that is not of this package, or a panel, differs by version or text; a panel had no hash at first."""
    called, option = (now or was)["name"], name.replace("_", "-")
    if was.get("version") != now.get("version"):
        versions = " not ".join([f"{was.get('version', 'unknown')},", now.get("version", "unknown")])
        return f"with another version of {called} (--{option}, {versions})"
    if was.get("sha256") != now.get("sha256") and (was or name != PANEL):
        other = "other episodes" if name == PANEL else "another text"
        return f"with {other} of {called} (--{option}, {short(was.get('sha256'))}, not {short(now.get('sha256'))})"
    return None


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
