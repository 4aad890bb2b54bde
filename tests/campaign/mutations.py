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

from campaign.cases import Case, FoundError, Group, Verdict
from campaign.damage import ELSEWHERE, Inapplicable, Mutation
from campaign.forked import Ended, forked
from campaign.mutators import mutations_for
from campaign.prepared import Prepared, named_in
from campaign.subjects import SUBJECTS, Subject
from campaign.terminal import inspect, last
from campaign.trees import contents

PATIENCE = 25.0
# Demos are a set: in another order, sealed again, they are the same to all but the draw.
UNORDERED = ("demos.jsonl", "rows moved")
# What names ids, and so differs where inputs differ; timing differs always.
NAMING_IDS = {"stage.json", "README.md"}
INSTEAD = {"folder", "pipe", "dangling link", "link outside", "link to itself", "link to zeros"}


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

    def groups(self) -> Iterator[Group]:
        for name, subject in SUBJECTS.items():
            needs = [
                subject.source,
                *subject.beside,
                *(each for command in subject.readers.values() for each in named_in(command)),
            ]
            yield Group(f"mutations/{name}".replace(" ", "_"), needs, partial(self._drawn, name), partial(self._all, name))

    def _drawn(self, name: str) -> list[Case]:
        found = list(self._all(name, every=False))
        return Random(f"{self.seed}/{name}").sample(found, min(SUBJECTS[name].cases, len(found)))

    def _all(self, name: str, *, every: bool = True) -> Iterator[Case]:
        """Every mutation of every file, for `every` reader or for two; what is wrong by itself for another one, sealed again."""
        subject, draw = SUBJECTS[name], Random(f"{self.seed}/{name}")
        for file in self._files(subject, draw):
            for mutation in mutations_for(Path(file).name, name):
                readers = list(subject.readers)
                for reader in readers if every else draw.sample(readers, min(2, len(readers))):
                    yield self._case(name, file, mutation, reader, sealed=False)
                if mutation.is_sealed and not file.endswith("stage.json") and self._manifest(subject, file):
                    for reader in readers if every else [draw.choice(readers)]:
                        yield self._case(name, file, mutation, reader, sealed=True)

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
            _empty(folder)
            self._set_up(SUBJECTS[name], folder)
            ended = self._read(SUBJECTS[name], reader, folder)
            if ended.code:
                raise RuntimeError(f"{reader} fails on a whole {name}: {ended.said}")
            self._whole[key] = Result(ended.out, _without_ids(contents(folder)))
        return self._whole[key]

    def _run(self, name: str, file: str, mutation: Mutation, reader: str, title: str, sealed: bool, folder: Path) -> Verdict:
        from campaign.watching import Watch

        subject = SUBJECTS[name]
        folder = folder.with_name("case")  # One place for all: some outputs hold the full path of their base.
        whole = self.whole(name, reader, folder)
        _empty(folder)
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
        opened = watch.opened and mutation.name != "folder"  # Which whoever lists the artifact's files looks into.
        return passed(mutation, reader, Path(file).name, opened=opened, hashed=manifest is not None and not sealed, same=same)


def passed(mutation: Mutation, reader: str, file: str, *, opened: bool, hashed: bool, same: bool) -> Verdict:
    """Decide whether a reader that ended well accepted something wrong.

    What a manifest hashes must be refused where a stage reads it, and by --check in any case. `show` shows what is there. Seconds
    in timing.json belong to no id, and may be missing.
    """
    if reader.startswith("show") or (reader == "check" and not hashed):
        return Verdict("same" if same else "accepted")
    breaks = mutation.breaks and not (file == "timing.json" and mutation.name in INSTEAD) and (file, mutation.name) != UNORDERED
    if hashed and (reader == "check" or opened):
        raise FoundError("silent", f"its hash is another, and it was {'read' if opened else 'not even read'}")
    if not same and breaks:
        raise FoundError("silent", "the result differs")
    if not same and hashed:
        raise FoundError("silent", "the result differs from that of what the manifest names")
    return Verdict("same" if same else "accepted")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _hard(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _seal(manifest: Path, file: Path) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if file.is_file() and not file.is_symlink():
        content["files"][str(file.relative_to(manifest.parent))] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_ids(tree: dict[str, str]) -> dict[str, str]:
    return {name: content for name, content in tree.items() if Path(name).name not in (*NAMING_IDS, ELSEWHERE)}


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
