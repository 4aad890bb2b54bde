"""What a run will take, before it is started: memory at the peak of each stage, and disk. No weights are read."""

import importlib
import io
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from rich.filesize import decimal

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.models.checkpoint_files import adapter_config, base_of, is_adapter
from gtrturbo.models.memory import FLOAT32, Batch, Memory, Shape, generating, scoring, training
from gtrturbo.runs.loop import EXPERT, Step, plan
from gtrturbo.runs.pruning import schedule
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task, View

# Text is counted as one token per so many characters, which is more than tokenizers of large vocabularies make of it.
CHARACTERS_PER_TOKEN = 3
TEMPLATE_TOKENS = 16
SAMPLED_EPISODES = 16
# Bytes of a row of turns.jsonl besides prompt and reply, and of a reply's token: id, span, two masks, log-prob.
ROW, REPLY_TOKEN = 800, 18
SCORED_TOKEN = 4
# Of each of the teacher's most likely tokens id and log-prob, and the log-prob of the rest.
TOP_TOKEN, REST = 8, 4
# algorithms/tokens.linear_logprobs makes the logits of so many tokens at a time, where the vocabulary is large.
LOGIT_CHUNK, LARGE_VOCABULARY = 512, 8192
# Value head: H → 1024 → 512 → 1, at most 4 and 2 times the model's width (models/value_head.py).
HEAD = ((1024, 4), (512, 2))
# A merge holds a range of so many entries of each checkpoint and of the base, in float64.
RANGE = 1 << 22
COLUMNS = ("weights", "gradients", "optimizer", "activations", "cache", "passing", "logits")


@dataclass(frozen=True)
class Play:
    """A task in numbers: tokens of a prompt without and of its picture, of a true reply; turns per episode; bytes per turn."""

    text: int
    picture: tuple[int, int]
    reply: int
    turns: float
    row: int
    png: float


@dataclass(frozen=True)
class Disk:
    """Bytes of a run: `parts` by what they are in the end, and the most there is on the way there."""

    parts: dict[str, int]
    most: int

    @property
    def end(self) -> int:
        return sum(self.parts.values())


def notes(config: RunConfig) -> list[str]:
    """Write what a run will take as lines for a reader."""
    steps = plan(config)
    shape = shape_of(config, [step.config for step in steps])
    if shape is None:
        return [f"Memory and disk are not known: the config of {config.model} is not on this machine."]
    play = sample(load_task(config.task, next(step.config.env for step in steps if isinstance(step.config, EvalConfig))))
    peaks = stage_peaks(config, steps, shape, play)
    disk = disk_of(config, steps, shape, play)
    return [*_about(shape, play), *_table(peaks), *_about_disk(config, disk)]


def shape_of(config: RunConfig, stages: list[Any]) -> Shape | None:
    """Read the shape of the model that a run trains; None where its config is not here."""
    read_shape = importlib.import_module("gtrturbo.models.shape").read_shape
    if config.start is None:
        inits = [stage for stage in stages if isinstance(stage, InitConfig)]
        first, last = inits[0], inits[-1]
        return read_shape(
            first.model, revision=first.revision, lora_rank=last.lora_rank, lora_target=last.lora_target, dtype=first.dtype
        )
    if not is_adapter(config.start):
        return read_shape(str(config.start))
    adapter = adapter_config(config.start)
    base, revision = base_of(config.start), adapter.get("revision")
    return read_shape(base, revision=revision, lora_rank=adapter["r"], lora_target=tuple(adapter["target_modules"]))


