"""What distill's options say of its teachers, and what of them goes together with what. Nothing heavy is imported here."""

from dataclasses import replace
from pathlib import Path

from gtrturbo.config import DistillConfig
from gtrturbo.config.addresses import kind_of, served_model
from gtrturbo.config.choices import HF
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.teachers import EXPERT, Mode, Teacher, find_mode, find_teacher
from gtrturbo.play.teaching.mixing import parts_of
from gtrturbo.play.teaching.templates import Templates, read_templates
from gtrturbo.plugins import names_code
from gtrturbo.stages.resolve import asks_in_words, prompt_texts, teachers_of
from gtrturbo.store.prices import read_prices

ASKED_IN_WORDS = ("prompt", "repair_prompt")
ASKED_ON_SERVER = ("address", "prices", "max_calls", "max_cost", "answers", "ledger")


def each_alone(config: DistillConfig) -> list[DistillConfig]:
    """Return the config of each of several teachers, as if it were the only one."""
    alone = {"more_teachers": (), "teacher_weights": None}
    return [replace(config, teacher=teacher, **alone) for teacher in teachers_of(config)] or [config]


def is_served(config: DistillConfig) -> bool:
    """Tell whether the teacher is a model on a server, which is asked in words."""
    return config.teacher is not None and served_model(config.teacher) is not None


def checkpoint_of(config: DistillConfig) -> Path | None:
    """Return the checkpoint that teaches; None where the expert does, a model on a server, or code of the user's own."""
    return None if config.teacher is None or names_code(config.teacher) or is_served(config) else config.teacher


def find_named(config: DistillConfig, mode: Mode) -> Teacher | None:
    """Return the expert or the user's own teacher; None where it is a model, which is opened when the work begins."""
    if checkpoint_of(config) or is_served(config):
        return None
    return find_teacher(EXPERT if config.expert else str(config.teacher), mode.needs)


def require_teachers(config: DistillConfig) -> None:
    """Refuse guidance by nobody or by two, and options that its teachers have no use for or cannot do.

    Raises:
        GtrTurboError: names the first.
    """
    if config.expert == (config.teacher is not None):
        raise GtrTurboError("distill needs either --teacher or --expert.", "give one of the two.")
    mode, teachers = find_mode(config.mode), each_alone(config)
    _require_meant(config, mode, teachers)
    parts_of(config.teacher_weights, len(teachers))
    for each in teachers:
        _require_able(each, mode)
    if mode.writes == "scores" and len(teachers) > 1 and config.top_logprobs:
        raise GtrTurboError("--top-logprobs keeps the likeliest tokens of one teacher.", "leave it out, or name one --teacher.")


def _require_meant(config: DistillConfig, mode: Mode, teachers: list[DistillConfig]) -> None:
    """Refuse options that are for teachers of another kind."""
    served = any(map(is_served, teachers))
    worded = served or (mode.needs == "corrections" and any(map(checkpoint_of, teachers)))
    given = {field: getattr(config, field) not in (None, False) for field in (*ASKED_IN_WORDS, *ASKED_ON_SERVER)}
    odd = [] if served else [name for name in ASKED_ON_SERVER if given[name]]
    odd += [] if worded else [name for name in ASKED_IN_WORDS if given[name]]
    if odd:
        needs = "a teacher on a server" if odd[0] in ASKED_ON_SERVER else "a teacher on a server, or a model with --mode correct"
        raise GtrTurboError(f"--{odd[0].replace('_', '-')} is for {needs}.", "leave it out, or name one: --teacher openai:MODEL")
    if config.hints and (config.expert or mode.needs == "policy"):
        who = "the expert, who knows all" if config.expert else f"--mode {config.mode}, which asks nothing of the teacher"
        raise GtrTurboError(f"--hints are not for {who}.", "leave it out, or name a checkpoint as --teacher.")


def _require_able(config: DistillConfig, mode: Mode) -> None:
    """Refuse what one teacher cannot do."""
    words = mode.needs in ("thoughts", "corrections")
    if config.expert and not words:
        raise GtrTurboError("a scripted expert has no log-probs.", "use --mode thoughts with --expert, or give --teacher.")
    if is_served(config) and not words:
        raise GtrTurboError(
            f"{config.teacher} gives no log-probs of the student's tokens, which --mode {config.mode} needs.",
            "use --mode correct or --mode thoughts, or name a checkpoint with the student's tokenizer as --teacher.",
        )
    if checkpoint_of(config) and not words and kind_of(config.engine) != HF:
        raise GtrTurboError(
            "scores are the teacher's log-probs, computed here.", f"leave out --engine {config.engine}, or --mode {config.mode}."
        )
    if config.top_logprobs and mode.comparable and not checkpoint_of(config):
        raise GtrTurboError("--top-logprobs is for checkpoints that teach.", "leave it out, or name a checkpoint as --teacher.")


def words_of(config: DistillConfig) -> Templates:
    """Read what a teacher is asked in words.

    Raises:
        GtrTurboError: a file is missing or is none of the kind, or has no place for what the teacher is told besides.
    """
    templates = read_templates(prompt_texts(config))
    if config.hints and "hints" not in templates.question.get_identifiers():
        raise GtrTurboError(f"--hints has no place in {config.prompt}.", "write $hints there, or leave out --hints.")
    return templates


def require_asked(config: DistillConfig) -> None:
    """Refuse files of the user's own that teachers cannot be asked with: what they are asked, and what they cost.

    Raises:
        GtrTurboError: names the file.
    """
    if asks_in_words(config):
        words_of(config)
    prices = read_prices(config.prices)
    for model in map(served_model, teachers_of(config)):
        if prices and model is not None:
            prices.of(model)
