"""The algorithm at a glance: a run is a list of stages, each a command of its own.

    for k in range(iterations):
        teacher         = merge(base=checkpoint[0], checkpoints=checkpoint[1:k+1])
        turns           = rollout(checkpoint[k])
        guidance        = distill(teacher, turns)
        checkpoint[k+1] = ppo_step(checkpoint[k], turns, guidance)

`plan` touches no disk; `run` executes it and `shell` prints it, and both give the same artifacts. A stage reads all that it
works on from disk: what `run` keeps in memory between stages is only what reading it again would give. A stage whose artifact
is there already is skipped, so a run that was killed goes on where it was.
"""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gtrturbo.algorithms.kl import ESTIMATORS, require_loss
from gtrturbo.analysis.history import record_run
from gtrturbo.config import DistillConfig, MergeConfig, PpoStepConfig, RunConfig, SftConfig
from gtrturbo.config.fields import Field, Role, build, fields
from gtrturbo.distributed.processes import world
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find, is_outside
from gtrturbo.runs.pruning import leftovers, schedule
from gtrturbo.stages import STAGES, execute, provenance, stage_of
from gtrturbo.stages.resolve import with_base
from gtrturbo.store.artifacts import Result, finished, prune, seed_for
from gtrturbo.store.run_cache import caching

# What the built-in tiny model was measured to learn with; every other model takes the stages' defaults, which are the paper's.
TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "expert": {"episodes": 400},
    "sft": {"steps": 160, "stop_loss": 0.06, "learning_rate": 3e-3},
    "rollout": {"temperature": 0.6, "max_new_tokens": 64},
    "distill": {"temperature": 0.6, "max_new_tokens": 64},
    "eval": {"max_new_tokens": 64},
    "ppo-step": {
        "learning_rate": 2e-4,
        "value_learning_rate": 2e-3,
        "epochs": 3,
        "minibatch_size": 64,
        "clip_range": 0.2,
        "value_clip_range": 10.0,
        "max_grad_norm": 0.5,
    },
}
# What differs for one task. A won EZPoints hand pays 10, not 1. So the value loss would drown the policy's gradient, and a
# reply that does not parse would cost less than a lost turn unless its penalty grows too.
TINY_TASK_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "blackjack": {
        "expert": {"random_expert_share": 0.7, "episodes": 4000},  # To add up a hand takes many examples.
        "sft": {"stop_loss": 0.0, "steps": 1200},
        "rollout": {"num_envs": 128},
        "eval": {"num_envs": 250, "temperature": 0.6},  # Greedily a start plays one action alone, or nearly the best.
        "ppo-step": {
            "learning_rate": 3e-4,
            "value_learning_rate": 1e-2,
            "epochs": 1,
            "gamma": 1.0,
            "format_invalid": -3.0,
        },
    },
    "ezpoints": {
        "expert": {"random_expert_share": 1.0},  # Its demos leave the right sign to be learned, and the replies well formed.
        "sft": {"stop_loss": 0.0},
        "rollout": {"num_envs": 64},
        "eval": {"num_envs": 64},
        "ppo-step": {
            "learning_rate": 1e-4,
            "value_learning_rate": 1e-2,
            "epochs": 2,
            "gamma": 1.0,
            "format_invalid": -10.0,
            "detach_value": True,
            "value_coef": 0.02,
        },
    },
}
TINY_ENV = ("image=tiny",)
EXPERT = "expert"
ADAPTER = "adapter"
MERGED = ("turbo-kl", "turbo-sft")  # Methods whose teacher is merged of the run's own checkpoints.
GIVEN = ("gtr", "opd", "static-kl")  # Methods that take --teacher.
BY_RUN = "the run decides what its stages read and write"
BY_DISTILL = "distill decides what its update reads and writes"


@dataclass(frozen=True)
class Step:
    """One command of a run: a stage and its config; `iteration` counts from 1, 0 is before the first."""

    stage: str
    config: Any
    iteration: int = 0


def plan(config: RunConfig) -> list[Step]:
    """List the stages of a run in order.

    Raises:
        GtrTurboError: --set names no such stage or option, or --teacher does not go with the method.
    """
    if config.method == "opd" and not config.teacher:
        # Without the environment's reward a checkpoint never leaves its own merge: there would be nothing to learn.
        raise GtrTurboError("--method opd distils a teacher from outside, and none is given.", "add: --teacher CHECKPOINT")
    if config.teacher and config.method not in GIVEN:
        does = "merges its own" if config.method in MERGED else "has no"
        raise GtrTurboError(
            f"--method {config.method} {does} teacher.", f"leave out --teacher, or use --method {', '.join(GIVEN)}."
        )
    if config.eval_teachers and config.method not in MERGED:
        raise GtrTurboError(f"--method {config.method} merges no teachers to evaluate.", "leave out --eval-teachers.")
    if config.merge_every > 1 and config.method not in MERGED:
        raise GtrTurboError(f"--method {config.method} merges no teachers.", "leave out --merge-every.")
    if config.eval_teachers and not config.eval_every:
        raise GtrTurboError(
            "--eval-teachers goes with the student's evaluations, and there are none on the way.", "add: --eval-every 1"
        )
    return _Plan(config).steps()


