"""Mutations: every file of every kind of artifact is damaged in every way, and given to every command that reads it.

A damaged file may be refused, or make no difference because it is not used. It may never be accepted where it is used, nor end in
a traceback or without an end, nor leave anything behind. Half of what is wrong by itself is sealed again with a new hash.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from campaign.cases import Case, FoundError, Verdict
from campaign.damage import Inapplicable, Mutation
from campaign.forked import Ended, forked
from campaign.mutators import mutations_for
from campaign.prepared import PLAY, SMALL, UPDATE, Prepared
from campaign.terminal import inspect, last
from campaign.trees import contents

CASES = 2400
PATIENCE = 25.0
ARTIFACT = "artifact"
# What names ids, and so differs where inputs differ; timing differs always.
NAMING_IDS = {"stage.json", "README.md"}
INSTEAD = {"folder", "pipe", "dangling link", "link outside", "link to itself", "link to zeros"}
PLAY_ONCE = PLAY.replace("--episodes 3", "--episodes 1")
LOOKS = {"show": "show artifact", "check": "show artifact --check"}
MODEL = {
    "sft": "sft {expert} --checkpoint artifact --out out --steps 1 --batch-size 2",
    "rollout": f"rollout --checkpoint artifact --out out {PLAY_ONCE}",
    "eval": f"eval --checkpoint artifact --out out {PLAY_ONCE}",
    "distill": "distill --rollouts {turns} --teacher artifact --out out",
    "thoughts": "distill --rollouts {turns} --teacher artifact --mode thoughts --out out --max-new-tokens 40",
    "init": "init --model artifact --out out --lora-rank 2",
}
TURNS = {
    "distill": "distill --rollouts artifact --teacher {init} --out out",
    "expert": "distill --rollouts artifact --expert --mode thoughts --out out",
    "sft": "sft artifact --checkpoint {warm} --out out --steps 2 --batch-size 2",
    "show turn": "show artifact --turn 0",
    "show episode": "show artifact --episode 1",
}
SCORED = f"ppo-step --checkpoint {{warm}} --rollouts {{turns}} --scores artifact --out out {UPDATE}"
RUN = f"run --out artifact --method turbo-kl --start {{warm}} --iterations 2 {SMALL}"


@dataclass(frozen=True)
class Subject:
    """A prepared folder whose files are damaged.

    Attributes:
        source: name of the prepared folder.
        readers: commands, by name; the folder stands at `place` beside their output.
        beside: other prepared folders that are copied beside it, under their names.
        without: parts of the folder that are removed first, so that there is work left.
        files: how many files are damaged, drawn; all if None.
    """

    source: str
    readers: dict[str, str]
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    files: int | None = None
    place: str = ARTIFACT
    share: float = 1.0


SUBJECTS = {
    "full": Subject(
        "warm",
        MODEL | LOOKS | {
            "ppo-step": f"ppo-step --checkpoint artifact --rollouts {{turns}} --out out {UPDATE}",
            "merge": "merge artifact {ppo} --base {init} --out out",
            "merge base": "merge {ppo} --base artifact --out out",
        },
    ),
    "trained": Subject(
        "ppo",
        LOOKS | {
            "ppo-step": f"ppo-step --checkpoint artifact --rollouts {{ppo_turns}} --out out {UPDATE}",
            "rollout": MODEL["rollout"],
            "merge": "merge {warm} artifact --base {init} --out out",
        },
    ),
    "adapter": Subject(
        "adapter_ppo",
        LOOKS | {
            "rollout": MODEL["rollout"],
            "sft": MODEL["sft"],
            "merge": "merge adapter2 artifact --out out",
            "merge rank": "merge adapter2 artifact --out out --rank 2",
            "distill": MODEL["distill"],
        },
        beside=("warm", "adapter2"),
    ),
    "turns": Subject(
        "turns", TURNS | LOOKS | {"ppo-step": f"ppo-step --checkpoint {{warm}} --rollouts artifact --out out {UPDATE}"}
    ),
    "expert": Subject("expert", {"sft": TURNS["sft"], "show turn": TURNS["show turn"]} | LOOKS, share=0.6),
    "scores": Subject(
        "scores",
        LOOKS | {
            "ppo-step": SCORED,
            "ppo-step full": f"{SCORED} --kl-estimator full",
            "show turn": "show {turns} --turn 0 --scores artifact",
        },
    ),
    "demos": Subject(
        "demos",
        LOOKS | {
            "sft": "sft artifact --checkpoint {warm} --out out --steps 2 --batch-size 2",
            "ppo-step": f"ppo-step --checkpoint {{warm}} --rollouts {{turns}} --demos artifact --out out {UPDATE}",
        },
    ),
    "evaluation": Subject("evaluation", LOOKS | {"show turn": TURNS["show turn"]}, share=0.6),
    "merged": Subject("merged", LOOKS | {"rollout": MODEL["rollout"], "distill": MODEL["distill"]}, share=0.4),
    "state": Subject("state", {"merge": "merge {warm} {ppo} --base {init} --out out --state artifact"}),
    "cache": Subject("cache", {"merge": "merge {warm} {ppo} --base {init} --out out --cache artifact"}, files=2),
    "run": Subject(
        "run",
        {"run": RUN, "show": LOOKS["show"], "compare": "compare artifact {other_run} --out out",
        "report": "report artifact --out out.html"},
        files=16,
    ),
    "unfinished run": Subject(
        "run", {"run": RUN}, without=("checkpoints/0002", "evals/0002", "guidance/0001", "teachers/0001"), files=12
    ),
    "rollout log": Subject(
        "rollout_log",
        {"rollout": f"rollout --out out --checkpoint {{warm}} {PLAY} --num-envs 1 --temperature 0.5"},
        place=".out.journal",
    ),
    "distill log": Subject(
        "distill_log", {"distill": "distill --out out --rollouts {turns} --expert --mode thoughts"}, place=".out.journal"
    ),
    "eval log": Subject("eval_log", {"eval": f"eval --out out --checkpoint {{warm}} {PLAY} --num-envs 1"}, place=".out.journal"),
}  # fmt: skip


@dataclass
class Result:
    """What a reader gives of a whole artifact: what it prints, and its files without those that name ids."""

    out: bytes
    tree: dict[str, str] = field(default_factory=dict)


class Mutations:
    """Makes the cases of all subjects, and draws as many as there is time for."""

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared, self.seed = prepared, seed
        self._whole: dict[tuple[str, str], Result] = {}

    def needs(self) -> tuple[str, ...]:
        sources = {subject.source for subject in SUBJECTS.values()}
        return tuple(sorted(sources | {"init", "warm", "expert", "turns", "ppo", "ppo_turns", "adapter2", "scores", "other_run"}))

    def cases(self) -> Iterator[Case]:
        """Draw cases, as many of each subject as its share of all mutations says."""
        found = [case for name in SUBJECTS for case in self._of(name)]
        draw = Random(f"{self.seed}/mutations")
        yield from draw.sample(found, min(CASES, len(found)))

    def _of(self, name: str) -> Iterator[Case]:
        subject, draw = SUBJECTS[name], Random(f"{self.seed}/{name}")
        for file in self._files(subject, draw):
            for mutation in mutations_for(Path(file).name, name):
                readers = list(subject.readers)
                for reader in draw.sample(readers, min(2, len(readers))):
                    if draw.random() <= subject.share:
                        yield self._case(name, file, mutation, reader, sealed=False)
                if mutation.breaks and not file.endswith("stage.json") and self._manifest(subject, file):
                    yield self._case(name, file, mutation, draw.choice(readers), sealed=True)

    def _files(self, subject: Subject, draw: Random) -> list[str]:
        folder = self.prepared.path(subject.source)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        files = [file for file in files if not any(file.startswith(f"{part}/") for part in subject.without)]
        pictures = [file for file in files if file.endswith(".png")]
        rest = [file for file in files if file not in pictures] + pictures[:1]
        return rest if subject.files is None else sorted(draw.sample(rest, min(subject.files, len(rest))))

    def _manifest(self, subject: Subject, file: str) -> str | None:
        """Return the manifest that seals a file, relative to the folder."""
        folder = self.prepared.path(subject.source)
        for place in [Path(file).parent, *Path(file).parent.parents]:
            manifest = folder / place / "stage.json"
            if manifest.is_file():
                inner = str(Path(file).relative_to(place))
                return str(place / "stage.json") if inner in json.loads(manifest.read_text())["files"] else None
        return None

    def _case(self, name: str, file: str, mutation: Mutation, reader: str, *, sealed: bool) -> Case:
        title = f"mutations/{name}/{file}/{mutation.name}/{reader}{'/sealed again' if sealed else ''}".replace(" ", "_")
        run = partial(self._run, name, file, mutation, reader, title, sealed)
        return Case(f"mutation of {name}", title, run)

    def _set_up(self, subject: Subject, folder: Path) -> Path:
        for name in subject.beside:
            shutil.copytree(self.prepared.path(name), folder / name, copy_function=_hard)
        place = folder / subject.place
        shutil.copytree(self.prepared.path(subject.source), place)
        for part in subject.without:
            shutil.rmtree(place / part)
        return place

    def _read(self, subject: Subject, reader: str, folder: Path) -> Ended:
        return forked(self.prepared.words(subject.readers[reader]), folder, patience=PATIENCE)

    def whole(self, name: str, reader: str, folder: Path) -> Result:
        """What the reader gives of the undamaged artifact."""
        key = name, reader
        if key not in self._whole:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._set_up(SUBJECTS[name], folder)
            ended = self._read(SUBJECTS[name], reader, folder)
            if ended.code:
                raise RuntimeError(f"{reader} fails on a whole {name}: {ended.said}")
            self._whole[key] = Result(ended.out, _without_ids(contents(folder)))
            shutil.rmtree(folder)
        return self._whole[key]

    def _run(self, name: str, file: str, mutation: Mutation, reader: str, title: str, sealed: bool, folder: Path) -> Verdict:
        from campaign.watching import Watch

        subject = SUBJECTS[name]
        whole = self.whole(name, reader, folder.with_name("whole"))
        place = self._set_up(subject, folder)
        manifest = self._manifest(subject, file)
        try:
            mutation.change(place / file, Random(f"{self.seed}/{title}"))
        except Inapplicable:
            return Verdict("same", "not applicable", events=0)
        if sealed and manifest:
            _seal(place / manifest, place / file)
        before = contents(folder)
        with Watch([place / file]) as watch:
            ended = self._read(subject, reader, folder)
        if ended.interrupted:
            raise FoundError("hang", "ended by Ctrl-C only")
        inspect(ended)
        if ended.code:
            return _refused(ended, before, contents(folder), finished=whole.tree)
        damaged = f"{subject.place}/{file}"
        same = ended.out == whole.out and _less(_without_ids(contents(folder)), damaged) == _less(whole.tree, damaged)
        return passed(
            mutation, reader, Path(file).name, opened=watch.opened, hashed=manifest is not None and not sealed, same=same
        )


def passed(mutation: Mutation, reader: str, file: str, *, opened: bool, hashed: bool, same: bool) -> Verdict:
    """Decide whether a reader that ended well accepted something wrong.

    What a manifest hashes must be refused where a stage reads it, and by --check in any case. `show` shows what is there. Seconds
    in timing.json belong to no id, and may be missing.
    """
    breaks = mutation.breaks and not (file == "timing.json" and mutation.name in INSTEAD)
    if hashed and (reader == "check" or (opened and not reader.startswith("show"))):
        raise FoundError("silent", f"its hash is another, and it was {'read' if opened else 'not even read'}")
    if not same and breaks and (opened or not reader.startswith("show")):
        raise FoundError("silent", "the result differs")
    if not same and hashed and not reader.startswith("show"):
        raise FoundError("silent", "the result differs from that of what the manifest names")
    return Verdict("same" if same else "accepted")


def _hard(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _seal(manifest: Path, file: Path) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if file.is_file() and not file.is_symlink():
        content["files"][str(file.relative_to(manifest.parent))] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_ids(tree: dict[str, str]) -> dict[str, str]:
    return {name: content for name, content in tree.items() if Path(name).name not in NAMING_IDS}


def _less(tree: dict[str, str], place: str) -> dict[str, str]:
    return {name: content for name, content in tree.items() if name != place}


def _refused(ended: Ended, before: dict[str, str], after: dict[str, str], *, finished: dict[str, str]) -> Verdict:
    """Look at what a refusal left: nothing, but the whole artifacts of a run's earlier stages."""
    more = [name for name in after if name not in before and name not in finished and Path(name).name not in NAMING_IDS]
    if more:
        raise FoundError("leftovers", f"{', '.join(sorted(more)[:3])} ({last(ended.said)})")
    if changed := sorted(name for name in before if after.get(name) != before[name]):
        raise FoundError("touched", f"{', '.join(changed[:3])} ({last(ended.said)})")
    return Verdict("refused", last(ended.said))
