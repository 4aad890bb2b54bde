"""Configs of run, and of what looks at artifacts and runs: show, compare, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gtrturbo.config.bounds import AT_LEAST_ONE, COUNT, ITERATIONS, RANK
from gtrturbo.config.common import Device, EnvOptions, Log, Seed, TaskName, Verify
from gtrturbo.config.fields import Checked, More, Role, check, fields
from gtrturbo.config.prices import prices_of
from gtrturbo.config.teaching import Address, Answers, Hints, MaxCalls, MaxCost, MoreTeachers, Prices, TeacherWeights


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Train from nothing to a table: init, sft, then merge, rollout, distill, ppo-step in a loop, and eval."""

    out: Annotated[Path, "Folder of the run; started again, it goes on where it was."]
    method: Annotated[
        str,
        "Who teaches, and how: a name of those below, or a Method of your own, as package.module:NAME or path/to/file.py:NAME.",
    ] = "turbo-gated"
    model: Annotated[str, "tiny or small (built in), or a Hugging Face id or folder, which takes the stages' defaults."] = "tiny"
    start: Annotated[
        Path | None,
        "Start from this checkpoint: no init and no sft. --model still chooses the settings: name there the start's own model, "
        "or the start itself.",
    ] = None
    teacher: Annotated[
        Path | None,
        "External teacher, for a method that takes one: a checkpoint, a Hugging Face model's folder, openai:MODEL on a server, "
        "or one of your own, path/to/file.py:NAME; repeatable.",
        More("more_teachers"),
    ] = None
    more_teachers: MoreTeachers = ()
    teacher_weights: TeacherWeights = None
    address: Address = None
    hints: Hints = ()
    prices: Prices = None
    max_calls: MaxCalls = None
    max_cost: MaxCost = None
    answers: Answers = None
    task: TaskName = "numberline"
    env: EnvOptions = ()
    eval_env: Annotated[
        tuple[str, ...], "KEY=VALUE for the evaluations alone, over --env, such as deals=held-out; repeatable."
    ] = ()
    iterations: Annotated[int, "Updates after the warm start.", ITERATIONS] = 20
    episodes: Annotated[int, "Episodes per iteration.", AT_LEAST_ONE] = 64
    group_size: Annotated[
        int | None, "Episodes of each iteration that share a deal; as the method says if not given, 8 for grpo.", AT_LEAST_ONE
    ] = None
    eval_episodes: Annotated[int, "Episodes per evaluation.", AT_LEAST_ONE] = 200
    eval_every: Annotated[int, "Evaluate every so many iterations, besides start and end; 0 only those two.", COUNT] = 0
    merge_every: Annotated[
        int,
        "Merge a teacher every so many updates, of the checkpoints whose number is a multiple; it serves until the next. "
        "1 as in the paper.",
        AT_LEAST_ONE,
    ] = 1
    eval_teachers: Annotated[
        bool, "Wherever a student is evaluated, evaluate on the same deals the teacher that is then merged of it too."
    ] = False
    lora_rank: Annotated[int, "Rank of the LoRA adapter to train; 0 trains the full weights.", RANK] = 0
    seed: Seed = 0
    label: Annotated[
        str | None, "What compare and report call this run; the method and the settings in which it differs if not given."
    ] = None
    set: Annotated[
        tuple[str, ...], "STAGE.OPTION=VALUE for any stage, such as ppo-step.clip-range=0.2 or merge.weights=ema:0.5; repeatable."
    ] = ()
    keep_teachers: Annotated[
        int | None, "Keep the weights of the newest N merged teachers; all if not given. The manifests stay.", AT_LEAST_ONE
    ] = None
    keep_guidance: Annotated[
        int | None,
        "Keep the teacher's log-probs of the newest N updates; all if not given. Demos stay: they are learned from again.",
        AT_LEAST_ONE,
    ] = None
    keep_optimizers: Annotated[
        int | None, "Keep the optimiser's state of the newest N checkpoints; all if not given. The weights stay.", AT_LEAST_ONE
    ] = None
    subprocess: Annotated[bool, "Run each stage as a process of its own, so that nothing of it stays in memory."] = False
    dry_run: Annotated[
        bool, "Print the run as a shell script with estimates of memory, disk, and calls to a teacher's server, and do nothing."
    ] = False
    device: Device = "auto"
    overwrite: Annotated[bool, "Replace what exists and differs."] = False
    log: Log = ()
    verify_inputs: Verify = "once"

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Print any artifact: its manifest, an episode turn by turn, tokens coloured by the teacher's KL."""

    artifact: Annotated[Path, "Folder to look at.", Role.POSITIONAL]
    episode: Annotated[int | None, "Print this episode turn by turn.", COUNT] = None
    turn: Annotated[int | None, "Print this row of turns.jsonl (counted from 0), as error messages name them.", COUNT] = None
    prices: Prices = None
    scores: Annotated[Path | None, "Colour the reply's tokens by the teacher's KL from these scores."] = None
    check: Annotated[bool, "Hash every file again and compare with the manifest."] = False
    artifacts: Annotated[bool, "Of a run: list every artifact in it, not what happened."] = False
    clean: Annotated[
        bool,
        "Of a run: list and remove what killed stages left below it, also what they would have gone on from; nothing that a "
        "process is at work on, and no link.",
    ] = False

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare runs by method: means over seeds with intervals, differences paired by seed, cost."""

    runs: Annotated[tuple[Path, ...], "Folders that gtrturbo run wrote.", Role.POSITIONAL]
    baseline: Annotated[
        str | None, "Method that the others are compared to, as the table names it; ppo if there, else the first."
    ] = None
    prices: Prices = None
    out: Annotated[Path | None, "Folder for compare.json and compare.csv, with every iteration.", Role.RUNTIME] = None


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML page about runs: curves with intervals, collapse, teacher, time and cost, sample episodes."""

    runs: Annotated[tuple[Path, ...], "Folders that gtrturbo run wrote.", Role.POSITIONAL]
    out: Annotated[Path, "File to write; it needs nothing else, no network either.", Role.RUNTIME] = Path("report.html")
    baseline: Annotated[
        str | None, "Method that the others are compared to, as the table names it; ppo if there, else the first."
    ] = None
    samples: Annotated[int, "Episodes to show of each run.", COUNT] = 2
    watch: Annotated[
        int | None,
        "Write the page anew every N seconds until all runs have ended, and say how far they are; an open page reloads itself.",
        AT_LEAST_ONE,
        Role.RUNTIME,
    ] = None
    prices: Prices = None
    price: Annotated[
        tuple[str, ...],
        "KEY=VALUE: what an API teacher would cost by call (per answered turn) or by million-tokens (read and written alike), "
        "what hour (of this machine) costs, and the currency, USD if not given; such as call=0.0044; repeatable.",
        Checked(prices_of),
    ] = ()

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))
