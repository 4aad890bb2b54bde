"""The campaign itself: prepare, work off the cases on some processes, tell the faults, write and print the table."""

import argparse
import gc
import importlib
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from campaign.cases import Case, FoundError, Group, Verdict
from campaign.kills import Kills
from campaign.mutations import Mutations
from campaign.options import Options
from campaign.prepared import Prepared
from campaign.server import Servers
from campaign.summary import Done, summary, write

KINDS = (Kills, Mutations, Options, Servers)
TOLD_EVERY = 250  # cases
RESULTS = Path(__file__).parents[2] / "runs" / "campaign"
STAGES = ("init", "sft", "rollout", "distill", "ppo_step", "merge", "eval")
MODULES = (
    *(f"gtrturbo.stages.{stage}" for stage in STAGES),
    "gtrturbo.show.artifact",
    "gtrturbo.show.comparison",
    "gtrturbo.report",
)


def main() -> None:
    """Run the cases that are asked for; leave with 1 if there is any fault."""
    asked = _arguments()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the folder below goes away.
    warm_up()
    root = Path(tempfile.mkdtemp(prefix="gtrturbo-campaign-"))
    try:
        cases = _chosen(asked, root)
        if asked.list:
            print("\n".join(case.name for case in cases))
            return
        print(f"{len(cases)} cases, prepared in {time.monotonic() - started:.0f} s", flush=True)
        done = work_off(cases, root, jobs=asked.jobs, until=started + 60 * asked.minutes)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    left = len(cases) - len(done)
    table = summary(done)
    print(
        f"{table}\n{left} cases not run. {time.monotonic() - started:.0f} s"
        if left
        else f"{table}\n{time.monotonic() - started:.0f} s"
    )
    write(asked.out, done, table)
    raise SystemExit(any(each.verdict.is_fault for each in done))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("names", nargs="*", help="run the cases whose names begin with one of these; all if none is given")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=30.0, help="time after which no case begins")
    parser.add_argument("--sample", type=int, help="run only so many cases of each kind")
    parser.add_argument("--have", action="append", default=[], metavar="NAME=FOLDER", help="take a prepared artifact from there")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results.json and table.txt")
    return parser.parse_args()


def warm_up() -> None:
    """Load all that commands load, so that a fork begins at once."""
    for module in ("torch", "transformers", "peft", "gtrturbo.cli", *MODULES):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _chosen(asked: argparse.Namespace, root: Path) -> list[Case]:
    """Make the cases of the groups that are asked for, and choose among them."""
    prepared = Prepared(root / "inputs")
    prepared.root.mkdir()
    for given in asked.have:
        name, _, folder = given.partition("=")
        shutil.copytree(folder, prepared.path(name))
    cases: list[Case] = []
    for kind in KINDS:
        found: list[Case] = []
        for group in kind(prepared, asked.seed).groups():
            if names := _asked_of(group.name, asked.names):
                prepared.make(group.needs)
                found += _named(group, names)
        random.Random(asked.seed).shuffle(found)
        cases += found[: asked.sample] if asked.sample else found
    random.Random(asked.seed).shuffle(cases)
    return cases


def _asked_of(group: str, names: Sequence[str]) -> list[str]:
    """Return which of the names may be those of a group's cases; all cases if none is given."""
    return [name for name in names if f"{group}/".startswith(name) or name.startswith(f"{group}/")] if names else [""]


def _named(group: Group, names: Sequence[str]) -> list[Case]:
    """Choose cases by whole names, also those that were not drawn; else by how the names of the drawn ones begin."""
    drawn = list(group.cases())
    asked = {case.name: case for case in [*(group.every() if group.every else []), *drawn] if case.name in names}
    return list(asked.values()) or [case for case in drawn if case.name.startswith(tuple(names))]


def work_off(cases: Sequence[Case], root: Path, *, jobs: int, until: float) -> list[Done]:
    """Work the cases off on some forks of this process, and print every fault as it is found."""
    context = multiprocessing.get_context("fork")
    position, results = context.Value("i", 0), context.SimpleQueue()
    workers = [
        context.Process(target=_worker, args=(cases, root / f"worker{rank}", position, results, until), daemon=True)
        for rank in range(jobs)
    ]
    for worker in workers:
        worker.start()
    done: list[Done] = []
    ended = 0
    while ended < jobs:
        found = results.get()
        if found is None:
            ended += 1
            continue
        done.append(Done(*found[:2], Verdict(*found[2]), found[3]))
        if done[-1].verdict.is_fault:
            _tell(done[-1])
        if len(done) % TOLD_EVERY == 0:
            print(f"{len(done)} of {len(cases)} cases", flush=True)
    for worker in workers:
        worker.join()
    return done


def _worker(cases: Sequence[Case], root: Path, position, results, until: float) -> None:
    try:
        while time.monotonic() < until:
            with position.get_lock():
                number, position.value = position.value, position.value + 1
            if number >= len(cases):
                break
            case, started = cases[number], time.monotonic()
            verdict = _judged(case, root / str(number))
            results.put((case.name, case.kind, (verdict.outcome, verdict.detail, verdict.events), time.monotonic() - started))
    finally:
        results.put(None)


def _judged(case: Case, folder: Path) -> Verdict:
    folder.mkdir(parents=True)
    try:
        return case.run(folder)
    except FoundError as error:
        return error.verdict
    except Exception:
        return Verdict("broken", traceback.format_exc()[-600:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(done: Done) -> None:
    print(ascii(f"{done.verdict.outcome}: {done.name}: {done.verdict.detail}")[1:-1], flush=True)
    print(f"    again: make campaign CASES='{done.name}'", flush=True)
