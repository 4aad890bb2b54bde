"""A run as a function, for scripts and notebooks; the stages' own are in gtrturbo/stages/functions.py."""

from gtrturbo.config import RunConfig
from gtrturbo.runs.plan import plan
from gtrturbo.runs.progress import run_with_progress
from gtrturbo.stages.functions import function_of
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.manifest import read_manifest


def _run(config: RunConfig) -> Result:
    """Run the loop; give back its last checkpoint, and of its last evaluation the metrics."""
    evaluated = [step.config.out for step in plan(config) if step.stage == "eval"][-1]
    last = run_with_progress(config)
    return Result(out=last, id=artifact_id(last), metrics=read_manifest(evaluated, "evaluation").metrics)


run = function_of("run", RunConfig, _run)
