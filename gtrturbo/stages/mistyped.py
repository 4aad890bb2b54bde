"""Options that a command has not: what was meant, and how that is given."""

from pathlib import Path

from gtrturbo.config.fields import Role, fields
from gtrturbo.config.games import is_task
from gtrturbo.config.renamed import ALSO_CALLED_OPTIONS
from gtrturbo.stages.beforehand import READ_AS
from gtrturbo.stages.table import STAGES
from gtrturbo.store.ids import is_model_folder
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.names import MANIFEST


def meant_by(command: str, typed: str) -> str | None:
    """Say how a setting of a stage is given to a command: in a run by --set, by our name, or without one; None if it is none."""
    name = typed.lstrip("-").partition("=")[0].replace("_", "-")
    name = ALSO_CALLED_OPTIONS.get(name, name)
    having = [stage for stage in STAGES if name in _settings(stage, positional=False)]
    if command == "run" and having:
        return " or ".join(f"--set {stage}.{name}=…" for stage in having)
    if command in having:
        return f"--{name}"
    return f"{name.upper()}, without a name before" if command in STAGES and name in _settings(command, positional=True) else None


def options_for(word: str) -> list[str]:
    """Name the options that a word may be meant as the value of, the likeliest first."""
    path = Path(word)
    if (path / MANIFEST).is_file():
        kind = read_manifest(path).kind
        return [f"--{name}" for name, kinds in READ_AS.items() if kind in kinds]
    if is_task(word):
        return ["--task"]
    return ["--checkpoint", "--model"] if is_model_folder(path) or len(path.parts) > 1 else []


def _settings(stage: str, *, positional: bool) -> set[str]:
    known = fields(STAGES[stage].config)
    return {field.name.replace("_", "-") for field in known if (Role.POSITIONAL in field.roles) == positional}
