"""Whether the task of a run can be played as its plan says, asked before the first stage."""

from collections.abc import Sequence

from gtrturbo.config import DistillConfig, EvalConfig, RolloutConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.hints import require_known
from gtrturbo.runs.plan import Step


def check_tasks(steps: Sequence[Step]) -> None:
    """Find what a run that is still to begin needs of its tasks: their options and panels, the warm start's expert, what is told.

    Raises:
        GtrTurboError: there is no such task, option or panel, no expert for the warm start, or a hint that the task cannot give.
    """
    if not steps or steps[0].config.out.exists():
        return
    from gtrturbo.tasks.loading import load_task  # It loads Gymnasium, which a run that is done needs no more.

    found = {(step.config.task, step.config.env) for step in steps if isinstance(step.config, RolloutConfig | EvalConfig)}
    tasks = {key: load_task(*key) for key in found}
    played = next((step.config for step in steps if isinstance(step.config, RolloutConfig)), None)
    for config in (step.config for step in steps if isinstance(step.config, DistillConfig | EvalConfig | RolloutConfig)):
        at = played if isinstance(config, DistillConfig) else config
        if at:
            require_known(config.hints, tasks[at.task, at.env])
    for config in (step.config for step in steps if isinstance(step.config, EvalConfig)):
        if config.panel:
            tasks[config.task, config.env].panel(config.panel)
    for config in (step.config for step in steps if isinstance(step.config, RolloutConfig) and step.config.expert):
        task = tasks[config.task, config.env]
        if task.expert is None and config.random_expert_share < 1:
            mend = (
                "add: --set expert.random-expert-share=1, which lets chance play; or give the task an expert."
                if task.writes_random_replies
                else "give the task an expert or a random_expert, or start from a checkpoint that plays: --start CHECKPOINT"
            )
            raise GtrTurboError(f"{task.name} has no expert to warm up on.", mend)
        if config.random_expert_share and not task.writes_random_replies:
            raise GtrTurboError(f"{task.name} has no random expert to warm up on.", "give the task one.")
