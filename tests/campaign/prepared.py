"""Artifacts that cases read, each made once by the commands themselves, in forks: tiny models, two or three episodes."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from campaign.dying import die
from campaign.forked import forked

TASK = "--task numberline --env image=tiny --env horizon=2"
PLAY = f"{TASK} --episodes 3 --num-envs 2 --max-new-tokens 40"
UPDATE = "--epochs 1 --minibatch-size 8"
SMALL = (
    "--env horizon=2 --episodes 3 --eval-episodes 2 --eval-every 1 --device cpu --set rollout.max-new-tokens=40 "
    "--set eval.max-new-tokens=40 --set ppo-step.epochs=1 --set rollout.temperature=0.5"
)
WARM_START = (
    "--set expert.episodes=40 --set sft.steps=70 --set sft.stop-loss=0 --set sft.batch-size=16 --set sft.learning-rate=3e-3"
)

# By name: the command that makes it, with {name} for another one.
COMMANDS = {
    "init": "init --out init",
    "expert": f"rollout --out expert --expert {TASK} --episodes 40 --seed 7",
    "warm": "sft {expert} --out warm --checkpoint {init} --steps 70 --learning-rate 3e-3 --batch-size 16",
    "turns": f"rollout --out turns --checkpoint {{warm}} {PLAY} --temperature 0.5",
    "scores": "distill --out scores --rollouts {turns} --teacher {init} --top-logprobs 4",
    "demos": "distill --out demos --rollouts {turns} --expert --mode thoughts",
    "ppo": f"ppo-step --out ppo --checkpoint {{warm}} --rollouts {{turns}} --scores {{scores}} {UPDATE}",
    "ppo_turns": f"rollout --out ppo_turns --checkpoint {{ppo}} {PLAY} --temperature 0.5",
    "evaluation": f"eval --out evaluation --checkpoint {{warm}} {PLAY}",
    "adapter": "init --out adapter --model {warm} --lora-rank 4",
    "adapter2": "sft {expert} --out adapter2 --checkpoint {adapter} --steps 2 --batch-size 4 --learning-rate 1e-4",
    "adapter_turns": f"rollout --out adapter_turns --checkpoint {{adapter2}} {PLAY} --temperature 0.5",
    "adapter_ppo": f"ppo-step --out adapter_ppo --checkpoint {{adapter2}} --rollouts {{adapter_turns}} {UPDATE}",
    "merged": "merge {warm} {ppo} --out merged --base {init}",
    "run": f"run --out run --method turbo-kl --start {{warm}} --iterations 2 {SMALL}",
    "other_run": f"run --out other_run --method turbo-sft --start {{warm}} --iterations 1 {SMALL}",
    # Not artifacts by themselves: what a merge keeps beside, and what a killed stage leaves.
    "state": "merge {warm} --out merged_into_state --base {init} --state state",
    "cache": "merge {warm} {ppo} --out merged_with_cache --base {init} --cache cache",
}
# By name: the command that is killed at its third picture of an episode that follows a finished one, and what it leaves.
INTERRUPTED = {
    "rollout_log": (f"rollout --out out --checkpoint {{warm}} {PLAY} --num-envs 1 --temperature 0.5", ".out.journal"),
    "distill_log": ("distill --out out --rollouts {turns} --expert --mode thoughts", ".out.journal"),
    "eval_log": (f"eval --out out --checkpoint {{warm}} {PLAY} --num-envs 1", ".out.journal"),
}


class Prepared:
    """The folder of prepared artifacts; they are made when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name

    def words(self, command: str) -> list[str]:
        """Fill in the paths of prepared artifacts."""
        return command.format_map(_Paths(self)).split()

    def make(self, names: Iterable[str]) -> None:
        for name in names:
            if not self.path(name).exists():
                self.make(named_in(INTERRUPTED[name][0] if name in INTERRUPTED else COMMANDS[name]))
                self._interrupt(name) if name in INTERRUPTED else self._make(name)

    def _make(self, name: str) -> None:
        ended = forked(self.words(COMMANDS[name]), self.root, patience=300)
        if ended.code or not self.path(name).exists():
            raise RuntimeError(f"{name} could not be prepared: {ended.said}")

    def _interrupt(self, name: str) -> None:
        command, left = INTERRUPTED[name]
        folder = self.root / f"{name}.killed"
        folder.mkdir()
        ended = forked(self.words(command), folder, before=_after_two_entries, patience=300)
        if ended.code != -9 or not (folder / left).is_dir():
            raise RuntimeError(f"{name} was not killed in time ({ended.code}): {ended.said}")
        shutil.copytree(folder / left, self.path(name))


def _after_two_entries() -> None:
    """Die when a resume log has got its second entry."""
    from gtrturbo.store.resume_log import ResumeLog

    append, entries = ResumeLog.append, []

    def counted(self: ResumeLog, entry: object, *files: object) -> None:
        append(self, entry, *files)
        entries.append(entry)
        if len(entries) == 2:
            die()

    ResumeLog.append = counted  # type: ignore[method-assign]


class _Paths(dict[str, str]):
    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self.prepared = prepared

    def __missing__(self, name: str) -> str:
        return os.fspath(self.prepared.path(name))


def named_in(command: str) -> list[str]:
    found = _Names()
    command.format_map(found)
    return found.names


class _Names(dict[str, str]):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> str:
        self.names.append(name)
        return ""
