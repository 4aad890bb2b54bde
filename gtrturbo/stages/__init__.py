"""The stages: each states in one record what the hub has to know of it, and its module is imported when it is run.

Nothing heavy is imported here.
"""

from gtrturbo.stages.hub import canonical, done, execute, existing, preview, provenance, read_by, require_unpruned, stage_of
from gtrturbo.stages.table import STAGES, Stage

__all__ = [
    "STAGES",
    "Stage",
    "canonical",
    "done",
    "execute",
    "existing",
    "preview",
    "provenance",
    "read_by",
    "require_unpruned",
    "stage_of",
]
