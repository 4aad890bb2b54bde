"""The steps of an update: gradients of minibatches over several epochs, what is told of each, and where they must stop."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gtrturbo.algorithms.ppo import ratio_statistics
from gtrturbo.console import progress_bar
from gtrturbo.distributed.processes import group
from gtrturbo.errors import Collapse, GtrTurboError
from gtrturbo.models.batches import micro_batches
from gtrturbo.models.policy import Policy
from gtrturbo.play.recording import Transcript
from gtrturbo.train.demos import Example, Shuffle, imitation_loss
from gtrturbo.train.optimizer import Optimizer
from gtrturbo.train.ppo_batch import LossSettings, PpoBatch, losses

Log = Callable[[int, Mapping[str, Any]], None]
SUMMARIZED = ("policy_loss", "value_loss", "kl_loss", "demo_loss", "clip_fraction", "approx_kl", "grad_norm")
# On a CPU they are 1 to the last bit; a GPU may choose another kernel where gradients are kept.
UNIT_RATIO_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Student:
    """What steps are taken with: the policy, its optimiser, and the turns that it learns from."""

    policy: Policy
    optimizer: Optimizer
    transcript: Transcript
    batch: PpoBatch


def minibatches(count: int, *, epochs: int, size: int, seed: int) -> list[list[list[int]]]:
    """Draw the turns of each minibatch of each epoch: every epoch passes over all turns in another order."""
    order = Shuffle(count, seed=seed)
    drawn = [order.draw(count) for _ in range(epochs)]
    return [[chosen[start : start + size] for start in range(0, count, size)] for chosen in drawn]


def take_steps(
    student: Student,
    epochs: Sequence[Sequence[list[int]]],
    log: Log,
    *,
    demos: Sequence[Example],
    demo_seed: int,
    settings: LossSettings,
    max_grad_norm: float,
    target_kl: float | None,
    rollouts: Path,
) -> dict[str, float]:
    """Take a step for each minibatch of each epoch, with as many demos (1:1) beside it where there are any.

    Args:
        student: what learns, and from what.
        epochs: turns of each minibatch, see `minibatches`.
        log: is told each step's number, from 0, and what was measured of it.
        demos, demo_seed: to imitate, and what decides their order.
        settings: of the losses.
        max_grad_norm: gradients are scaled down to this norm.
        target_kl: the steps end before one whose minibatch has a larger `approx_kl`; None: never.
        rollouts: the turns, as an error names them.

    Raises:
        Collapse: a number is not finite.
        GtrTurboError: the first ratios are not 1.
    """
    demo_order = Shuffle(len(demos), seed=demo_seed)
    places = [(epoch, number, turns) for epoch, chosen in enumerate(epochs) for number, turns in enumerate(chosen)]
    rows: list[dict[str, Any]] = []
    with progress_bar("ppo-step", len(places)) as bar:
        for epoch, number, turns in places:
            paired = [demos[i] for i in demo_order.draw(len(turns))] if demos else []
            found = add_gradients(student, turns, paired, settings=settings)
            # The first, before any step, is where the policy is that played.
            if rows and target_kl is not None and found["approx_kl"] > target_kl:
                student.optimizer.forget_gradients()
                break
            row: dict[str, Any] = {"epoch": epoch, "minibatch": number} | found
            row["grad_norm"] = student.optimizer.step(max_grad_norm=max_grad_norm)
            _refuse_nan(row, turns, rollouts)
            if not rows:
                _require_unit_ratio(row)
            log(len(rows), row)
            rows.append(row)
            bar.advance(note=f"ratio {row['ratio_min']:.2f}–{row['ratio_max']:.2f}")
    ended = {} if target_kl is None else {"optimizer_steps": float(len(rows))}
    return _summary(rows) | ended | {"learning_rate": student.optimizer.learning_rate}


def add_gradients(
    student: Student, turns: Sequence[int], demos: Sequence[Example], *, settings: LossSettings
) -> dict[str, float]:
    """Add up the gradients of one minibatch, of which each process does its share; return its losses and ratios."""
    sums, ratios, clipped = _of_turns(student, turns, settings=settings)
    if settings.guard.largest_ratio and settings.guard.tripped(max(group().gather(max(ratios, default=0.0)))):
        student.optimizer.forget_gradients()
        sums, ratios, clipped = _of_turns(student, turns, settings=replace(settings, guard=settings.guard.strict))
    sums["demo_loss"] = _of_demos(student, demos, weight=settings.demo_coef)
    shares = group().gather([sums, ratios, clipped])
    statistics = ratio_statistics(*(torch.tensor([x for share in shares for x in share[which]]) for which in (1, 2)))
    # In this order, which is that of the lines in the log.
    names = [name for name in ("policy_loss", "value_loss", "demo_loss", "kl_loss") if name in sums]
    means: dict[str, float] = {name: sum(share[0][name] for share in shares) for name in names}
    return means | {
        "ratio_mean": statistics.mean,
        "ratio_min": statistics.minimum,
        "ratio_max": statistics.maximum,
        "ratio_p05": statistics.low,
        "ratio_p50": statistics.median,
        "ratio_p95": statistics.high,
        "clip_fraction": statistics.clipped_share,
        # Per turn, whose tokens have ratios of their own where credit is per token.
        "approx_kl": statistics.approximate_kl * sum(len(share[1]) for share in shares) / len(turns),
        "sampler_trainer_gap": student.batch.sampler_trainer_gap[turns].mean().item(),
    }


def _of_turns(
    student: Student, turns: Sequence[int], *, settings: LossSettings
) -> tuple[dict[str, float], list[float], list[bool]]:
    """Add the gradients of this process's share of the turns; return sums of its losses, its ratios and which were clipped."""
    batch, transcript = student.batch, student.transcript
    weight = {"policy_loss": 1.0}
    if batch.value_targets is not None:
        weight["value_loss"] = settings.value_coef
    if batch.guidance:
        weight["kl_loss"] = settings.kl_coef
    sums, ratios, clipped = dict.fromkeys(weight, 0.0), [], []
    shared = {"tokens": batch.tokens, "world": group().world}
    for part in micro_batches(turns, transcript.prompts, transcript.tokens.response_ids, **shared):
        found = losses(student.policy, transcript, batch, part.rows, settings=settings)
        each = {"policy_loss": found.surrogate.loss, "value_loss": found.values, "kl_loss": found.kl}
        means = {name: rows.sum() / len(turns) for name, rows in each.items() if rows is not None}
        loss = means["policy_loss"]
        for name in [name for name in means if name != "policy_loss"]:
            loss = loss + weight[name] * means[name]
        student.optimizer.backward(part.counted * loss)
        if part.counted:
            for name, mean in means.items():
                sums[name] += mean.item()
            ratios += found.surrogate.ratio.tolist()
            clipped += found.surrogate.clipped.tolist()
    return sums, ratios, clipped


