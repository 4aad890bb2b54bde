"""Runs grouped by task and method: what a method is called, and whether its evaluations may be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gtrturbo.analysis.history import Entry, History
from gtrturbo.analysis.levels import chance_level
from gtrturbo.config import RunConfig
from gtrturbo.config.fields import fields
from gtrturbo.config.games import without_folders
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.store.ids import short

# What a manifest says beside the settings: which episodes a panel has, and which version of an environment was played.
BESIDE = {
    "panel of sha256": ("panel", "sha256"),
    "environment": ("task", "version"),
    "a task's file of sha256": ("task", "sha256"),  # Its settings, or its code where it is the user's own.
}
# Settings by which an evaluation is another one.
DEALS = ("task", "env", "seed", "episodes", "panel", "temperature", "max_new_tokens", "on_invalid_reply", "hints")
# Settings that name a method; the seed pairs runs, and the others say how long and how closely they were watched.
NAMING = (
    *("model", "teacher", "more_teachers", "teacher_weights", "address", "hints"),
    *("lora_rank", "episodes", "group_size", "merge_every", "set"),
)
SCHEDULE = "ppo-step.schedule-updates"
LABEL = " (label)"
DEFAULTS = {field.name: field.default for field in fields(RunConfig)}


@dataclass(frozen=True)
class RunGroup:
    """The runs of one method at one task, by seed."""

    task: str
    method: str
    runs: dict[int, History]


def group_runs(runs: Sequence[History]) -> list[RunGroup]:
    """Group runs by task and method, in the order in which they were given.

    Raises: GtrTurboError: two runs of one task, method and seed.
    """
    names = method_names(runs)
    watched = {task: {k for run in runs if run.task == task for k in run.at("student")} for task in {run.task for run in runs}}
    runs = [replace(run, beside=tuple(sorted(watched[run.task]))) for run in runs]
    groups: dict[tuple[str, str], RunGroup] = {}
    for run, name in zip(runs, names, strict=True):
        group = groups.setdefault((run.task, name), RunGroup(run.task, name, {}))
        if run.seed in group.runs:
            raise GtrTurboError(
                f"{group.runs[run.seed].path} and {run.path} are both {name} with seed {run.seed}.",
                "leave out one of the two, or start one again with the same options and a name of its own: --label NAME",
            )
        group.runs[run.seed] = run
    return list(groups.values())


def method_names(runs: Sequence[History]) -> list[str]:
    """Name each run by its label, else by its method with what differs from others of method and task: settings, and own code.

    A label that is also the name of runs without one is told apart from it.
    """
    unlabelled = [run for run in runs if not run.label]
    named = {run.path: " ".join([run.method, *_differing(run, unlabelled)]) for run in unlabelled}
    taken = set(named.values())
    return [named[run.path] if not run.label else run.label + LABEL * (run.label in taken) for run in runs]


def _differing(run: History, runs: Sequence[History]) -> list[str]:
    alike = [other for other in runs if (other.method, other.task) == (run.method, run.task)]
    naming = [_naming(other) for other in alike]
    words: list[str] = []
    for name, own in _naming(run).items():
        values = [values.get(name) for values in naming]
        if all(value == own for value in values):
            continue
        if name == "set":
            words += [item for item in own or [] if not all(item in (value or []) for value in values)]
        else:
            words.append(f"{name.replace('_', '-')}={','.join(map(str, own)) if isinstance(own, list) else own}")
    return [*words, *_other_code(run, alike)]


def _naming(run: History) -> dict[str, Any]:
    """Return the settings that name a run's method, with `iterations` where the learning rate falls over all of them."""
    # A run that was recorded before there was such an option took what is its default.
    found = {name: run.settings.get(name, DEFAULTS[name]) for name in NAMING}
    chosen = any(item.replace("_", "-").startswith(f"{SCHEDULE}=") for item in found["set"] or [])
    return found if found["model"] in BUILT_IN or chosen else found | {"iterations": run.planned}


def _other_code(run: History, runs: Sequence[History]) -> list[str]:
    """Tell the user's own files by their sha256 where another run took another text under the same name for the same."""
    told = [
        f"{name.partition(':')[0]} sha256={','.join(map(short, texts))}"
        for (where, name), texts in run.code.items()
        if any(other.code.get((where, name), texts) != texts for other in runs)
    ]
    return list(dict.fromkeys(told))


def shared_iterations(groups: Sequence[RunGroup]) -> list[int]:
    """Return the iterations at which every run of a task was evaluated.

    Raises: GtrTurboError: runs played other deals, or share no iteration.
    """
    runs = [run for group in groups for run in group.runs.values()]
    played = {run.path: next((_deals(entry) for entry in run.entries["student"]), None) for run in runs}
    first = played[runs[0].path]
    for path, deals in played.items():
        if deals is None:
            raise GtrTurboError(f"{path} has no evaluations.", "let it finish: start it again with the same options.")
        for name in (*DEALS, *BESIDE):
            if first is not None and deals[name] != first[name]:
                raise GtrTurboError(
                    f"{path} was evaluated with {name} {deals[name]}, but {runs[0].path} with {first[name]}: not the same deals.",
                    "compare runs with the same evaluations.",
                )
    shared = set.intersection(*(set(run.at("student")) for run in runs))
    if not shared:
        raise GtrTurboError(f"the runs of {groups[0].task} share no evaluated iteration.", "run them with the same --eval-every.")
    return sorted(shared)


def _deals(entry: Entry) -> dict[str, Any]:
    config = entry.manifest.config
    found = {name: config.get(name) for name in DEALS} | {"env": without_folders(config.get("task"), config.get("env") or ())}
    beside = {name: entry.manifest.plugins.get(option, {}).get(what) for name, (option, what) in BESIDE.items()}
    return found | beside


def chance_of(group: RunGroup, iteration: int) -> float | None:
    """Return what a policy that sees nothing achieves; None where the evaluation left chance out."""
    return chance_level(next(iter(group.runs.values())).at("student")[iteration].metrics)
