"""What is checked of a task with a model's tokenizer: where thoughts end and actions stand, and how long everything is."""

from collections.abc import Sequence
from itertools import islice

from gtrturbo.algorithms.tokens import TokenMasks, span_masks
from gtrturbo.models.families import written_ids
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.play.reply_checks import MOST_STATES, untried, worded
from gtrturbo.play.trial import Check, Episodes, different, range_of
from gtrturbo.tasks.reply import Reply
from gtrturbo.tasks.task import Task
from gtrturbo.tasks.wording import replies

PATCH = 14  # Pixels of a patch of Qwen-VL, whose processor tells its grid.


def tokens(task: Task, episodes: Episodes, renderer: Renderer) -> Check:
    """See that the tokenizer gives a reply back as it was, and that thought and action are told apart character by character."""
    name, tried = "tokens", 0
    for state, _, text in worded(task, episodes):
        reply = task.read(text, state.info)
        if reply is None:
            return Check(name, None, "not checked: a reply cannot be read, see spans.")
        ids, offsets = renderer.response_ids(text)
        if renderer.decode(ids[:-1])[0] != text:
            return Check(name, False, f"the tokenizer gives {text!r} back as another text.", "leave out what it cannot write.")
        where = {"action_start": reply.action_start, "action_span": reply.action_span, "thought_span": reply.thought_span}
        masks = span_masks(offsets, **where)
        if wrong := _wrong(masks, offsets, reply, text):
            return Check(
                name,
                False,
                f"in {text!r} the token {wrong!r} holds the thoughts' end and the action's beginning."
                if reply.thought_span is None
                else f"in {text!r} the token {wrong!r} holds characters of the thought and of the action's value.",
                "let action_start be where the action's part begins, its mark or key, not at its value."
                if reply.thought_span is None
                else "let thought_span hold the thought alone, and none of the marks around it.",
            )
        tried += 1
    if not tried:
        return Check(name, None, untried(task))
    return Check(name, True, f"no token is both thought and action's value, in {tried} replies.")


def _wrong(masks: TokenMasks, offsets: Sequence[tuple[int, int]], reply: Reply, text: str) -> str | None:
    """Return the first token that is not what its characters say: of the thoughts, of the action, of its value."""
    start, end = reply.action_span
    thought = range(*reply.thought_span) if reply.thought_span else range(reply.action_start)
    for row, (first, last) in enumerate(offsets):
        characters = range(first, last)
        before = any(place in thought for place in characters)
        value = any(start <= place < end for place in characters)
        after = not characters or any(place not in thought for place in characters)
        is_thought = before and not after
        said = masks.thought[row], masks.action[row], masks.action_value[row]
        if (before and value) or said != (is_thought, not is_thought, value):
            return text[first:last]
    return None


def lengths(task: Task, episodes: Episodes, renderer: Renderer, *, longest: int | None, max_new_tokens: int) -> Check:
    """Say how long prompts, pictures and replies are in the model's tokens.

    Args:
        longest: positions that the model has; None if it is not known.
        max_new_tokens: longest reply that a run lets it write.
    """
    shown = list(islice(different(episodes), MOST_STATES))
    prompts = [renderer.prompt(state.messages, state.images) for state in shown]
    written = [len(renderer.response_ids(text)[0]) for state in shown for text in replies(task, state.info)]
    sizes = sorted(len(prompt.ids) for prompt in prompts)
    images = sorted(int((prompt.ids == _image_token(renderer)).sum()) for prompt in prompts)
    said = f"prompts have {range_of(sizes)} tokens, {range_of(images)} of them pictures"
    said += f"; replies have {range_of(sorted(written))}." if written else "."
    if longest and sizes[-1] + max_new_tokens > longest:
        return Check("lengths", False, f"{said} the model reads {longest} at most.", "shorten the prompt, or its history.")
    if written and max(written) > max_new_tokens:
        more = f"--set rollout.max-new-tokens={max(written)} --set eval.max-new-tokens={max(written)}"
        return Check("lengths", None, f"{said} a run stops replies at {max_new_tokens}: write less, or add {more}.")
    return Check("lengths", True, f"{said}{_shrunk(prompts, [state.images[0].shape for state in shown if state.images])}")


def _image_token(renderer: Renderer) -> int:
    return next(iter(written_ids(renderer.processor)), -1)


def _shrunk(prompts: Sequence[Prompt], shapes: Sequence[tuple[int, ...]]) -> str:
    """Tell of a picture that the model's processor makes smaller than it is."""
    for prompt, shape in zip(prompts, shapes, strict=False):
        if "image_grid_thw" in prompt.tensors:
            _, rows, columns = prompt.tensors["image_grid_thw"][0].tolist()
            if rows * PATCH + PATCH <= shape[0] or columns * PATCH + PATCH <= shape[1]:
                return f" the model sees pictures of {shape[1]} × {shape[0]} at {columns * PATCH} × {rows * PATCH}."
    return ""
