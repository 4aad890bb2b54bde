"""Write docs/options.md, where each option is used, and why those stay that nothing uses: `python -m docs.options`."""

import re
from collections.abc import Iterator
from pathlib import Path

from docs.commands import CONFIGS
from gtrturbo.config.fields import Field, Role, fields
from gtrturbo.config.renamed import GONE, RENAMED, old_options

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("options.md")
# These list every option, or every message, whether or not anybody needs it.
LISTS = {"commands.md", "messages.md", "options.md"}
KINDS = {".md", ".py", ".mk", ".sh", ".ipynb", ".jsonl", ".yaml"}
WORD = re.compile(r"(?<![\w-])(?=(--[\w-]+|[\w-]+\.[\w-]+))")
# Why an option stays that no page, example or result uses.
REASONS = {
    "init --revision": "A model of the hub that changes under its name is no fixed start; this names one commit of it.",
    "init --lora-target": "Adapters on the language model alone are common; which parts train decides what a merge is made of.",
    "sft --weight-decay": "0, as in the paper; its code's optimiser has it, so a run with another one can be repeated.",
    "ppo-step --weight-decay": "0, as in the paper; its code's optimiser has it, so a run with another one can be repeated.",
    "ppo-step --environment-coef": "0 makes on-policy distillation; `run --method opd` sets it, and a shell script has to.",
    "ppo-step --demo-coef": "Weight of the imitation beside PPO, 1 in the paper: the counterpart of --kl-coef for thoughts.",
    "rollout --first-episode": "Parts of one rollout, played on several machines with the episodes that one would have.",
    "rollout --served-model": "A server may hold several models, or call its one otherwise than by its folder.",
    "eval --served-model": "As for rollout.",
    "distill --served-model": "As for rollout.",
    "rollout --probe": "How many replies of a served model are compared with the checkpoint's before an episode is played.",
    "eval --probe": "As for rollout.",
    "distill --probe": "As for rollout.",
    "distill --answer-timeout": "A teacher in words may think for minutes, where a served policy answers in seconds.",
    "distill --retries": "How long thoughts of a checkpoint take depends on it: every try is written anew.",
    "merge --task-vectors": "Keeps the changes that a merge is made of, for tools that read them.",
    "merge --threads": "Processes that share a machine must not each take all of its cores.",
    "show --turn": "Error messages send there: `inspect with: gtrturbo show … --turn 391`.",
    "push --evaluations": "What stands on a model's card beside the weights.",
    "push --private": "Not everything that is pushed is for everybody.",
    "report --samples": "How many episodes the page holds decides its size.",
}
# What was gone even then.
EARLIER = {("sft", "micro_batch_size"), ("ppo-step", "micro_batch_size")}
# How many options a command had before they were gone through, at commit ad8b2e5.
BEFORE = {
    "init": 9, "sft": 16, "rollout": 21, "distill": 23, "ppo-step": 35, "merge": 24, "eval": 18, "run": 24,
    "show": 4, "compare": 2, "report": 7,
}  # fmt: skip
HEAD = """# Where options are used

<!-- Written by `make docs` from gtrturbo/config, README, docs and examples; do not edit. -->

Every option of every command, and where README, these pages, the examples or the commands of the results name it, told by
the first of these places. An option that none names needs a reason to stay, and has it here.

{count} options over {commands} commands; {shared} of them have a name that several commands share. Before they were gone
through (commit ad8b2e5) there were {before} over {commands_before}. {left} of those are gone; {came} have come since, with
teachers and servers from outside, trackers, panels, credit and guards, inputs that are verified, and four commands:

| command | before | gone | new | now |
|---|---|---|---|---|
{counts}

What to write instead; an old spelling answers with it:

{gone}"""


def page() -> str:
    """Return the page's text."""
    texts = written()
    names = [field.option for config in CONFIGS.values() for field in shown(config)]
    head = HEAD.format(
        count=len(names),
        commands=len(CONFIGS),
        shared=sum(names.count(name) > 1 for name in set(names)),
        before=(before := sum(BEFORE.values())),
        commands_before=len(BEFORE),
        left=(left := sum(len(gone_of(name)) for name in BEFORE)),
        came=len(names) - before + left,
        counts="\n".join(_counts(name) for name in CONFIGS),
        gone=_gone(),
    )
    return "\n".join([head, *(_section(name, config, texts) for name, config in CONFIGS.items())])


def shown(config: type) -> list[Field]:
    """List the options of a command; a list that is given without a name is none."""
    return [field for field in fields(config) if not field.rest_of and Role.POSITIONAL not in field.roles]


def gone_of(command: str) -> list[str]:
    """List the options that a command had at commit ad8b2e5, and has not now; what was gone before then is answered, too."""
    config = CONFIGS[command]
    old = old_options(config, frozenset(field.name for field in fields(config)))
    return sorted(f"--{_flag(name)}" for name in old if (command, name) not in EARLIER)


def _counts(command: str) -> str:
    now, before, gone = len(shown(CONFIGS[command])), BEFORE.get(command, 0), gone_of(command)
    told = f"{len(gone)}: {', '.join(f'`{option}`' for option in gone)}" if gone else "0"
    return f"| {command} | {before} | {told} | {now - before + len(gone)} | {now} |"


def unused() -> dict[str, str]:
    """Return the options that nothing uses, each with why it stays, or with nothing."""
    texts = written()
    options = [(name, field) for name, config in CONFIGS.items() for field in shown(config)]
    return {key: REASONS.get(key, "") for name, field in options if not places(key := f"{name} {field.option}", texts)}


def written() -> dict[str, set[str]]:
    """Return by file the words that may be options: --flags, and what `run --set` takes, as in ppo-step.epochs."""
    return {place: set(WORD.findall(file.read_text(encoding="utf-8"))) for place, file in _files()}


def places(key: str, texts: dict[str, set[str]]) -> list[str]:
    """List the files that write an option, such as "sft --steps", as a flag or as what `run --set` takes."""
    command, option = key.split(" ")
    return [place for place, words in texts.items() if words & {option, f"{command}.{option[2:]}"}]


def _files() -> Iterator[tuple[str, Path]]:
    yield "README.md", ROOT / "README.md"
    yield "Makefile", ROOT / "Makefile"
    for folder in ("docs", "examples"):
        for file in sorted((ROOT / folder).rglob("*")):
            read = file.is_file() and (file.suffix in KINDS or file.name == "Makefile")
            if read and file.name not in LISTS and not (folder == "docs" and file.suffix == ".py"):
                yield str(file.relative_to(ROOT)), file


def _section(name: str, config: type, texts: dict[str, set[str]]) -> str:
    rows = []
    for field in shown(config):
        key = f"{name} {field.option}"
        found = places(key, texts)
        rows.append(f"| `{field.option}` | {found[0] if found else REASONS.get(key, '')} |")
    return "\n".join([f"## {name}: {len(rows)} options", "", "| option | where, or why |", "|---|---|", *rows, ""])


def _gone() -> str:
    renamed = [f"| `--{_flag(old)}` | every command that had it | write: --{_flag(new)} |" for old, new in RENAMED.items()]
    gone = [
        f"| `--{_flag(old)}` | {', '.join(_command(config) for config in configs)} | {instead.replace('|', '&#124;')} |"
        for old, (configs, instead) in GONE.items()
    ]
    return "\n".join(["| gone | of | instead |", "|---|---|---|", *renamed, *gone, ""])


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _command(config: str) -> str:
    return next((name for name, known in CONFIGS.items() if known.__name__ == config), config)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