class _Plan:
    """Settings of a run, and the names of its artifacts."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.tiny = config.model == "tiny"
        self.env = (*(TINY_ENV if self.tiny and not _has_image(config.env) else ()), *config.env)
        self.chosen = _chosen(config.set)
        self.first = config.start or self.path("checkpoints", 0)

    def path(self, folder: str, k: int) -> Path:
        return self.config.out / folder / f"{k:04d}"

    def checkpoint(self, k: int) -> Path:
        return self.path("checkpoints", k) if k else self.first

    def steps(self) -> list[Step]:
        steps = [] if self.config.start else self.warm_start()
        steps.append(self.evaluation(0))
        for k in range(self.config.iterations):
            steps += self.iteration(k)
            every, reached = self.config.eval_every, k + 1
            if reached == self.config.iterations or (every and reached % every == 0):
                steps.append(self.evaluation(reached))
        return steps

    def warm_start(self) -> list[Step]:
        """Lay out init and sft. The tiny model starts from random weights, so its adapter comes after sft, not before."""
        first, demos, warm = self.config.out / "init", self.config.out / "expert", self.path("checkpoints", 0)
        late = self.tiny and self.config.lora_rank
        learned = self.config.out / "sft" if late else warm
        rank = 0 if late else self.config.lora_rank
        steps = [
            self.step("init", 0, out=first, model=self.config.model, lora_rank=rank),
            self.step("rollout", 0, name=EXPERT, out=demos, expert=True, task=self.config.task, env=self.env),
            self.step("sft", 0, out=learned, checkpoint=first, data=(demos,)),
        ]
        if late:
            adapter = {"model": str(learned), "lora_rank": self.config.lora_rank}
            steps.append(self.step("init", 0, name=ADAPTER, out=warm, **adapter))
        return steps

    def iteration(self, k: int) -> list[Step]:
        """Lay out one update: teacher, turns, guidance, step."""
        turns = self.path("rollouts", k)
        rollout = self.step(
            "rollout",
            k + 1,
            out=turns,
            checkpoint=self.checkpoint(k),
            task=self.config.task,
            env=self.env,
            episodes=self.config.episodes,
        )
        update: dict[str, Any] = {"out": self.path("checkpoints", k + 1), "checkpoint": self.checkpoint(k), "rollouts": turns}
        if self.config.method == "ppo":
            return [rollout, self.step("ppo-step", k + 1, **update)]
        guidance, step = self.guidance(k, turns), self.step("ppo-step", k + 1, **update, **self.guided(k))
        _require_fitting_guidance(guidance.config, step.config, "--set distill.top-logprobs=64")
        return [*self.teacher(k), *self.teacher_evaluation(k), rollout, guidance, step]

    def merges(self, k: int) -> bool:
        """Tell whether a teacher is merged before update k: 0, then every so many updates (the paper's merge interval)."""
        return self.config.method in MERGED and k % self.config.merge_every == 0

    def teacher(self, k: int) -> list[Step]:
        """Merge the run's own checkpoints, those that the interval counts, where it is time to."""
        if not self.merges(k):
            return []
        every = self.config.merge_every
        checkpoints = tuple(self.checkpoint(i) for i in range(every, k + 1, every))
        merged = {"out": self.path("teachers", k), "base": self.first, "checkpoints": checkpoints}
        # What was measured of older checkpoints is not measured again.
        return [self.step("merge", k + 1, **merged, cache=self.config.out / "thresholds")]

    def teacher_evaluation(self, k: int) -> list[Step]:
        """Evaluate a teacher whose newest student was evaluated. That of no checkpoints is the first student itself."""
        every = self.config.eval_every
        wanted = self.config.eval_teachers and self.merges(k) and k and every and k % every == 0
        return [self.evaluation(k, "teacher-evals", self.path("teachers", k), k + 1)] if wanted else []

    def guidance(self, k: int, turns: Path) -> Step:
        mode = "thoughts" if self.config.method in ("gtr", "turbo-sft") else "kl"
        values: dict[str, Any] = {"out": self.path("guidance", k), "rollouts": turns, "mode": mode}
        if self.config.method == "gtr" and not self.config.teacher:
            return self.step("distill", k + 1, **values, expert=True)
        return self.step("distill", k + 1, **values, teacher=self.config.teacher or self.own_teacher(k))

    def own_teacher(self, k: int) -> Path:
        """Name the checkpoint that teaches update k: the last teacher that was merged, or the first checkpoint throughout."""
        return self.first if self.config.method == "static-kl" else self.path("teachers", k - k % self.config.merge_every)

    def guided(self, k: int) -> dict[str, Any]:
        """What ppo-step is guided by: the newest scores, or all demos since the start of the run (GTR's DAgger set)."""
        if self.config.method in ("gtr", "turbo-sft"):
            return {"demos": tuple(self.path("guidance", i) for i in range(k + 1))}
        alone = {"environment_coef": 0.0} if self.config.method == "opd" else {}
        return {"scores": self.path("guidance", k), **alone}

    def evaluation(self, k: int, folder: str = "evals", checkpoint: Path | None = None, iteration: int | None = None) -> Step:
        return self.step(
            "eval",
            k if iteration is None else iteration,
            out=self.path(folder, k),
            checkpoint=checkpoint or self.checkpoint(k),
            task=self.config.task,
            env=(*self.env, *self.config.eval_env),
            episodes=self.config.eval_episodes,
        )

    def step(self, stage: str, k: int, *, name: str = "", **values: Any) -> Step:
        """Make one step: what the plan fixes, under the preset of the tiny model, under the user's --set."""
        kind = STAGES[stage][0]
        known = {field.name for field in fields(kind)}
        common: dict[str, Any] = {"overwrite": self.config.overwrite}
        if stage != "merge":  # Which holds no model, and draws nothing unless asked to.
            common["device"] = self.config.device
        if stage not in ("eval", "merge"):  # All evaluations of all runs share their deals.
            common["seed"] = seed_for(self.config.seed, name or stage, k) % 2**31
        # The paper's cosine falls over the whole run; the tiny model's learning rate stays.
        preset = self.tiny_settings(name or stage) if self.tiny else {"schedule_updates": self.config.iterations}
        settings = {key: value for key, value in (common | preset).items() if key in known}
        chosen = self.chosen.get(name or stage, {})
        return Step(stage, build(kind, settings | values | chosen), k)

    def tiny_settings(self, stage: str) -> dict[str, Any]:
        """Return the tiny model's settings of a stage, for the task that is played."""
        task = self.config.task.lower().removeprefix("gtrturbo/").removesuffix("-v0")
        return TINY_SETTINGS.get(stage, {}) | TINY_TASK_SETTINGS.get(task, {}).get(stage, {})


def _require_fitting_guidance(guidance: DistillConfig, update: Any, option: str) -> None:
    """Refuse before any work an update that needs more of the teacher than distill keeps, or a loss that is none."""
    # Code of the user's own is loaded by the stage that it works in.
    if not isinstance(update, PpoStepConfig) or not update.scores or is_outside(update.kl_estimator):
        return
    estimator = find("KL estimator", update.kl_estimator, ESTIMATORS)
    if update.kl_placement == "loss":
        require_loss(update.kl_estimator, estimator)
    if estimator.distributions and not guidance.top_logprobs:
        raise GtrTurboError(
            f"--kl-estimator {update.kl_estimator} needs the teacher's most likely tokens, and distill keeps none.",
            f"add: {option}",
        )


def _has_image(env: tuple[str, ...]) -> bool:
    return any(option.startswith("image=") for option in env)


def _chosen(settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Sort STAGE.OPTION=VALUE by stage; a repeated option collects a list, or counts as last given."""
    chosen: dict[str, dict[str, Any]] = {}
    for setting in settings:
        stage, dot, rest = setting.partition(".")
        name, equals, value = rest.partition("=")
        if stage not in (*STAGES, EXPERT, ADAPTER) or not dot or not equals:
            stages = ", ".join((*STAGES, EXPERT, ADAPTER))
            raise GtrTurboError(
                f"--set {setting} is not STAGE.OPTION=VALUE.",
                f"stages: {stages}; expert is the rollout for sft, adapter the tiny model's LoRA",
            )
        _collect(chosen.setdefault(stage, {}), _settable(stage, name, told=f"--set {stage}.{name}", decided=BY_RUN), value)
    return chosen


def _settable(stage: str, name: str, *, told: str, decided: str) -> Field:
    """Return an option that a user may set in a stage that something else runs.

    `told` is what the user wrote, `decided` says why what the stage reads and writes is not theirs to set.

    Raises:
        GtrTurboError: there is none of that name, or it says what the stage reads and writes.
    """
    kind = STAGES[_command_of(stage)][0]
    known = {field.name: field for field in fields(kind)}
    field = known.get(name.replace("-", "_"))
    if field is None:
        raise GtrTurboError(f"{told}: {stage} has no such option.", f"see: gtrturbo {_command_of(stage)} --help")
    if field.name == "out" or field.roles & {Role.INPUT, Role.POSITIONAL}:
        raise GtrTurboError(f"{told} cannot be set: {decided}.")
    return field


def _command_of(stage: str) -> str:
    return {EXPERT: "rollout", ADAPTER: "init"}.get(stage, stage)


def _collect(values: dict[str, Any], field: Field, value: str) -> None:
    values[field.name] = (*values.get(field.name, ()), value) if field.is_list else value


def run(config: RunConfig, *, report: Callable[[Step, Result, float], None] | None = None) -> list[Result]:
    """Execute a plan step by step; `report` is called after each with its result and the seconds that it took.

    With `isolate` each stage is a process of its own. What `keep_teachers` and `keep_optimizers` leave over is pruned as soon as
    no later step reads it.
    """
    steps, results = plan(config), []
    _check_isolation(config)
    if world().first:
        record_run(config, replace=False)
    due = schedule([step.config for step in steps], keep_teachers=config.keep_teachers, keep_optimizers=config.keep_optimizers)
    with caching():
        for position, step in enumerate(steps):
            started = time.monotonic()
            results.append(execute_alone(step) if config.isolate else execute(step.config))
            if report:
                report(step, results[-1], time.monotonic() - started)
            for old in due.get(position, []) if world().first else []:
                prune(old.out, leftovers(old), remake=command(Step(stage_of(old), replace(old, overwrite=True))))
    if world().first:
        record_run(config, replace=True)  # By now all that is there is known to be of these settings.
    return results


def _check_isolation(config: RunConfig) -> None:
    if config.isolate and world().size > 1:
        raise GtrTurboError("--isolate starts processes of its own, not torchrun's.", "leave one of the two out.")


def execute_alone(step: Step) -> Result:
    """Run a step as a process of its own, unless its artifact is there already. Its messages go to our stderr.

    Raises:
        GtrTurboError: the process failed (it said why itself) or was killed.
    """
    config = with_base(step.config) if isinstance(step.config, MergeConfig) else step.config
    if config.overwrite or finished(config.out, provenance(config)) is None:
        words = shlex.split(command(step))
        code = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
            raise GtrTurboError(f"{step.stage} of iteration {step.iteration} {how}.", f"run it alone with: {shlex.join(words)}")
    result = finished(config.out, provenance(config))
    if result is None:
        raise GtrTurboError(f"{step.stage} left no {config.out}.", f"run it alone with: {command(step)}")
    return result


def shell(steps: list[Step], *, notes: Sequence[str] = ()) -> str:
    """Print a plan as a shell script that gives the same artifacts, with notes as comments at its top."""
    comments = [f"# {note}" for note in notes]
    return "\n".join(["#!/usr/bin/env bash", *comments, "set -euo pipefail", *(command(step) for step in steps), ""])


def command(step: Step) -> str:
    """Write one step as a command line: every option that differs from its default."""
    words = ["gtrturbo", step.stage]
    positional: list[str] = []
    for field in fields(type(step.config)):
        value = getattr(step.config, field.name)
        if value == field.default:
            continue
        if Role.POSITIONAL in field.roles:
            positional += map(str, value)
        elif isinstance(value, bool):
            words.append(field.option if value else field.option.replace("--", "--no-", 1))
        else:
            for item in value if isinstance(value, tuple) else (value,):
                words += [field.option, str(item)]
    return shlex.join([*words, *positional])


def distill(config: DistillConfig) -> Result:
    """Annotate turns; with --student go on to the weights, with the guidance kept beside them as OUT.guidance."""
    if config.student is None:
        return execute(config)
    guidance = replace(config, out=config.out.with_name(config.out.name + ".guidance"), student=None, update=())
    update = _update(config, guidance.out)  # Before the work: a mistake in --update is found at once.
    _require_fitting_guidance(guidance, update, "--top-logprobs 64")
    execute(guidance)
    return execute(update)


def _update(config: DistillConfig, guidance: Path) -> SftConfig | PpoStepConfig:
    """What --student runs: `sft` on the demos, or `ppo-step` on the scores with the environment's reward off."""
    common = {"out": config.out, "checkpoint": config.student, "overwrite": config.overwrite, "seed": config.seed}
    common |= {"device": config.device, "dtype": config.dtype}
    chosen: dict[str, Any] = {}
    for setting in config.update:
        name, equals, value = setting.partition("=")
        if not equals:
            raise GtrTurboError(f"--update {setting} is not KEY=VALUE.", "for example: --update learning-rate=2e-4")
        field = _settable("sft" if config.mode == "thoughts" else "ppo-step", name, told=f"--update {name}", decided=BY_DISTILL)
        _collect(chosen, field, value)
    if config.mode == "thoughts":
        return build(SftConfig, common | {"data": (guidance,)} | chosen)
    return build(PpoStepConfig, common | {"rollouts": config.rollouts, "scores": guidance, "environment_coef": 0.0} | chosen)
