"""What the teachers on servers of a run will be asked, before anybody is: calls, tokens and money, as lines for a reader."""

from collections.abc import Sequence

from gtrturbo.config import DistillConfig, RunConfig
from gtrturbo.config.addresses import served_model
from gtrturbo.play.teachers import CORRECT
from gtrturbo.play.teaching.budget import CHARACTERS_PER_TOKEN, picture_tokens
from gtrturbo.play.teaching.mixing import parts_of
from gtrturbo.play.teaching.templates import read_templates, templates_of
from gtrturbo.runs.methods import given_teachers
from gtrturbo.runs.plan import Step, episodes_by_rollout
from gtrturbo.runs.sample import Play
from gtrturbo.store.prices import TokenCounts, read_prices

VERDICT = 16  # tokens of an answer beside the reply in it


def about_asking(config: RunConfig, steps: Sequence[Step], play: Play) -> list[str]:
    """Estimate what teachers on servers will be asked; nothing to say where there are none.

    One call for each turn of each rollout, which reads the template with the student's prompt, pictures and reply, and hints,
    each as long as a reply, and writes a reply. Equal questions are asked once, which makes it less,
    and answers that cannot be read are asked for again, which makes it more.

    Raises:
        GtrTurboError: the prices lack a model.
    """
    asking = [step.config for step in steps if isinstance(step.config, DistillConfig)]
    teachers = [served_model(each) for each in given_teachers(config)]
    if not asking or not any(teachers):
        return []
    tokens, episodes = _of_one(asking[0], play), episodes_by_rollout(steps)
    asked = sum(episodes[each.rollouts] for each in asking)
    prices, lines = read_prices(asking[0].prices), []
    for teacher, part in zip(teachers, parts_of(asking[0].teacher_weights, len(teachers)), strict=True):
        if teacher is None:
            continue
        calls = round(asked * play.turns * part)
        every = TokenCounts(calls * tokens.input, 0, calls * tokens.output)
        said = f"openai:{teacher} is asked about {calls:,} times (each turn once), reads about {every.input:,} tokens and writes "
        money = "; --prices FILE says what they cost"
        if prices:
            money = f": {prices.of(teacher).of(calls, every):,.2f} {prices.currency} by prices of {prices.dated}"
        lines.append(f"{said}{every.output:,}{money}.")
    return lines


def _of_one(config: DistillConfig, play: Play) -> TokenCounts:
    corrects = config.mode == CORRECT
    templates = read_templates(templates_of(config.prompt, config.repair_prompt, corrects=corrects))
    text = -(-len(templates.question.template) // CHARACTERS_PER_TOKEN) + play.text
    shown = max((sum(picture_tokens(*size) for size in sizes) for sizes in play.pictures), default=0)
    read = text + shown + play.reply * (corrects + len(config.hints))
    return TokenCounts(read, 0, play.reply + VERDICT * corrects)
