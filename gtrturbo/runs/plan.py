"""The algorithm at a glance: a run is a list of stages, each a command of its own.

    for k in range(iterations):
        teacher         = merge(base=checkpoint[0], checkpoints=checkpoint[1:k+1])
        turns           = rollout(checkpoint[k])
        guidance        = distill(teacher, turns)
        checkpoint[k+1] = ppo_step(checkpoint[k], turns, guidance)

`plan` touches no disk, but to read files of the user's own code. `execute.run` executes it and `script.shell` prints
it, and both give the same artifacts. A stage reads all that it works on from disk: what `run` keeps in memory between stages is
only what reading it again would give. A stage whose artifact is there already is skipped, so a run that was killed goes on where
it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gtrturbo.config import RolloutConfig, RunConfig
from gtrturbo.config.addresses import served_model
from gtrturbo.config.building import build
from gtrturbo.config.choices import FULL, GAE, K2, OUTCOME
from gtrturbo.config.fields import fields
from gtrturbo.config.games import has_tiny_image, is_game
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import CORRECT, find_mode
from gtrturbo.plugins import is_outside, names_code
from gtrturbo.runs.fitting import require_distributions, require_groups, require_guidance
from gtrturbo.runs.method import Method, teacher_of
from gtrturbo.runs.methods import check_options, given_teachers, method_of
from gtrturbo.runs.names import require_merges, require_names
from gtrturbo.runs.overrides import ADAPTER, EXPERT, WARM_START, overrides, require_meant
from gtrturbo.runs.presets import PRESETS
from gtrturbo.stages import STAGES
from gtrturbo.stages.beforehand import require_settings
from gtrturbo.stages.idle import idle_options, require_effect
from gtrturbo.store.ids import seed_for
from gtrturbo.store.names import LEDGER

MODES = {"logprobs": "kl", "distributions": "kl", "thoughts": "thoughts"}


@dataclass(frozen=True)
class Step:
    """One command of a run: a stage and its config; `iteration` counts from 1, 0 is before the first."""

    stage: str
    config: Any
    iteration: int = 0


def plan(config: RunConfig) -> list[Step]:
    """List the stages of a run in order.

    Raises:
        GtrTurboError: there is no such method, --set names no such stage or option, --teacher does not go with the method, or
            a stage would not find or could not use what it is to work with.
    """
    method = method_of(config.method)
    check_options(method, config)
    run = _Plan(config, method)
    steps = [] if config.start else run.warm_start()
    steps += run.evaluate(0)
    for k in range(config.iterations):
        steps += run.rollout(k) + run.merge(k) if run.gated else run.merge(k) + run.rollout(k)
        steps += run.distill(k)
        steps += run.ppo_step(k)
        steps += run.evaluate(k + 1)
    run.require_stages()
    require_meant(run.chosen, run.named)
    run.require_parts()
    asked = [step.config for step in steps if step.stage == "distill"]
    require_distributions(config, method, asked)
    for step in steps:
        require_settings(step.config)
    require_names([step.config for step in steps])
    if "merge" in run.chosen:
        require_merges([step.config for step in steps if step.stage == "merge"], gated=run.gated)
    updates = [step.config for step in steps if step.stage == "ppo-step"]
    require_guidance(config, asked, updates)
    require_groups([step.config for step in steps if step.stage == "rollout" and step.iteration], updates)
    return steps


def episodes_by_rollout(steps: Sequence[Step]) -> dict[Path, int]:
    """Count the episodes of each rollout of a plan, by the folder that it writes."""
    return {step.config.out: step.config.episodes for step in steps if isinstance(step.config, RolloutConfig)}


class _Plan:
    """Settings of a run, the names of its artifacts, and its steps."""

    def __init__(self, config: RunConfig, method: Method) -> None:
        self.config, self.method = config, method
        self.teacher = teacher_of(method, given=config.teacher is not None)
        self.gated = method.refresh == "ahead"
        self.preset = PRESETS.get(config.model)
        self.env = self.preset.env_with(config.env) if self.preset and has_tiny_image(config.task) else config.env
        self.chosen = overrides(config.set)
        self.first = config.start or self.path("checkpoints", 0)
        self.named: set[str] = set()
        self.parts: dict[tuple[str, str], Any] = {}

    def path(self, folder: str, k: int) -> Path:
        return self.config.out / folder / f"{k:04d}"

    def checkpoint(self, k: int) -> Path:
        return self.path("checkpoints", k) if k else self.first

    def warm_start(self) -> list[Step]:
        """Lay out init and sft. A built-in model starts from random weights, so its adapter comes after sft, not before."""
        born, demos, warm = self.config.out / "init", self.config.out / "expert", self.checkpoint(0)
        late = self.preset and self.config.lora_rank
        learned = self.config.out / "sft" if late else warm
        steps = [
            self.step(
                "init", 0, out=born, model=self.config.model, lora_rank=0 if late else self.config.lora_rank, **self.texts()
            ),
            self.step("rollout", 0, name=EXPERT, out=demos, expert=True, task=self.config.task, env=self.env),
            self.step("sft", 0, out=learned, checkpoint=born, data=(demos,)),
        ]
        if late:
            rank = self.config.lora_rank
            steps.append(self.step("init", 0, name=ADAPTER, out=warm, model=str(learned), lora_rank=rank))
        return steps

    def texts(self) -> dict[str, Any]:
        """Name the task whose words the tokenizer of a built-in model is made of; the games share one."""
        return {"task": self.config.task, "env": self.env} if self.preset and not is_game(self.config.task) else {}

    def taken(self, k: int) -> int:
        """Number the update at which the teacher of update k was made: the last of the interval, or the first of all."""
        return 0 if self.method.refresh == "never" else k - k % self.config.merge_every

    def merge(self, k: int) -> list[Step]:
        """Merge the checkpoints that the interval counts, where it is time to; of none yet, a merge is the first checkpoint."""
        if self.teacher != "merged" or self.taken(k) != k:
            return []
        every = self.config.merge_every
        merged: dict[str, Any] = {
            "base": self.first,
            "checkpoints": tuple(self.checkpoint(i) for i in range(every, k + 1, every)),
        }
        if self.gated:
            merged["ahead"] = tuple(self.path("rollouts", i) for i in range(0, k + 1, every))
        # What was measured of older checkpoints is not measured again.
        step = self.step("merge", k + 1, out=self.path("teachers", k), **merged, cache=self.config.out / "thresholds")
        if not step.config.checkpoints:  # Nothing is added to a user's sums, which begin with the first.
            step = replace(step, config=replace(step.config, state=None))
        return [step, *self.evaluate_teacher(k)]

    def rollout(self, k: int) -> list[Step]:
        size = self.config.group_size or self.method.group_size
        played = {"task": self.config.task, "env": self.env, "episodes": self.config.episodes, "group_size": size}
        return [self.step("rollout", k + 1, out=self.path("rollouts", k), checkpoint=self.checkpoint(k), **played)]

    def distill(self, k: int) -> list[Step]:
        """Let the teacher annotate the turns."""
        if self.teacher == "none":
            return []
        teachers = {
            "merged": self.path("teachers", self.taken(k)),
            "newest": self.checkpoint(self.taken(k)),
            "static": self.first,
            "given": self.config.teacher,
        }
        who: dict[str, Any] = {"expert": True} if self.teacher == "expert" else {"teacher": teachers[self.teacher]}
        how: dict[str, Any] = {"mode": MODES[self.method.annotation], "top_logprobs": self.method.top_logprobs}
        if hints := self.config.hints or self.method.hints:
            how["hints"] = hints
        if self.teacher == "given":
            who, how = who | self.given(), how | self.asked()
        steps = [self.annotated(k, self.path("guidance", k), **who, **how)]
        if self.method.beside == "imitation":
            beside = {name: value for name, value in how.items() if name == "hints"}
            steps.append(self.annotated(k, self.demos(k), **who, **beside, mode=MODES["thoughts"]))
        return steps

    def annotated(self, k: int, out: Path, **values: Any) -> Step:
        if self.needs_task(values) and is_outside(self.config.task):
            values["task"] = self.config.task  # Code is loaded because the user names it, not because an artifact does.
        return self.step("distill", k + 1, out=out, rollouts=self.path("rollouts", k), **values)

    def needs_task(self, values: Mapping[str, Any]) -> bool:
        """Tell whether a teacher has to know the task: for demos, for hints, and where it is code, told all of a turn."""
        chosen = self.chosen_of("distill", values)
        hints = {*values.get("hints", ()), *chosen.get("hints", ())}
        writes = {find_mode(mode).writes for mode in (values["mode"], chosen.get("mode", values["mode"]))}
        code = self.teacher == "given" and any(map(names_code, given_teachers(self.config)))
        return "demos" in writes or bool(hints - {OUTCOME}) or code

    def demos(self, k: int) -> Path:
        return self.path("demos" if self.method.beside == "imitation" else "guidance", k)

    def given(self) -> dict[str, Any]:
        """Say what goes with teachers from outside: further ones, and their weights."""
        return {"more_teachers": self.config.more_teachers, "teacher_weights": self.config.teacher_weights}

    def asked(self) -> dict[str, Any]:
        """Say how a model on a server is asked, which corrects where thoughts are imitated, and what may be paid in the run."""
        names = ("address", "prices", "max_calls", "max_cost", "answers")
        told = {name: getattr(self.config, name) for name in names}
        if not any(served_model(each) is not None for each in given_teachers(self.config)):
            return {}
        return told | {"mode": CORRECT, "ledger": self.config.out / LEDGER}

    def ppo_step(self, k: int) -> list[Step]:
        update = {"checkpoint": self.checkpoint(k), "rollouts": self.path("rollouts", k), **self.guided(k)}
        return [self.step("ppo-step", k + 1, out=self.path("checkpoints", k + 1), **update)]

    def guided(self, k: int) -> dict[str, Any]:
        """Say what enters the update: the newest scores, or all demos since the start of the run (GTR's DAgger set)."""
        method = self.method
        values: dict[str, Any] = {"environment_coef": method.environment}
        if method.credit != GAE:
            values["credit"] = method.credit
        if method.gamma is not None:
            values["gamma"] = method.gamma
        if "imitation" in (method.guidance, method.beside):
            values["demos"] = tuple(self.demos(i) for i in range(k + 1))
        if method.guidance not in ("none", "imitation"):
            values |= {"scores": self.path("guidance", k), "kl_placement": method.guidance}
        if method.annotation == "distributions":
            values["kl_estimator"] = FULL
        elif method.guidance == "loss":
            values["kl_estimator"] = K2  # Of the estimates from one token alone the one whose gradient is the KL's.
        return values

    def evaluate(self, k: int) -> list[Step]:
        """Evaluate a checkpoint at the start, at the end, and every so often."""
        every, last = self.config.eval_every, self.config.iterations
        wanted = k in (0, last) or (every and k % every == 0)
        return [self.evaluation(k, "evals", self.checkpoint(k), iteration=k)] if wanted else []

    def evaluate_teacher(self, k: int) -> list[Step]:
        """Evaluate a teacher whose newest student was evaluated. That of no checkpoints is the first student itself."""
        every = self.config.eval_every
        wanted = self.config.eval_teachers and k and every and k % every == 0
        return [self.evaluation(k, "teacher-evals", self.path("teachers", k), iteration=k + 1)] if wanted else []

    def evaluation(self, k: int, folder: str, checkpoint: Path, *, iteration: int) -> Step:
        env = (*self.env, *self.config.eval_env)
        played = {"task": self.config.task, "env": env, "episodes": self.config.eval_episodes}
        return self.step("eval", iteration, out=self.path(folder, k), checkpoint=checkpoint, **played)

    def step(self, stage: str, k: int, *, name: str = "", **values: Any) -> Step:
        """Make one step: what the plan fixes, over the preset of a built-in model, under the user's --set."""
        kind, name = STAGES[stage].config, name or stage
        self.named.add(name)
        common: dict[str, Any] = {
            "overwrite": self.config.overwrite,
            "log": self.config.log,
            "verify_inputs": self.config.verify_inputs,
        }
        if stage != "merge":  # Which holds no model, and draws nothing unless asked to.
            common["device"] = self.config.device
        if stage not in ("eval", "merge"):  # All evaluations of all runs share their deals.
            common["seed"] = seed_for(self.config.seed, name, k) % 2**31
        # The paper's cosine falls over the whole run; a built-in model's learning rate stays.
        whole = {"schedule_updates": self.config.iterations}
        preset = self.preset.settings(name, self.config.task) if self.preset else whole
        if stage == "distill" and values.get("address"):
            preset = {}  # What a built-in model was measured with says nothing of a model on a server.
        known = {field.name for field in fields(kind)}
        settings = {key: value for key, value in (common | preset).items() if key in known} | values
        chosen = self.chosen_of(name, values)
        idle = idle_options(build(kind, settings | chosen))  # What a preset or a method says for others.
        kept = {key: value for key, value in (settings | chosen).items() if key not in idle}
        for option, value in chosen.items():
            without = build(kind, kept | {option: value}) if option in idle else None
            self.parts[name, option] = self.parts.get((name, option), without) and without
        return Step(stage, build(kind, kept), k)

    def chosen_of(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the user sets of a step. Of two distills of an update a mode is of the one that writes what it does, and a
        server of the one that is asked in words."""
        chosen = dict(self.chosen.get(name, {}))
        if name != "distill" or self.method.beside == "none":
            return chosen
        writes = find_mode(values["mode"]).writes
        if "mode" in chosen and find_mode(chosen["mode"]).writes != writes:
            del chosen["mode"]
        if "engine" in chosen and writes == "scores":
            del chosen["engine"]
        return chosen

    def require_parts(self) -> None:
        """Refuse options that have no part in any step that has their name: `parts` holds such a step for each, or None."""
        for config in self.parts.values():
            if config is not None:
                require_effect(config)

    def require_stages(self) -> None:
        """Refuse settings of stages that the run has not and never may have, and a number of episodes beside a panel."""
        if self.chosen.get("eval", {}).get("panel") and self.config.eval_episodes != RunConfig.eval_episodes:
            raise GtrTurboError("--eval-episodes is for deals, and --set eval.panel has its own.", "leave out --eval-episodes.")
        for stage in self.chosen:  # Of no iterations nobody knows what they would be.
            if stage not in self.named and (self.config.iterations or stage in WARM_START):
                has = ", ".join(sorted(self.named))
                raise GtrTurboError(f"--set {stage}.… is of a stage that this run has not.", f"leave it out; it has {has}.")