def _of_demos(student: Student, demos: Sequence[Example], *, weight: float) -> float:
    """Add the gradients of this process's share of the demos; return its share of the mean loss per learned token."""
    learned, total = sum(int(demo.learned.sum()) for demo in demos), 0.0
    prompts, responses = [demo.prompt for demo in demos], [demo.response_ids for demo in demos]
    for part in micro_batches(range(len(demos)), prompts, responses, tokens=student.batch.tokens, world=group().world):
        loss = part.counted * imitation_loss(student.policy, [demos[row] for row in part.rows]) / learned
        student.optimizer.backward(weight * loss)
        total += loss.item()
    return total


def _refuse_nan(row: dict[str, Any], turns: Sequence[int], rollouts: Path) -> None:
    bad = next((name for name, value in row.items() if not math.isfinite(value)), None)
    if bad:
        raise Collapse(
            f"{bad} is {row[bad]} at epoch {row['epoch']}, minibatch {row['minibatch']} (turns {min(turns)}-{max(turns)}).",
            f"nothing was written; inspect with: gtrturbo show {rollouts} --turn {turns[0]}",
        )


def _require_unit_ratio(row: dict[str, Any]) -> None:
    """Refuse an update whose first ratios are not 1: nothing has been learned yet, and the passes were the same."""
    if max(abs(row["ratio_min"] - 1), abs(row["ratio_max"] - 1)) > UNIT_RATIO_TOLERANCE:
        raise GtrTurboError(
            f"the first ratios are {row['ratio_min']:.4f} to {row['ratio_max']:.4f}, not 1: this model gives other log-probs "
            "with gradients than without.",
            "nothing was written; try: --dtype float32, or leave out --gradient-checkpointing",
        )


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Average over minibatches; the first one, before any step, has all ratios at 1 up to rounding."""
    first = rows[0]
    names = [name for name in SUMMARIZED if name in first]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names} | {
        "first_ratio_error": max(abs(first["ratio_min"] - 1), abs(first["ratio_max"] - 1)),
        "ratio_min": min(row["ratio_min"] for row in rows),
        "ratio_max": max(row["ratio_max"] for row in rows),
    }
