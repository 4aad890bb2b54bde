"""Memory at the peak of each stage of a run, estimated from the model's shape and a few episodes. No weights are read."""

import importlib
import itertools
from dataclasses import replace
from typing import Any

from rich.filesize import decimal

from gtrturbo.config import DistillConfig, EvalConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import AUTO, BUILT_IN_ENGINES, HF, REPLIES_AT_ONCE
from gtrturbo.merging.ranges import MERGE_RANGE
from gtrturbo.models.budget import logit_chunk
from gtrturbo.models.checkpoint_files import adapter_config, is_adapter
from gtrturbo.models.memory import FLOAT32, Batch, Memory, Shape, generating, scoring, training
from gtrturbo.models.sizes import value_head_widths
from gtrturbo.models.split_memory import split_over
from gtrturbo.models.under_adapter import base_of
from gtrturbo.play.teachers import find_mode
from gtrturbo.runs.method import teacher_of
from gtrturbo.runs.methods import method_of
from gtrturbo.runs.overrides import EXPERT
from gtrturbo.runs.plan import Step
from gtrturbo.runs.sample import Play


def shape_of(config: RunConfig, stages: list[Any]) -> Shape | None:
    """Read the shape of the model that a run trains; None where its config is not here.

    Raises:
        GtrTurboError: nothing could be trained in its type.
    """
    shape = _shape_of(config, stages)
    in_its_own = [stage for stage in stages if isinstance(stage, InitConfig | SftConfig | PpoStepConfig) and stage.dtype == AUTO]
    if shape and shape.dtype and not shape.rank and in_its_own:
        importlib.import_module("gtrturbo.models.stored_types").require_trained_type({shape.dtype})
    return shape


def _shape_of(config: RunConfig, stages: list[Any]) -> Shape | None:
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


def stage_peaks(config: RunConfig, steps: list[Step], shape: Shape, play: Play, *, processes: int = 1) -> dict[str, Memory]:
    """Estimate the peak of each kind of stage: the largest of its steps, in one of so many processes."""
    peaks: dict[str, Memory] = {}
    reply = _longest_reply([step.config for step in steps], play)
    for step in steps:
        name, found = _name(step), _peak(config, step.config, shape, play, reply, processes)
        if found.peak > (peaks[name].peak if name in peaks else 0):
            peaks[name] = found
    return peaks


def _name(step: Step) -> str:
    return EXPERT if isinstance(step.config, RolloutConfig) and step.config.expert else step.stage


