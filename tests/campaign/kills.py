"""Kills: every command is killed at every file operation, in the middle of writes and at random times, and then begun again.

The same command must then go on to the same bytes, leave nothing else behind, and an artifact must never be there in part.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from campaign import dying
from campaign.cases import Case, FoundError, Group, Verdict
from campaign.forked import Ended, forked
from campaign.prepared import PLAY, SMALL, TASK, UPDATE, WARM_START, Prepared, named_in
from campaign.terminal import inspect, last
from campaign.trees import contents, differences, signature

PROCESSES = 4  # that are killed one after another
LINKS = 80  # kills of one chain, at most


@dataclass(frozen=True)
class Victim:
    """A command that is killed: `copies` are prepared folders that it changes, by the name that they get beside its output.

    The numbers say how many kills of each sort it gets, drawn where there are more places: before file operations, in writes,
    where the disk is full, at moments, signals before operations; chains of kills, and kills of fresh processes.
    """

    command: str
    copies: tuple[tuple[str, str], ...] = ()
    operations: int = 50
    torn: int = 6
    full: int = 4
    moments: int = 4
    signals: int = 3
    chains: int = 0
    processes: int = 0


VICTIMS = {
    "init": Victim("init --out out"),
    "init-adapter": Victim("init --out out --model {warm} --lora-rank 4"),
    "sft": Victim("sft {expert} --out out --checkpoint {warm} --steps 2 --batch-size 4"),
    "rollout": Victim(f"rollout --out out --checkpoint {{warm}} {PLAY} --temperature 0.5", processes=2),
    "rollout-expert": Victim(f"rollout --out out --expert {TASK} --episodes 3"),
    "rollout-overwrite": Victim(
        f"rollout --out out --expert {TASK} --episodes 2 --overwrite", copies=(("expert", "out"),)
    ),
    "distill-scores": Victim("distill --out out --rollouts {turns} --teacher {init} --top-logprobs 4"),
    "distill-thoughts": Victim("distill --out out --rollouts {turns} --teacher {warm} --mode thoughts --max-new-tokens 40"),
    "ppo-step": Victim(f"ppo-step --out out --checkpoint {{warm}} --rollouts {{turns}} --scores {{scores}} {UPDATE}"),
    "merge": Victim("merge {warm} {ppo} --out out --base {init}"),
    "merge-adapters": Victim("merge {adapter2} {adapter_ppo} --out out"),
    "merge-new-state": Victim("merge {warm} {ppo} --out out --base {init} --state state", processes=2),
    "merge-old-state": Victim("merge {warm} {ppo} --out out --base {init} --state state", copies=(("state", "state"),)),
    "merge-cache": Victim("merge {warm} {ppo} --out out --base {init} --cache cache"),
    "eval": Victim(f"eval --out out --checkpoint {{warm}} {PLAY}", processes=2),
    "report": Victim("report {run} {other_run} --out out.html"),
    "compare": Victim("compare {run} {other_run} --out out"),
    "run-turbo-kl": Victim(
        f"run --out out --method turbo-kl --start {{warm}} --iterations 2 --keep-teachers 1 --keep-optimizers 1 {SMALL}",
        operations=24, chains=10, processes=4,
    ),
    "run-turbo-sft": Victim(
        f"run --out out --method turbo-sft --start {{warm}} --iterations 2 {SMALL}",
        operations=16, chains=8, processes=2,
    ),
    "run-from-nothing": Victim(
        f"run --out out --method turbo-kl --iterations 1 {SMALL} {WARM_START}",
        operations=4, torn=2, full=2, moments=2, signals=2, chains=3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """What the command leaves if nobody kills it, how many file operations it takes, and how long."""

    tree: dict[str, str]
    operations: int
    seconds: float
    sizes: tuple[int, ...]


class Kills:
    """Makes the cases of all victims."""

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared, self.seed = prepared, seed

    def groups(self) -> Iterator[Group]:
        for name, victim in VICTIMS.items():
            needs = [*named_in(victim.command), *(source for source, _ in victim.copies)]
            yield Group(f"kills/{name}", needs, partial(self._cases, name, victim))

    def _cases(self, name: str, victim: Victim) -> Iterator[Case]:
        whole = self.whole(name)
        draw = random.Random(f"{self.seed}/{name}")
        every = range(1, whole.operations + 1)
        chosen = sorted(draw.sample(every, min(victim.operations, len(every))))
        at = partial(dying.at_operation, act=dying.die)
        for number in chosen:
            yield self._case("kill at an operation", name, f"operation-{number}", lambda root, n=number: at(root, n))
        for number in sorted(draw.sample(every, min(victim.signals, len(every)))):
            for word, act in (("interrupt", dying.interrupt), ("terminate", dying.terminate)):
                yield self._case(f"{word} at an operation", name, f"{word}-{number}", partial(_at, number, act))
        for _ in range(victim.torn):
            size = draw.randrange(draw.choice(whole.sizes) + 1)
            yield self._case("kill in a write", name, f"torn-{size}", lambda root, s=size: dying.torn(s))
        for _ in range(victim.full):
            size = draw.randrange(draw.choice(whole.sizes) + 1)
            yield self._case("disk full", name, f"full-{size}", lambda root, s=size: dying.full(s))
        for _ in range(victim.moments):
            moment = round(draw.random(), 3)
            yield Case("kill at a moment", f"kills/{name}/moment-{moment}", partial(self._moment, name, moment))
        for number in range(victim.chains):
            yield Case("chain of kills", f"kills/{name}/chain-{number}", partial(self._chain, name, number))
        for number in range(victim.processes):
            yield Case("kill of a process", f"kills/{name}/process-{number}", partial(self._process, name, number))

    def _case(self, kind: str, name: str, detail: str, way: Callable[[Path], Callable[[], None]]) -> Case:
        return Case(kind, f"kills/{name}/{detail}", partial(self._once, name, way))

    @cache  # noqa: B019  One object for the whole campaign.
    def whole(self, name: str) -> Whole:
        folder = self.prepared.root.parent / "whole" / name
        told = self.prepared.root.parent / f"{name}.operations"
        self._copy(name, folder)
        ended = forked(self._words(name), folder, before=dying.counting(folder, told), patience=300)
        if ended.code:
            raise RuntimeError(f"{name} fails unkilled: {ended.said}")
        sizes = tuple(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Whole(contents(folder), int(told.read_text()), ended.seconds, sizes)

    def _words(self, name: str) -> list[str]:
        return self.prepared.words(VICTIMS[name].command)

    def _copy(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in VICTIMS[name].copies:
            shutil.copytree(self.prepared.path(source), folder / target, symlinks=True)

    def _once(self, name: str, way: Callable[[Path], Callable[[], None]], folder: Path) -> Verdict:
        self._copy(name, folder)
        inputs = signature(self.prepared.root)
        return self._judge(name, folder, forked(self._words(name), folder, before=way(folder)), inputs)

    def _moment(self, name: str, moment: float, folder: Path) -> Verdict:
        self._copy(name, folder)
        inputs = signature(self.prepared.root)
        ended = forked(self._words(name), folder, kill_after=moment * self.whole(name).seconds)
        return self._judge(name, folder, ended, inputs)

    def _judge(self, name: str, folder: Path, ended: Ended, inputs: dict[str, tuple[int, int]]) -> Verdict:
        """Look at what a disturbed command left, and let the same command go on."""
        if ended.code >= 0:
            inspect(ended)
        self._check_whole(name, folder)
        again = forked(self._words(name), folder)
        inspect(again)
        if again.code:
            raise FoundError("lost", f"{last(again.said)}")
        self._compare(name, folder, inputs)
        return Verdict("same", f"ended with {ended.code}", events=int(ended.code != 0))

    def _compare(self, name: str, folder: Path, inputs: dict[str, tuple[int, int]]) -> None:
        expected, found = self.whole(name).tree, contents(folder)
        if more := sorted(found.keys() - expected.keys()):
            raise FoundError("leftovers", ", ".join(more[:5]))
        if wrong := differences(found, expected):
            raise FoundError("different", ", ".join(wrong[:5]))
        if signature(self.prepared.root) != inputs:
            raise FoundError("touched", "an input was written to")

    def _check_whole(self, name: str, folder: Path) -> None:
        """Refuse an artifact that is there in part: whoever finds a manifest must find all of its files."""
        expected = self.whole(name).tree
        found = contents(folder)
        for manifest in (each for each in found if each.endswith("stage.json") and "/." not in f"/{each}"):
            place = manifest.removesuffix("stage.json")
            if found[manifest] != expected.get(manifest):
                continue  # What --overwrite is to replace.
            wanted = {each for each in expected if each.startswith(place)}
            if missing := sorted(
                each for each in wanted if found.get(each) != expected[each] and not each.endswith("pruned.json")
            ):
                raise FoundError("half", ", ".join(missing[:5]))

    def _chain(self, name: str, number: int, folder: Path) -> Verdict:
        """Kill again and again, each time after a random number of operations, until the command comes to its end."""
        self._copy(name, folder)
        inputs, draw = signature(self.prepared.root), random.Random(f"{self.seed}/{name}/{number}")
        killed = 0
        for _ in range(LINKS):
            after = int(2 ** draw.uniform(3, 9))
            ended = forked(self._words(name), folder, before=dying.at_operation(folder, after))
            if ended.code >= 0:
                inspect(ended)
                if ended.code:
                    raise FoundError("lost", f"after {killed} kills: {last(ended.said)}")
                break
            killed += 1
            self._check_whole(name, folder)
        else:
            inspect(forked(self._words(name), folder))
        self._compare(name, folder, inputs)
        return Verdict("same", f"{killed} kills", events=killed)

    def _process(self, name: str, number: int, folder: Path) -> Verdict:
        """Kill fresh processes, of a run with a process for each stage, and begin again at once; let a fork come to the end."""
        self._copy(name, folder)
        inputs, draw = signature(self.prepared.root), random.Random(f"{self.seed}/{name}/process/{number}")
        words = [*self._words(name), *(["--subprocess"] if name.startswith("run-") else [])]
        killed = 0
        for _ in range(PROCESSES):
            with (folder.parent / f"{folder.name}.said").open("w+b") as said:
                process = subprocess.Popen([sys.executable, "-m", "gtrturbo", *words], cwd=folder, stdout=said, stderr=said)
                try:
                    process.wait(draw.uniform(1, 12))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    killed += 1
                said.seek(0)
                inspect(Ended(max(process.returncode, 0), b"", said.read(), 0.0))
            self._check_whole(name, folder)
        verdict = self._judge(name, folder, Ended(-9, b"", b"", 0.0), inputs)
        return replace(verdict, events=killed)


def _at(number: int, act: Callable[[], None], root: Path) -> Callable[[], None]:
    return dying.at_operation(root, number, act)
