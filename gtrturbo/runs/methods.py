"""The table of methods. A method decides the plan of a run, and nothing else: no stage knows by which method it was asked.

`run --method` takes a name of this table, or a `Method` of the user's own as package.module:NAME or path/to/file.py:NAME.
"""

from pathlib import Path

from gtrturbo.config import RunConfig
from gtrturbo.config.addresses import served_model
from gtrturbo.config.choices import GROUP, STEP_GROUP
from gtrturbo.errors import GtrTurboError
from gtrturbo.plugins import find
from gtrturbo.runs.method import Method, merges_teachers, teacher_of

METHODS: dict[str, Method] = {
    "ppo": Method(
        summary="no teacher.",
        teacher="none",
    ),
    "grpo": Method(
        summary="no teacher, no value head: each episode against the seven others of its deal.",
        credit=GROUP,
        group_size=8,
    ),
    "gigpo": Method(
        summary="grpo, and each turn against those of its deal in the same state.",
        credit=STEP_GROUP,
        group_size=8,
        gamma=0.95,  # As in its paper (arXiv 2505.10978).
    ),
    "turbo-kl": Method(
        summary="the merged teacher's KL as a reward, the paper's first.",
        teacher="merged",
        annotation="logprobs",
        guidance="reward",
    ),
    "turbo-sft": Method(
        summary="the merged teacher's thoughts are imitated; measured to keep the tiny model's better.",
        teacher="merged",
        annotation="thoughts",
        guidance="imitation",
    ),
    "turbo-loss": Method(
        summary="the KL to the merged teacher's distributions as a loss; measured against turbo-kl (results-stable).",
        teacher="merged",
        annotation="distributions",
        top_logprobs=512,  # More than the tiny model's vocabulary: all of it.
        guidance="loss",
    ),
    "turbo-gated": Method(
        summary="turbo-loss, and only what was measured ahead is merged: a student that falls does not take its teacher along.",
        teacher="merged",
        refresh="ahead",
        annotation="distributions",
        top_logprobs=512,
        guidance="loss",
    ),
    "gtr": Method(
        summary="the thoughts of an external teacher (--teacher, else the task's expert) are imitated.",
        teacher="given",
        fallback="expert",
        refresh="never",
        annotation="thoughts",
        guidance="imitation",
    ),
    "opd": Method(
        summary="on-policy distillation of --teacher, without the environment's reward.",
        teacher="given",
        refresh="never",
        annotation="logprobs",
        guidance="reward",
        environment=0.0,
    ),
    "opsd": Method(
        summary="on-policy self-distillation: the start, told the truth of each state, teaches; the environment pays nothing.",
        teacher="static",
        refresh="never",
        annotation="distributions",
        top_logprobs=512,
        hints=("truth",),
        guidance="loss",
        environment=0.0,
    ),
    "static-kl": Method(
        summary="the KL to one teacher throughout (--teacher, else the first checkpoint) as a reward.",
        teacher="given",
        fallback="static",
        refresh="never",
        annotation="logprobs",
        guidance="reward",
    ),
    "static-loss": Method(
        summary="the KL to one teacher's distributions throughout (--teacher, else the first checkpoint's) as a loss.",
        teacher="given",
        fallback="static",
        refresh="never",
        annotation="distributions",
        top_logprobs=512,
        guidance="loss",
    ),
}


def method_of(name: str) -> Method:
    """Return a method of the table, or the user's own.

    Raises:
        GtrTurboError: there is no such method, or what is there under its name is something else.
    """
    found = find("method", name, METHODS)
    if not isinstance(found, Method):
        raise GtrTurboError(
            f"{name} is a {type(found).__name__}, not a Method.", "make one with: from gtrturbo.runs.methods import Method"
        )
    return found


def given_teachers(config: RunConfig) -> list[Path]:
    """List the teachers of `--teacher`."""
    return [*([config.teacher] if config.teacher else []), *config.more_teachers]


def _check_server(method: Method, config: RunConfig) -> None:
    """Refuse what does not go with teachers on servers, or without them."""
    served = [each for each in given_teachers(config) if served_model(each) is not None]
    for option in ("address", "prices", "max_calls", "max_cost", "answers"):
        if getattr(config, option) is not None and not served:
            raise GtrTurboError(f"--{option.replace('_', '-')} is for a teacher on a server.", "add: --teacher openai:MODEL")
    if not served:
        return
    if method.annotation != "thoughts":
        raise GtrTurboError(
            f"{served[0]} gives no log-probs of the student's tokens, which --method {config.method} needs.",
            "use --method gtr, or name a checkpoint with the student's tokenizer as --teacher.",
        )
    if config.address is None:
        raise GtrTurboError(
            f"--teacher {served[0]} is on a server, and none is named.",
            "add: --address https://api.openai.com, or that of a server of your own, such as http://localhost:8000",
        )
    if config.max_cost is not None and config.prices is None:
        raise GtrTurboError("--max-cost needs to know what a call costs.", "add: --prices FILE.yaml")


def check_options(method: Method, config: RunConfig) -> None:
    """Refuse options of a run that its method has no use for.

    Raises:
        GtrTurboError: names the option.
    """
    name = f"--method {config.method}"
    if config.teacher and method.teacher != "given":
        does = {"none": "has no", "merged": "merges its own"}.get(method.teacher, "brings its own")
        takers = ", ".join(known for known, other in METHODS.items() if other.teacher == "given")
        raise GtrTurboError(f"{name} {does} teacher.", f"leave out --teacher, or use --method {takers}.")
    if method.teacher == "given" and method.fallback == "none" and not config.teacher:
        raise GtrTurboError(f"{name} distils a teacher from outside, and none is given.", "add: --teacher CHECKPOINT")
    _check_server(method, config)
    if config.teacher_weights and not config.more_teachers:
        raise GtrTurboError("--teacher-weights is for several teachers.", "leave it out, or give --teacher once more.")
    if config.start and config.lora_rank:
        raise GtrTurboError(
            "--lora-rank is of a checkpoint that init makes, and --start names one that is there.", "leave out --lora-rank."
        )
    if config.hints and teacher_of(method, given=bool(config.teacher)) in ("none", "expert"):
        raise GtrTurboError(
            f"--hints are for a model that teaches, and {name} has none.", "leave out --hints, or use --method turbo-loss."
        )
    if config.eval_teachers and not merges_teachers(method):
        raise GtrTurboError(f"{name} merges no teachers to evaluate.", "leave out --eval-teachers.")
    if config.merge_every > 1 and not merges_teachers(method):
        raise GtrTurboError(f"{name} merges no teachers.", "leave out --merge-every.")
    if config.keep_teachers and not merges_teachers(method):
        raise GtrTurboError(f"{name} merges no teachers to keep.", "leave out --keep-teachers.")
    if config.keep_guidance and method.annotation not in ("logprobs", "distributions"):
        raise GtrTurboError(f"{name} has no teacher's log-probs to keep.", "leave out --keep-guidance.")
    if config.eval_teachers and not config.eval_every:
        raise GtrTurboError(
            "--eval-teachers goes with the student's evaluations, and there are none on the way.", "add: --eval-every 1"
        )