def sample(task: Task) -> Play:
    """Play a few episodes with random actions, and look at prompts, pictures and the expert's replies."""
    env, rng = task.make(), np.random.default_rng(0)
    prompts, replies, turns = [], [], 0
    pictures: dict[bytes, int] = {}
    shape = (0, 0)
    for episode in range(SAMPLED_EPISODES):
        picture, info = env.reset(seed=episode)
        done = False
        while not done:
            prompts.append(len(task.prompt(View(picture, info)).messages[0]["content"][-1]["text"]))
            replies.append(len(task.expert_reply(info)))
            pictures[picture.tobytes()] = _png(picture)
            shape, turns = picture.shape[:2], turns + 1
            picture, _, terminated, truncated, info = env.step(int(rng.integers(len(task.allowed(info)))))
            done = terminated or truncated
    return Play(
        text=TEMPLATE_TOKENS + _tokens(max(prompts)),
        picture=shape,
        reply=_tokens(max(replies)),
        turns=turns / SAMPLED_EPISODES,
        row=ROW + max(prompts) + max(replies),
        png=sum(pictures.values()) / turns,
    )


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _png(picture: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.tell()


def stage_peaks(config: RunConfig, steps: list[Step], shape: Shape, play: Play) -> dict[str, Memory]:
    """Estimate the peak of each kind of stage: the largest of its steps."""
    peaks: dict[str, Memory] = {}
    reply = _longest_reply([step.config for step in steps], play)
    for step in steps:
        name, found = _name(step), _peak(config, step.config, shape, play, reply)
        if found.peak > (peaks[name].peak if name in peaks else 0):
            peaks[name] = found
    return peaks


def _name(step: Step) -> str:
    return EXPERT if isinstance(step.config, RolloutConfig) and step.config.expert else step.stage


def _peak(config: RunConfig, stage: Any, shape: Shape, play: Play, reply: int) -> Memory:
    """Estimate one step; each stage holds one model, and what it does with it decides the rest."""
    shape = _loaded(shape, stage)
    chunk = LOGIT_CHUNK if shape.vocabulary >= LARGE_VOCABULARY else None
    if isinstance(stage, InitConfig):
        return Memory(weights=shape.weights + shape.adapter_bytes)
    if isinstance(stage, MergeConfig):
        held = len(stage.checkpoints) + 2 if stage.checkpoints else 0  # with the base and the result
        return Memory(passing=held * min(RANGE, shape.parameters) * 2 * FLOAT32)
    if isinstance(stage, RolloutConfig | EvalConfig):
        rows = min(stage.num_envs, stage.episodes)
        return generating(shape, _batch(shape, play, rows, stage.max_new_tokens)) if stage_has_model(stage) else Memory()
    if isinstance(stage, SftConfig):
        return _update(stage, shape, play, reply=play.reply, chunk=chunk, head=0)
    if isinstance(stage, PpoStepConfig):
        return _update(stage, shape, play, reply=reply, chunk=chunk, head=_head(shape.hidden))
    return _teaching(config, stage, shape, play, reply, chunk)


def stage_has_model(stage: RolloutConfig | EvalConfig | DistillConfig) -> bool:
    """Tell whether a model plays or teaches, not the scripted expert."""
    return isinstance(stage, EvalConfig) or not stage.expert


def _loaded(shape: Shape, stage: Any) -> Shape:
    """Give the weights the type that the stage loads them in."""
    dtype = getattr(stage, "dtype", "auto")
    return shape if dtype == "auto" else replace(shape, width=FLOAT32 if dtype == "float32" else 2)


def _longest_reply(stages: list[Any], play: Play) -> int:
    rollouts = (stage for stage in stages if isinstance(stage, RolloutConfig) and not stage.expert)
    return next((rollout.max_new_tokens for rollout in rollouts), play.reply)


def _batch(shape: Shape, play: Play, rows: int, reply: int) -> Batch:
    image = shape.tokens_of_image(*play.picture)
    return Batch(rows=rows, prompt=play.text + image, reply=reply, image=image)


def _rows(stage: Any, shape: Shape, play: Play, reply: int, *, recompute: bool) -> int:
    """Count the samples of a forward pass by its budget of tokens."""
    auto = importlib.import_module("gtrturbo.models.shape").auto_tokens
    setting = stage.micro_batch_tokens
    tokens = auto(shape, stage.device, recomputes=recompute) if setting == "auto" else int(setting)
    one = _batch(shape, play, 1, reply)
    return max(1, tokens // one.tokens)


def _update(stage: SftConfig | PpoStepConfig, shape: Shape, play: Play, *, reply: int, chunk: int | None, head: int) -> Memory:
    recompute = stage.gradient_checkpointing
    size = stage.batch_size if isinstance(stage, SftConfig) else stage.minibatch_size
    rows = min(size, _rows(stage, shape, play, reply, recompute=recompute))
    return training(shape, _batch(shape, play, rows, reply), recompute=recompute, chunk=chunk, head=head)


def _head(hidden: int) -> int:
    widths = [hidden, *(min(most, times * hidden) for most, times in HEAD), 1]
    return sum(left * right + right for left, right in itertools.pairwise(widths))


def _teaching(config: RunConfig, stage: DistillConfig, shape: Shape, play: Play, reply: int, chunk: int | None) -> Memory:
    """A merged teacher has full weights; beside it stays the base of the student's adapter, unless memory is short.

    The first checkpoint as a teacher is an adapter on that base.
    """
    if not stage_has_model(stage):
        return Memory()
    first = config.method == "static-kl" and not config.teacher
    teacher = shape if first else replace(shape, adapters=0, rank=0)
    kept = shape.weights if shape.adapters and not first and not config.isolate else 0
    if stage.mode == "thoughts":
        found = generating(teacher, _batch(teacher, play, stage.micro_batch_size, stage.max_new_tokens))
    else:
        rows = _rows(stage, teacher, play, reply, recompute=False)
        found = scoring(teacher, _batch(teacher, play, rows, reply), chunk=chunk)
    return replace(found, weights=found.weights + kept)


def disk_of(config: RunConfig, steps: list[Step], shape: Shape, play: Play) -> Disk:
    """Estimate what a run leaves on disk, step by step, and what retention takes away again."""
    configs = [step.config for step in steps]
    due = schedule(configs, keep_teachers=config.keep_teachers, keep_optimizers=config.keep_optimizers)
    sizes = {id(step.config): dict(_files(config, step, shape, play)) for step in steps}
    parts: dict[str, int] = defaultdict(int)
    most = 0
    for position, stage in enumerate(configs):
        for part, size in sizes[id(stage)].items():
            parts[part] += size
        most = max(most, sum(parts.values()))
        for old in due.get(position, []):
            part = "teachers" if isinstance(old, MergeConfig) else "optimizers"
            parts[part] -= sizes[id(old)][part]
    return Disk({part: size for part, size in parts.items() if size}, most)


def _files(config: RunConfig, step: Step, shape: Shape, play: Play) -> Iterator[tuple[str, int]]:
    """Yield what a step writes by what it is, in bytes."""
    stage, checkpoint = step.config, shape.adapter_bytes or shape.weights
    if isinstance(stage, InitConfig):
        inside = shape.weights if stage.model == "tiny" else 0  # The base of an adapter lies where it is, but for the tiny one.
        yield "checkpoints", checkpoint + inside if stage.lora_rank else shape.weights
    if isinstance(stage, SftConfig):
        # The tiny model learns to read before it gets its adapter.
        yield "checkpoints", shape.weights if config.model == "tiny" else checkpoint
    if isinstance(stage, PpoStepConfig):
        head = _head(shape.hidden) * FLOAT32
        yield "checkpoints", checkpoint + head
        yield "optimizers", shape.optimizer_bytes + 2 * head
    if isinstance(stage, MergeConfig):
        yield "teachers", shape.weights if stage.checkpoints else checkpoint
    if isinstance(stage, RolloutConfig | EvalConfig):
        token = REPLY_TOKEN * play.reply + FLOAT32 * _batch(shape, play, 1, 0).prompt if stage_has_model(stage) else 0
        yield "turns", round(stage.episodes * play.turns * (play.row + play.png + token))
    if isinstance(stage, DistillConfig):
        scored = SCORED_TOKEN + (TOP_TOKEN * stage.top_logprobs + REST if stage.top_logprobs else 0)
        row = play.row + play.png if stage.mode == "thoughts" else scored * play.reply
        yield "guidance", round(config.episodes * play.turns * row)


def _about(shape: Shape, play: Play) -> list[str]:
    parts = f"{_millions(shape.vision)} vision, {_millions(shape.embeddings)} embeddings"
    how = f"LoRA of rank {shape.rank}" if shape.rank else "full weights"
    image = shape.tokens_of_image(*play.picture)
    return [
        f"Estimated for {shape.name}: {_millions(shape.parameters)} parameters of {8 * shape.width} bits ({parts}), of which "
        f"{_millions(shape.trainable)} are trained ({how}).",
        f"A turn has {image} tokens of picture and about {play.text} of prompt; an episode about {play.turns:.1f} turns.",
    ]


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _table(peaks: dict[str, Memory]) -> list[str]:
    """Lay out the peaks; what is passing is gone before the logits are made, so the larger of the two counts."""
    header = f"{'stage':<9} {'peak':>9} = " + " ".join(f"{name:>11}" for name in COLUMNS)
    rows = [header]
    for name, found in peaks.items():
        cells = [decimal(size) if (size := getattr(found, column)) else "" for column in COLUMNS]
        rows.append(f"{name:<9} {decimal(found.peak):>9}   " + " ".join(f"{cell:>11}" for cell in cells))
    return [row.rstrip() for row in rows]


def _about_disk(config: RunConfig, disk: Disk) -> list[str]:
    parts = ", ".join(f"{name} {decimal(size)}" for name, size in disk.parts.items())
    kept = {"--keep-teachers": config.keep_teachers, "--keep-optimizers": config.keep_optimizers}
    told = " ".join(f"{option} {count}" for option, count in kept.items() if count is not None)
    lines = [f"Disk: {decimal(disk.end)} in the end, at most {decimal(disk.most)} on the way: {parts}."]
    return [*lines, f"This counts on {told}, which only `gtrturbo run` does; the script below keeps all."] if told else lines
