"""Whether what rollouts and teachers of a run write is what its updates read, asked before any work."""

from collections.abc import Sequence

from gtrturbo.algorithms.kl import ESTIMATORS, require_loss
from gtrturbo.config import DistillConfig, PpoStepConfig, RolloutConfig, RunConfig
from gtrturbo.config.choices import AMONG_GROUPS
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import MODES, find_mode
from gtrturbo.plugins import find, is_outside, names_code
from gtrturbo.runs.method import Method
from gtrturbo.runs.methods import METHODS, given_teachers

# Methods that learn from the other kind of guidance, as an error offers them.
LEARN_FROM = {"scores": "turbo-kl or static-kl", "demos": "turbo-sft or gtr"}


def require_guidance(config: RunConfig, asked: Sequence[DistillConfig], updates: Sequence[PpoStepConfig]) -> None:
    """Refuse guidance that an update would not take.

    Args:
        config: of the run.
        asked: the distill steps.
        updates: the ppo-steps.

    Raises:
        GtrTurboError: names the first.
    """
    written = {each.out: each for each in asked}
    for update in updates:
        if update.scores in written:
            _require_written(config, written[update.scores], "scores")
            _require_fitting(written[update.scores], update)
        for demos in update.demos:
            if demos in written:
                _require_written(config, written[demos], "demos")


def require_distributions(config: RunConfig, method: Method, asked: Sequence[DistillConfig]) -> None:
    """Refuse teachers that have no distributions to give to a method that asks for them; the user gave no such option.

    Raises:
        GtrTurboError: names the method.
    """
    if method.annotation != "distributions" or not any(each.top_logprobs for each in asked):
        return
    code = next((teacher for teacher in given_teachers(config) if names_code(teacher)), None)
    if code is None and not config.more_teachers:
        return
    why = f"and {code} gives none" if code else f"and {len(given_teachers(config))} are given"
    others = " or ".join(name for name, each in METHODS.items() if each.teacher == "given" and each.annotation == "logprobs")
    raise GtrTurboError(
        f"--method {config.method} keeps the likeliest tokens of one checkpoint that teaches, {why}.",
        f"use --method {others}, or name one checkpoint as --teacher.",
    )


def _require_written(config: RunConfig, asked: DistillConfig, read: str) -> None:
    writes = find_mode(asked.mode).writes
    if writes != read:
        raise GtrTurboError(
            f"--set distill.mode={asked.mode} writes {writes}, and --method {config.method} learns from {read}.",
            f"leave it out, or use --method {LEARN_FROM[writes]}.",
        )


def _require_fitting(asked: DistillConfig, update: PpoStepConfig) -> None:
    """Refuse an update that needs more of the teacher than distill keeps, or a loss that is none."""
    if is_outside(update.kl_estimator):  # Code of the user's own is loaded by the stage that it works in.
        return
    estimator = find("KL estimator", update.kl_estimator, ESTIMATORS)
    if update.kl_placement == "loss":
        require_loss(update.kl_estimator, estimator)
    if asked.mode not in MODES:
        raise GtrTurboError(
            f"--kl-estimator {update.kl_estimator} needs log-probs of the tokens sampled, which --set distill.mode={asked.mode} "
            "need not tell.",
            "add the one that goes with it: --set ppo-step.kl-estimator=path/to/file.py:NAME",
        )
    if estimator.distributions and not asked.top_logprobs:
        raise GtrTurboError(
            f"--kl-estimator {update.kl_estimator} needs the teacher's most likely tokens, and distill keeps none.",
            "add: --set distill.top-logprobs=64",
        )


def require_groups(played: Sequence[RolloutConfig], updates: Sequence[PpoStepConfig]) -> None:
    """Refuse a credit that is built in and compares episodes of one deal, where each has its own.

    Raises:
        GtrTurboError: names the credit.
    """
    for rollout, update in zip(played, updates, strict=True):
        if update.credit in AMONG_GROUPS and rollout.group_size == 1:
            raise GtrTurboError(
                f"--credit {update.credit} compares episodes of one deal, and each has a deal of its own.", "add: --group-size 8"
            )
