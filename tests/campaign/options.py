"""Options: every option of every command is given every odd value of its kind, on the command line and in a YAML file."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from campaign.cases import Case, FoundError, Group, Verdict
from campaign.forked import Ended, forked
from campaign.prepared import TASK, Prepared, named_in
from campaign.terminal import inspect, last
from campaign.trees import contents, signature

PATIENCE = 6.0
EACH = 9  # values of an option, of those that there are for its kind
FILES = 15  # YAML files of a command
PLAY = f"{TASK} --episodes 1 --num-envs 1 --max-new-tokens 24"
# By command: what makes it small and valid. An option that is tried is left out of it.
COMMANDS = {
    "init": "--out out",
    "sft": "{expert} --out out --checkpoint {init} --steps 1 --batch-size 1",
    "rollout": f"--out out --checkpoint {{warm}} {PLAY}",
    "distill": "--out out --rollouts {turns} --teacher {init}",
    "ppo-step": "--out out --checkpoint {warm} --rollouts {turns} --epochs 1",
    "merge": "{warm} --out out --base {init}",
    "eval": f"--out out --checkpoint {{warm}} {PLAY}",
    "run": "--out out --start {warm} --iterations 0 --eval-episodes 2 --env horizon=2",
    "check-task": "numberline",
    "play": "--task numberline",
    "show": "{turns}",
    "compare": "{run} {other_run}",
    "report": "{run} --out out.html",
}
# What an option of some name needs beside it to mean anything.
WITH = {
    "served_model": "--engine vllm:http://127.0.0.1:9",
    "probe": "--engine vllm:http://127.0.0.1:9",
    "random_expert_share": "--expert",
    "lora_alpha": "--lora-rank 2",
    "lora_target": "--lora-rank 2",
    "value_clip_range": "",
    "scores": "",
}
WITHOUT = {"expert": ("--checkpoint", "--teacher"), "random_expert_share": ("--checkpoint", "--teacher"), "recipe": ("--base",)}

TEXTS = (
    "", " ", "x" * 5000, "\x1b[31mred", "a\u202eb", "[bold]x[/bold]", "[/]", "\udcff", "-", "--", "null", "1", "../..", "/", ".",
    "no_such.module:NAME", "no_such.py:NAME", "file:NAME", ":", "a:b:c", "os:getcwd", "json:__doc__", "%s{0}", "ß" * 200, "a\nb",
)  # fmt: skip
WHOLES = (
    "", " ", "x", "0", "-1", "1.5", "1e3", "1" + "0" * 30, "9" * 5000, "nan", "inf", "0x10", "1_000", " 7 ", "٣", "2147483648",
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "+", "1,2",
)  # fmt: skip
NUMBERS = (
    "", "x", "nan", "inf", "-inf", "1e308", "1e-320", "-0.0", "1e999", "-1", "0", "1_0.0", "9" * 400, "0x1p3", "1,5", "٣",
    "1e-9", "5e-324",
)  # fmt: skip
PATHS = (
    "", " ", "/", ".", "..", "file", "folder", "pipe", "link", "loop", "file/x", "link/x", "loop/x", "/proc/x", "/proc/self/x",
    "x" * 300,
    "x/" * 2500, "~", "-x", "\x1b[31mred", "\udcff", "a\nb", "no/such/folder", "[bold]", "stage.json", "../x/../../y/\u202e",
)  # fmt: skip
PAIRS = (
    "=",
    "x",
    "=x",
    "x=",
    "image",
    "image=",
    "image=huge",
    "horizon=0",
    "horizon=-1",
    "horizon=1e9",
    "horizon=x",
    "horizon=" + "9" * 30,
    "a=b=c",
)
SETTINGS = (
    "=", "x", "x=1", ".=1", "sft.=1", "sft.x=1", ".x=1", "eval.episodes=x", "eval.episodes=0", "merge.density=nan",
    "ppo-step.epochs=1.5",
    "rollout.temperature=1e999", "eval.out=x", "eval.seed=-1", "rollout.num-envs=" + "9" * 30, "epochs=x", "learning-rate=nan",
    "out=x",
)  # fmt: skip
ADDRESSES = (
    "", "x", "http://", "http://127.0.0.1:9", "http://127.0.0.1:99999", "http://[::1", "ftp://x", "file:///etc/passwd",
    "javascript:1",
    "http://user:word@127.0.0.1:9", "http://\x1b[31m", "http://a b", "https://127.0.0.1:9", "http://" + "x" * 3000,
    "http://ß.invalid", "//x",
)  # fmt: skip
DEVICES = ("", "cpu", "cpu:7", "cuda", "cuda:0", "cuda:99", "meta", "mps", "x", "cpu cpu", "\x1b[31m", "9")
# Options that name where to read or write, or what is asked of a server: values of their own.
OWN = {
    "engine": (*TEXTS, *(f"vllm:{address}" for address in ADDRESSES)),
    "device": DEVICES,
    "set": SETTINGS,
    "price": PAIRS,
    "env": PAIRS,
    "eval_env": PAIRS,
}

# Files for --config, by what is odd about them; KEY stands for an option of the command, WHOLE for one that is a whole number.
YAML = {
    "empty": "",
    "a list": "[1, 2]",
    "a number": "5",
    "text": "hello",
    "null": "null",
    "unknown key": "no-such-option: 1",
    "number as key": "5: 5",
    "null as key": "null: 5",
    "list as key": "? [a]\n: 5",
    "key twice": "KEY: 1\nKEY: 2",
    "null value": "KEY: null",
    "list": "KEY: [1, 2]",
    "map": "KEY: {a: 1}",
    "true": "KEY: yes",
    "date": "KEY: 2020-01-01",
    "sexagesimal": "WHOLE: 1:30",
    "octal": "WHOLE: 010",
    "long number": "WHOLE: " + "9" * 5000,
    "huge": "WHOLE: 1e999",
    "not a number": "WHOLE: .nan",
    "binary": "KEY: !!binary aGVsbG8=",
    "python": "KEY: !!python/object/apply:os.getcwd []",
    "unknown tag": "KEY: !x y",
    "anchors": "a: &a [x, x]\nb: &b [*a, *a]\nKEY: &c [*b, *b]",
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "KEY: *i",
    "itself": "KEY: &a [*a]",
    "deep": "KEY: " + "[" * 5000 + "]" * 5000,
    "deep map": "{a: " * 3000 + "1" + "}" * 3000,
    "merge key": "x: &x {KEY: 1}\n<<: *x",
    "tabs": "KEY:\t1\n\tx: 2",
    "two documents": "KEY: 1\n---\nKEY: 2",
    "control": 'KEY: "\\e[31m\\0"',
    "raw control": "KEY: \x1b[31m",
    "surrogate": 'KEY: "\\ud800"',
    "unclosed": "KEY: [1",
    "mark": "\ufeffKEY: 1",
    "set": "KEY: !!set {a, b}",
}


class Options:
    """Makes the cases of all commands."""

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared, self.seed = prepared, seed

    def groups(self) -> Iterator[Group]:
        for command, words in COMMANDS.items():
            needs = [*named_in(words), *(each for more in WITH.values() for each in named_in(more))]
            yield Group(f"options/{command}", needs, partial(self._cases, command))

    def _cases(self, command: str) -> Iterator[Case]:
        from parsed import CONFIGS

        from gtrturbo.config.fields import fields

        for field in fields(CONFIGS[command]):
            values = list(enumerate(_values(field)))
            draw = Random(f"{self.seed}/{command}/{field.name}")
            for number, value in sorted(draw.sample(values, min(EACH, len(values)))):
                name = f"options/{command}/{field.name.replace('_', '-')}/{number}"
                yield Case(f"options of {command}", name, partial(self._option, command, field, value))
        whole = next((field.name for field in fields(CONFIGS[command]) if field.kind is int), "config")
        some = next((field.name for field in fields(CONFIGS[command]) if not field.required), "x")
        for title, text in Random(f"{self.seed}/{command}").sample(list(YAML.items()), FILES):
            content = text.replace("KEY", some.replace("_", "-")).replace("WHOLE", whole.replace("_", "-"))
            yield Case("YAML files", f"options/{command}/config/{title}".replace(" ", "_"), partial(self._yaml, command, content))

    def _option(self, command: str, field, value: str, folder: Path) -> Verdict:
        words = self.prepared.words(COMMANDS[command])
        given = self.prepared.words(WITH.get(field.name, ""))
        for gone in (field.option, *WITHOUT.get(field.name, ())):
            words = _without(words, gone)
        listed = field.shown == field.name.upper()
        if listed:
            words = [word for word in words if word.startswith("--") or words[max(0, words.index(word) - 1)].startswith("--")]
        if field.kind is bool:
            tried = [field.option if value == "yes" else f"--no-{field.option[2:]}"]
        else:
            tried = [value] if listed else [field.option, value]
        return self._try([command, *words, *given, *(["--", *tried] if listed else tried)], folder)

    def _yaml(self, command: str, content: str, folder: Path) -> Verdict:
        file = folder / "settings.yaml"
        file.write_text(content, encoding="utf-8", errors="surrogatepass")
        return self._try([command, *self.prepared.words(COMMANDS[command]), "--config", "settings.yaml"], folder)

    def _try(self, words: list[str], folder: Path) -> Verdict:
        _furnish(folder)
        before, inputs = contents(folder), signature(self.prepared.root)
        ended = forked(words, folder, before=_impatient, patience=PATIENCE)
        inspect(ended)
        if signature(self.prepared.root) != inputs:
            raise FoundError("touched", "an input was written to")
        return _judged(ended, before, contents(folder))


def _judged(ended: Ended, before: dict[str, str], after: dict[str, str]) -> Verdict:
    if changed := sorted(name for name in before if after.get(name) != before[name]):
        raise FoundError("touched", f"{', '.join(changed[:3])} ({last(ended.said)})")
    if ended.interrupted:
        return Verdict("interrupted")
    # A run that was begun keeps its record, and goes on with another --device.
    more = sorted(name for name in after.keys() - before.keys() if after[name] != "folder" and not name.endswith("run.json"))
    if ended.code and more:
        raise FoundError("leftovers", f"{', '.join(more[:3])} ({last(ended.said)})")
    return Verdict("refused" if ended.code else "done", last(ended.said) if ended.code else "")


def _values(field) -> tuple[str, ...]:
    import typing

    if field.kind is bool:
        return ("yes", "no")
    if field.name in OWN:
        return OWN[field.name]
    kind = typing.get_args(field.kind)[0] if field.is_list else field.kind
    if field.choices:
        return (*TEXTS[:12], field.choices[0].upper(), f" {field.choices[0]}")
    return {int: WHOLES, float: NUMBERS, Path: PATHS}.get(kind, TEXTS)


def _without(words: list[str], option: str) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == option:
            skip = True
        else:
            kept.append(word)
    return kept


def _furnish(folder: Path) -> None:
    """Put odd things where paths point to."""
    (folder / "file").write_text("a file")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")


def _impatient() -> None:
    """Let nobody wait for a server that is not there."""
    from gtrturbo.play import wire

    wire.BACKOFF, wire.TIMEOUT = (0.01,), 2.0