def _peak(config: RunConfig, stage: Any, shape: Shape, play: Play, reply: int, processes: int) -> Memory:
    """Estimate one step; each stage holds one model, and what it does with it decides the rest."""
    if is_served(stage):
        return Memory()
    shape = _loaded(shape, stage)
    chunk = logit_chunk(shape.vocabulary)
    if isinstance(stage, InitConfig):
        return Memory(weights=shape.weights + shape.adapter_bytes)
    if isinstance(stage, MergeConfig):
        held = len(stage.checkpoints) + 2 if stage.checkpoints else 0  # with the base and the result
        return Memory(passing=held * min(MERGE_RANGE, shape.parameters) * 2 * FLOAT32)
    if isinstance(stage, RolloutConfig | EvalConfig):
        rows = min(stage.num_envs, -(-stage.episodes // processes))
        return generating(shape, batch_of(shape, play, rows, stage.max_new_tokens)) if stage_has_model(stage) else Memory()
    if isinstance(stage, SftConfig):
        return _update(stage, shape, play, reply=play.reply, chunk=chunk, head=0, processes=processes)
    if isinstance(stage, PpoStepConfig):
        return _update(stage, shape, play, reply=reply, chunk=chunk, head=head_size(shape.hidden), processes=processes)
    return _teaching(config, stage, shape, play, reply, chunk)


def stage_has_model(stage: RolloutConfig | EvalConfig | DistillConfig) -> bool:
    """Tell whether a model plays or teaches here, not the scripted expert or a server."""
    if isinstance(stage, DistillConfig) and stage.teacher is not None:
        return any(served_model(teacher) is None for teacher in (stage.teacher, *stage.more_teachers))
    return isinstance(stage, EvalConfig) or not stage.expert


def about_served(steps: list[Step], shape: Shape) -> list[str]:
    """Say for which stages a server's memory is needed, which is none of this process."""
    names = dict.fromkeys(_name(step) for step in steps if is_served(step.config))
    if not names:
        return []
    held = decimal(shape.weights + shape.adapter_bytes)
    return [
        f"Not counted is the memory of the servers that answer for {', '.join(names)}: each {held} of weights, and its cache "
        "(vLLM fills nine tenths of a GPU). To prove what they serve the weights are loaded here, too, on the CPU unless a "
        "device is named."
    ]


def is_served(stage: Any) -> bool:
    """Tell whether a server answers in a stage: its memory is not this process's."""
    kind = kind_of(getattr(stage, "engine", HF))
    return kind != HF and kind in BUILT_IN_ENGINES and stage_has_model(stage)


def _loaded(shape: Shape, stage: Any) -> Shape:
    """Give the weights the type that the stage loads them in."""
    dtype = getattr(stage, "dtype", AUTO)
    return shape if dtype == AUTO else replace(shape, width=FLOAT32 if dtype == "float32" else 2)


def _longest_reply(stages: list[Any], play: Play) -> int:
    rollouts = (stage for stage in stages if isinstance(stage, RolloutConfig) and not stage.expert)
    return next((rollout.max_new_tokens for rollout in rollouts), play.reply)


def picture_tokens_of(shape: Shape, play: Play) -> int:
    """Count the tokens of a prompt's pictures, of the prompt that has the most."""
    return max(map(shape.tokens_of_images, play.pictures), default=0)


def batch_of(shape: Shape, play: Play, rows: int, reply: int) -> Batch:
    """Count the tokens of a batch of turns, those of pictures among them."""
    image = picture_tokens_of(shape, play)
    return Batch(rows=rows, prompt=play.text + image, reply=reply, image=image)


def _rows(stage: Any, shape: Shape, play: Play, reply: int, *, recompute: bool, shares: int = 1) -> int:
    """Count the samples of a forward pass by its budget of tokens."""
    auto = importlib.import_module("gtrturbo.models.shape").auto_tokens
    setting = stage.micro_batch_tokens
    tokens = auto(shape, stage.device, recomputes=recompute, shares=shares) if setting == AUTO else int(setting)
    one = batch_of(shape, play, 1, reply)
    return max(1, tokens // one.tokens)


def _replies(stage: DistillConfig, shape: Shape, play: Play) -> int:
    """Count the replies that a teacher generates in one batch."""
    if stage.micro_batch_tokens == AUTO:
        return REPLIES_AT_ONCE
    return max(1, int(stage.micro_batch_tokens) // batch_of(shape, play, 1, stage.max_new_tokens).tokens)


def _update(
    stage: SftConfig | PpoStepConfig, shape: Shape, play: Play, *, reply: int, chunk: int | None, head: int, processes: int
) -> Memory:
    """Each process works on its part of a minibatch, and holds all of the model unless it is split."""
    recompute, shares = stage.gradient_checkpointing, processes if stage.fsdp else 1
    size = stage.batch_size if isinstance(stage, SftConfig) else stage.minibatch_size
    rows = min(-(-size // processes), _rows(stage, shape, play, reply, recompute=recompute, shares=shares))
    found = training(shape, batch_of(shape, play, rows, reply), recompute=recompute, chunk=chunk, head=head)
    return split_over(found, shape, processes=shares) if shares > 1 else found


def head_size(hidden: int) -> int:
    """Count the numbers of a value head."""
    widths = [*value_head_widths(hidden), 1]
    return sum(left * right + right for left, right in itertools.pairwise(widths))


def _teaching(config: RunConfig, stage: DistillConfig, shape: Shape, play: Play, reply: int, chunk: int | None) -> Memory:
    """A merged teacher has full weights; beside it stays the base of the student's adapter, unless memory is short.

    A checkpoint of the run as a teacher is an adapter on that base.
    """
    if not stage_has_model(stage):
        return Memory()
    own = teacher_of(method_of(config.method), given=config.teacher is not None) in ("static", "newest")
    teacher = shape if own else replace(shape, adapters=0, rank=0)
    kept = shape.weights if shape.adapters and not own and not config.subprocess else 0
    if find_mode(stage.mode).writes == "demos":
        found = generating(teacher, batch_of(teacher, play, _replies(stage, teacher, play), stage.max_new_tokens))
    else:
        rows = _rows(stage, teacher, play, reply, recompute=False)
        found = scoring(teacher, batch_of(teacher, play, rows, reply), chunk=chunk)
    return replace(found, weights=found.weights + kept)
