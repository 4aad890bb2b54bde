"""Everything a user can set: one frozen dataclass per stage.

A field is `name: Annotated[type, "help sentence", markers…] = default`. The command line, the YAML file and the manifest
are all made from these classes. Where a default changes what is learned, the sentence says whether it is the paper's, measured
here, or ours.
"""

from gtrturbo.config.merging import MergeConfig
from gtrturbo.config.playing import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.config.runs import CompareConfig, ReportConfig, RunConfig, ShowConfig
from gtrturbo.config.sharing import ExportConfig, PushConfig
from gtrturbo.config.tasks import CheckTaskConfig, PlayConfig
from gtrturbo.config.training import InitConfig, PpoStepConfig, SftConfig

__all__ = [
    "CheckTaskConfig",
    "CompareConfig",
    "DistillConfig",
    "EvalConfig",
    "ExportConfig",
    "InitConfig",
    "MergeConfig",
    "PlayConfig",
    "PpoStepConfig",
    "PushConfig",
    "ReportConfig",
    "RolloutConfig",
    "RunConfig",
    "SftConfig",
    "ShowConfig",
]
