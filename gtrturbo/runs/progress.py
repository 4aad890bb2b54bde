"""What a person sees of a run: a line per step while it works, and a table of before and after at its end."""

from pathlib import Path

from rich.table import Table

from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.summary import by_episode, paired_difference
from gtrturbo.config import RunConfig
from gtrturbo.console import stderr
from gtrturbo.errors import Collapse
from gtrturbo.runs.execute import run
from gtrturbo.runs.plan import Step, plan
from gtrturbo.store.draft import Result
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.turns import read_turns

TOLD = {
    "init": ("parameters", "trainable_parameters"),
    "sft": ("steps", "final_loss"),
    "rollout": ("success_rate", "return_mean", "illegal_rate", "thought_accuracy"),
    "merge": ("checkpoints", "norm_ratio", "cosine"),
    "distill": ("thought_kl_k1", "demos"),
    "ppo-step": ("approx_kl", "clip_fraction", "explained_variance", "kl_mean"),
    "eval": ("success_rate", "return_mean", "thought_accuracy"),
}


def run_with_progress(config: RunConfig) -> Path:
    """Run the loop, tell each step on stderr, print the table, and return the last checkpoint.

    Raises:
        Collapse: see `run`; the table of what it came to is printed all the same.
    """
    started = {"seconds": 0.0}

    def tell(step: Step, result: Result, seconds: float) -> None:
        started["seconds"] += seconds
        told = "  ".join(f"{name} {result.metrics[name]:.4g}" for name in TOLD[step.stage] if name in result.metrics)
        line = f"{started['seconds']:7.1f} s  {step.iteration:>3}/{config.iterations}  {step.stage:<9} {told}"
        stderr.print(line, style="" if step.stage == "eval" else "dim", soft_wrap=True)

    steps = plan(config)  # Before the work: a method of the user's own may be edited while it runs.
    try:
        run(config, on_step=tell)
    except Collapse:
        if found := read_history(config.out).entries["student"]:
            stderr.print(before_after(found[0].path, found[-1].path, ended="collapsed; "))
        raise
    evaluations = [step.config.out for step in steps if step.stage == "eval"]
    stderr.print(before_after(evaluations[0], evaluations[-1]))
    checkpoints = [step.config.out for step in steps if step.stage == "ppo-step"]
    return checkpoints[-1] if checkpoints else evaluations[-1]


def before_after(before: Path, after: Path, *, ended: str = "") -> Table:
    """Lay out two evaluations on the same deals beside chance, with the paired difference of success; `ended` heads the title."""
    first, last = read_manifest(before, "evaluation").metrics, read_manifest(after, "evaluation").metrics
    won = [[episode[-1].won for episode in by_episode(read_turns(path))] for path in (before, after)]
    difference, low, high = paired_difference(won[0], won[1])
    table = Table(title=f"{ended}{int(first['episodes'])} episodes on the same deals")
    for column in ("", "before", "after", "chance"):
        table.add_column(column, justify="left" if not column else "right")
    measured = "chance_random" in first  # Not with --chance-episodes 0, nor where it took too long.
    chance = f"random {first['chance_random']:.3f}, constant {first['chance_constant']:.3f}" if measured else "not measured"
    table.add_row("success (95 % interval)", _interval(first), _interval(last), chance)
    table.add_row("difference, paired", "", f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", "")
    table.add_row("return > 0", f"{first['positive_return_rate']:.3f}", f"{last['positive_return_rate']:.3f}", "")
    chance = f"random {first['chance_random_return']:.2f}" if measured else ""
    table.add_row("mean return", f"{first['return_mean']:.2f}", f"{last['return_mean']:.2f}", chance)
    table.add_row("turns per episode", f"{first['length_mean']:.2f}", f"{last['length_mean']:.2f}", "")
    if "thought_accuracy" in first and "thought_accuracy" in last:
        table.add_row("thought accuracy", f"{first['thought_accuracy']:.3f}", f"{last['thought_accuracy']:.3f}", "")
    table.add_row("illegal replies", f"{first['illegal_rate']:.3f}", f"{last['illegal_rate']:.3f}", "")
    return table


def _interval(metrics: dict[str, float]) -> str:
    return f"{metrics['success_rate']:.3f} [{metrics['success_low']:.3f}, {metrics['success_high']:.3f}]"
