"""What a run will take, before it is started, as lines for a reader: memory at each stage's peak, disk, and what is paid for."""

import importlib

from rich.filesize import decimal

from gtrturbo.config import EvalConfig, RunConfig
from gtrturbo.distributed.processes import world
from gtrturbo.models.memory import Memory, Shape
from gtrturbo.runs.asking import about_asking
from gtrturbo.runs.disk import Disk, disk_of
from gtrturbo.runs.execute import check
from gtrturbo.runs.peaks import about_served, picture_tokens_of, shape_of, stage_peaks
from gtrturbo.runs.plan import Step, plan
from gtrturbo.runs.pruning import keeping
from gtrturbo.runs.sample import Play, sample
from gtrturbo.stages.servers_ahead import missing_here, unreached
from gtrturbo.tasks.loading import load_task

COLUMNS = ("weights", "gradients", "optimizer", "activations", "cache", "passing", "logits")


def notes(config: RunConfig) -> list[str]:
    """Write what a run will take as lines for a reader."""
    steps = plan(config)
    check(config, steps)
    shape = shape_of(config, [step.config for step in steps])
    play = sample(load_task(config.task, next(step.config.env for step in steps if isinstance(step.config, EvalConfig))))
    play, told = importlib.import_module("gtrturbo.runs.model_ahead").measured(config, steps, play)
    asked = [*told, *about_asking(config, steps, play), *_about_servers(steps)]
    if shape is None:
        return [f"Memory and disk are not known: the config of {config.model} is not on this machine.", *asked]
    processes = world().size
    peaks = stage_peaks(config, steps, shape, play, processes=processes)
    disk = disk_of(config, steps, shape, play)
    table = [*_table(peaks), *about_served(steps, shape)]
    return [*_about(shape, play), *_about_processes(steps, processes), *table, *_about_disk(config, disk), *asked]


def _about_servers(steps: list[Step]) -> list[str]:
    """Tell what the servers of a run lack on this machine, which need not be the one that runs it."""
    configs = [step.config for step in steps]
    return [*missing_here(configs), *unreached(configs)]


def _about(shape: Shape, play: Play) -> list[str]:
    parts = f"{_millions(shape.vision)} vision, {_millions(shape.embeddings)} embeddings"
    how = f"LoRA of rank {shape.rank}" if shape.rank else "full weights"
    return [
        f"Estimated for {shape.name}: {_millions(shape.parameters)} parameters of {8 * shape.width} bits ({parts}), of which "
        f"{_millions(shape.trainable)} are trained ({how}).",
        f"A turn has {_up_to(shape, play)} tokens of picture and about {play.text} of prompt; an episode about "
        f"{play.turns:.1f} turns.",
    ]


def _up_to(shape: Shape, play: Play) -> str:
    """Tell how many tokens the pictures of a prompt have, and of prompts that differ how many they may have."""
    most, least = picture_tokens_of(shape, play), min(map(shape.tokens_of_images, play.pictures), default=0)
    return f"{most}" if most == least else f"{least} to {most}"


def _about_processes(steps: list[Step], processes: int) -> list[str]:
    if processes > 1:
        return [f"Memory is that of each of {processes} processes."]
    if any(getattr(step.config, "fsdp", False) for step in steps):
        return [
            "Memory is that of one process alone, which cannot split weights. Say how many there are: WORLD_SIZE=8 gtrturbo run …"
        ]
    return []


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _table(peaks: dict[str, Memory]) -> list[str]:
    """Lay out the peaks; what is passing is gone before the logits are made, so the larger of the two counts."""
    columns = COLUMNS + (("gathered",) if any(found.gathered for found in peaks.values()) else ())
    header = f"{'stage':<9} {'peak':>9} = " + " ".join(f"{name:>11}" for name in columns)
    rows = [header]
    for name, found in peaks.items():
        cells = [decimal(size) if (size := getattr(found, column)) else "" for column in columns]
        rows.append(f"{name:<9} {decimal(found.peak):>9}   " + " ".join(f"{cell:>11}" for cell in cells))
    return [row.rstrip() for row in rows]


def _about_disk(config: RunConfig, disk: Disk) -> list[str]:
    parts = ", ".join(f"{name} {decimal(size)}" for name, size in disk.parts.items())
    kept = keeping(config)
    told = " ".join(f"--{name.replace('_', '-')} {count}" for name, count in kept.items() if count is not None)
    lines = [f"Disk: {decimal(disk.end)} in the end, at most {decimal(disk.most)} on the way: {parts}."]
    return [*lines, f"This counts on {told}, which only `gtrturbo run` does; the script below keeps all."] if told else lines
