"""The record of a method: who teaches, what the teacher says of the student's turns, and where that enters the update."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from gtrturbo.config.bounds import AT_LEAST_ONE, COUNT, FRACTION, NOT_NEGATIVE
from gtrturbo.config.choices import GAE, AnyPlacement
from gtrturbo.config.fields import Checked, Field, check, fields
from gtrturbo.config.teaching import check_hints
from gtrturbo.errors import GtrTurboError

Teacher = Literal["none", "merged", "static", "newest", "given", "expert"]
Fallback = Literal["none", "static", "expert"]
Annotation = Literal["none", "logprobs", "distributions", "thoughts"]
Guidance = Literal["none", AnyPlacement, "imitation"]
Beside = Literal["none", "imitation"]
Refresh = Literal["every", "ahead", "never"]

# What may be made of an annotation.
BY_KL = get_args(AnyPlacement)
ENTERS: dict[str, tuple[str, ...]] = {
    "none": ("none",),
    "logprobs": BY_KL,
    "distributions": BY_KL,
    "thoughts": ("imitation",),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method, as the plan of a run needs to know it; the defaults are PPO's.

    Raises:
        GtrTurboError: a field has no such value, or two fields contradict each other.
    """

    summary: Annotated[str, "One sentence for the help."]
    teacher: Annotated[
        Teacher,
        "merged of the run's own checkpoints, static (the first of them), newest (the one that plays), given (--teacher), or the "
        "task's scripted expert.",
    ] = "none"
    fallback: Annotated[Fallback, "Who teaches where a given teacher is not given; with none it must be given."] = "none"
    refresh: Annotated[
        Refresh,
        "every: a merged teacher is made anew at each interval of --merge-every, the newest taken anew at each update. ahead: a "
        "merged teacher is made of those checkpoints that were measured ahead in the run's own rollouts. never: it is that of "
        "the first update throughout. The other teachers stay what they are.",
    ] = "every"
    annotation: Annotated[
        Annotation,
        "What the teacher says of the student's turns: log-probs of the tokens that were sampled, distributions over the "
        "likeliest tokens, or thoughts of its own.",
    ] = "none"
    top_logprobs: Annotated[int, "Of distributions: how many of the likeliest tokens are kept.", COUNT] = 0
    hints: Annotated[
        tuple[str, ...],
        "What the teacher is told besides what the student saw, truth, expert or outcome, where run --hints does not say.",
        Checked(check_hints),
    ] = ()
    guidance: Annotated[
        Guidance,
        "Where it enters the update: the KL to the teacher as a reward, in the advantage alone, in the return too, or as a loss "
        "beside PPO; imitation of thoughts, all since the start.",
    ] = "none"
    beside: Annotated[Beside, "What enters beside a KL: imitation of the same teacher's thoughts, all since the start."] = "none"
    credit: Annotated[str, "How rewards become advantages: what ppo-step --credit is given."] = GAE
    group_size: Annotated[int, "How many episodes share a deal, where run --group-size does not say.", AT_LEAST_ONE] = 1
    gamma: Annotated[
        float | None, "Discount per turn, where the method has one of its own; else the model's and the task's.", FRACTION
    ] = None
    environment: Annotated[float, "Weight of the environment's reward.", NOT_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            _check_kind(field, getattr(self, field.name))
            check(field, getattr(self, field.name))
        for what, fix in _contradictions(self):
            raise GtrTurboError(what, fix)


def _check_kind(field: Field, value: object) -> None:
    if field.is_list:
        if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
            raise GtrTurboError(f"{field.name} of a method must be a tuple of texts, got {value!r}.")
        return
    kinds = {int: int, float: (int, float)}.get(field.kind, str)
    if value is None and field.optional:
        return
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise GtrTurboError(f"{field.name} of a method must be {'text' if kinds is str else 'a number'}, got {value!r}.")


def _contradictions(method: Method) -> Iterator[tuple[str, str]]:
    """Yield what in a record cannot be, and what mends it."""
    taught, told = method.teacher != "none", method.annotation != "none"
    if told and not taught:
        yield f"annotation {method.annotation} without a teacher.", "name who annotates, such as teacher='merged'."
    if taught and not told:
        yield f"teacher {method.teacher} annotates nothing.", "name what it says of the turns, such as annotation='logprobs'."
    if method.guidance not in ENTERS[method.annotation]:
        ways = " or ".join(ENTERS[method.annotation])
        yield f"guidance {method.guidance} is not made of annotation {method.annotation}.", f"with it goes guidance: {ways}."
    if method.beside != "none" and method.guidance not in BY_KL:
        yield f"{method.beside} beside guidance {method.guidance}.", "it goes beside a KL, such as guidance='loss'."
    if "expert" in (method.teacher, method.fallback) and method.annotation != "thoughts":
        yield "a scripted expert has no log-probs.", "with it goes: annotation='thoughts'."
    if method.hints and (not taught or "expert" in (method.teacher, method.fallback)):
        yield "hints for no model that teaches.", "with them goes, for example: teacher='static'."
    if method.fallback != "none" and method.teacher != "given":
        yield f"fallback {method.fallback} beside teacher {method.teacher}.", "only a given teacher may be missing."
    if method.refresh == "ahead" and method.teacher != "merged":
        yield f"refresh ahead with teacher {method.teacher}.", "only a teacher that is merged moves on evidence."
    if (method.annotation == "distributions") != (method.top_logprobs > 0):
        yield (
            f"top_logprobs {method.top_logprobs} with annotation {method.annotation}.",
            "say how many tokens annotation='distributions' keeps, such as top_logprobs=64; leave it out with others.",
        )
    if not taught and method.environment == 0:
        yield "environment 0 without a teacher leaves nothing to learn.", "name a teacher, or leave out environment."


def teacher_of(method: Method, *, given: bool) -> Teacher:
    """Say who teaches in a run, where a teacher of `--teacher` is given or not."""
    return method.fallback if method.teacher == "given" and not given else method.teacher


def merges_teachers(method: Method) -> bool:
    """Tell whether a run merges teachers of its own checkpoints on its way."""
    return method.teacher == "merged" and method.refresh != "never"
