"""Tables of results/*.jsonl: how arms end, how they differ on the same seeds, what teachers are worth and cost."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from gtrturbo.analysis.exact import LEVEL, fewest_pairs, sign_flip
from gtrturbo.analysis.intervals import Interval, bootstrap, said
from gtrturbo.analysis.spending import Spending, cost_table
from gtrturbo.store.prices import TokenCounts

Run = Mapping[str, Any]
Arm = Mapping[int, Run]


def at(run: Run, which: str, metric: str, folder: str = "evaluations") -> float:
    """Return a metric of a run's first or last evaluation."""
    evaluations = run[folder]
    return evaluations[min(evaluations, key=int) if which == "first" else max(evaluations, key=int)][metric]


def paired(one: Arm, other: Arm, value: Callable[[Run], float]) -> list[str]:
    """Say how two arms differ over the seeds that both have."""
    return over_seeds([value(one[seed]) - value(other[seed]) for seed in sorted(one.keys() & other.keys())])


def over_seeds(differences: list[float]) -> list[str]:
    """Say the mean of differences with its interval, bold where it is resolved; wins, ties, losses."""
    interval, p = bootstrap([differences]), sign_flip([differences])
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    told = said(interval, sign=True)
    resolved = interval.resolved and p < LEVEL and len(differences) >= fewest_pairs()
    return [f"**{told}**" if resolved else told, f"{wins}/{len(differences) - wins - losses}/{losses}"]


def mean_of(arm: Arm, value: Callable[[Run], float]) -> Interval:
    return bootstrap([[value(run) for run in arm.values()]])


def training(run: Run) -> float:
    """Success while training: of all episodes that were learned from, each iteration alike."""
    return fmean(played["success_rate"] for played in run["rollouts"].values())


def success(run: Run) -> float:
    return at(run, "last", "success_rate")


def reading(run: Run) -> float:
    return at(run, "last", "thought_accuracy")


def illegal(run: Run) -> float:
    return at(run, "last", "illegal_rate")


def gained(run: Run) -> float:
    return success(run) - at(run, "first", "success_rate")


def above_chance(run: Run) -> float:
    return success(run) - max(at(run, "last", "chance_random"), at(run, "last", "chance_constant"))


def teacher_share(run: Run) -> float:
    seconds = run["seconds"]
    teacher = seconds.get("merge", 0.0) + seconds.get("distill", 0.0)
    return teacher / (teacher + seconds["rollout"] + seconds["ppo-step"])


def outcomes(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What each arm ends with."""
    rows = [["arm", "seeds", "success", "thoughts that read truly", "success in training", "illegal", "teacher"]]
    for name in names:
        arm = arms[name]
        row = [f"`{name}`", str(len(arm)), *(said(mean_of(arm, value)) for value in (success, reading, training))]
        rows.append([*row, f"{mean_of(arm, illegal).mean:.3f}", f"{mean_of(arm, teacher_share).mean:.0%}"])
    return rows


def against(arms: Mapping[str, Arm], names: Sequence[str], reference: str) -> list[list[str]]:
    """How each arm differs from another one on the same seeds."""
    values = {"success": success, "thoughts": reading, "success in training": training, "illegal": illegal}
    rows = [["arm", "pairs", *(word for name in values for word in (name, "w/t/l"))]]
    for name in names:
        row = [f"`{name}`", str(len(arms[name].keys() & arms[reference].keys()))]
        rows.append(row + [word for value in values.values() for word in paired(arms[name], arms[reference], value)])
    return rows


def learning(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """Whether an arm learned: success after minus before, and above chance, on the same deals."""
    rows = [["arm", "seeds", "before", "after", "after − before", "after − chance", "thoughts before", "after"]]
    for name in names:
        arm = arms[name]
        before, read = (mean_of(arm, lambda run, m=m: at(run, "first", m)) for m in ("success_rate", "thought_accuracy"))
        row = [f"`{name}`", str(len(arm)), f"{before.mean:.3f}", f"{mean_of(arm, success).mean:.3f}"]
        row += [said(mean_of(arm, gained), sign=True), said(mean_of(arm, above_chance), sign=True)]
        rows.append([*row, f"{read.mean:.3f}", f"{mean_of(arm, reading).mean:.3f}"])
    return rows


def in_training(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What the episodes that were learned from won: those of the first update, which the start played, and of the last five."""
    rows = [["arm", "seeds", "first update", "last five", "last five − first"]]
    for name in names:
        played = [[each["success_rate"] for each in run["rollouts"].values()] for run in arms[name].values()]
        gained = bootstrap([[fmean(won[-5:]) - won[0] for won in played]])
        row = [
            f"`{name}`",
            str(len(played)),
            f"{fmean(won[0] for won in played):.3f}",
            f"{fmean(fmean(won[-5:]) for won in played):.3f}",
        ]
        rows.append([*row, said(gained, sign=True)])
    return rows


def returns(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What learning earned, for games whose draws and losses differ."""
    rows = [["arm", "seeds", "mean return before", "after", "after − before"]]
    for name in names:
        before, after = (mean_of(arms[name], lambda run, w=which: at(run, w, "return_mean")) for which in ("first", "last"))
        gained = mean_of(arms[name], lambda run: at(run, "last", "return_mean") - at(run, "first", "return_mean"))
        rows.append([f"`{name}`", str(len(arms[name])), f"{before.mean:.3f}", f"{after.mean:.3f}", said(gained, sign=True)])
    return rows


def teachers(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """Merged teacher minus the newest student that went into it, on the same deals."""
    rows = [["arm", "seeds", "iteration", "student", "teacher − student", "w/t/l", "thoughts, teacher − student", "w/t/l"]]
    for name in names:
        iterations = sorted({k for run in arms[name].values() for k in run["teachers"]}, key=int)
        for k in iterations:
            runs = [run for run in arms[name].values() if k in run["teachers"] and k in run["evaluations"]]
            row = [f"`{name}`", str(len(runs)), k, f"{fmean(run['evaluations'][k]['success_rate'] for run in runs):.3f}"]
            for metric in ("success_rate", "thought_accuracy"):
                row += over_seeds([run["teachers"][k][metric] - run["evaluations"][k][metric] for run in runs])
            rows.append(row)
    return rows


def costs(arms: Mapping[str, Arm], names: Sequence[str]) -> list[list[str]]:
    """What the teacher of each arm was asked and cost, per run, by the prices of examples/teachers/prices.yaml."""
    told = [(f"`{name}`", [_spending(run["teacher_cost"]) for run in arms[name].values()]) for name in names]
    head, rows, _ = cost_table(told)
    return [["arm", *head[1:]], *rows]


def _spending(told: Mapping[str, Any]) -> Spending:
    return Spending(**{**told, "tokens": TokenCounts(**told["tokens"])})
