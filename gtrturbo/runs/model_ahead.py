"""What the model of a run makes of its task, seen before a weight is read: its template, its processor, the length of prompts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtrturbo.config import InitConfig, RolloutConfig, RunConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import architecture_here
from gtrturbo.models.checkpoint_files import is_adapter
from gtrturbo.models.context import positions_of, require_context
from gtrturbo.models.families import find_family, read_family, require_named
from gtrturbo.models.first_turn import require_prompts, require_template
from gtrturbo.models.processor import load_processor
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.models.sizes import BUILT_IN
from gtrturbo.models.under_adapter import base_of
from gtrturbo.runs.plan import Step
from gtrturbo.runs.sample import Play
from gtrturbo.stages.init import read_template


def measured(config: RunConfig, steps: Sequence[Step], play: Play) -> tuple[Play, list[str]]:
    """Render the longest prompt of a task's sample, and that with the most of pictures, where the model's processor is here.

    Returns: the task in numbers, with the prompt's own length, and lines for a reader.

    Raises:
        GtrTurboError: what the first stage would refuse, in the same words: no template, a family that is not known, or a prompt
            that is longer than what the model reads.
    """
    first = next((step.config for step in steps if isinstance(step.config, InitConfig)), None)
    model = str(config.start) if config.start else first.model if first else config.model
    if model in BUILT_IN or not play.longest.messages:
        return play, []
    architecture, renderer = _renderer(model, None if config.start else first)
    if renderer is None:
        return play, []
    require_prompts(renderer, model)
    prompts = [renderer.prompt(each.messages, each.images) for each in (play.longest, play.largest) if each.messages]
    require_context(prompts, architecture, model)
    texts = [len(prompt.ids) - _pictures(prompt, architecture, renderer) for prompt in prompts]
    length = max(len(prompt.ids) for prompt in prompts)
    most = max((step.config.max_new_tokens for step in steps if _plays(step)), default=0)
    return replace(play, text=max(texts)), _told(model, length, most, positions_of(architecture))


def _pictures(prompt: Prompt, architecture: Any, renderer: Renderer) -> int:
    return int((prompt.ids == getattr(architecture, renderer.family.repeated_id, None)).sum())


def _plays(step: Step) -> bool:
    return isinstance(step.config, RolloutConfig) and not step.config.expert


def _told(model: str, length: int, most: int, positions: int | None) -> list[str]:
    """Tell of replies that a model could not write to their end."""
    if positions is None or length + most <= positions:
        return []
    return [
        f"Replies may have {most} tokens, and a prompt of {length} leaves {positions - length} of the {positions} that {model} "
        "reads: one that does not end in these ends the run."
    ]


def _renderer(model: str, init: InitConfig | None) -> tuple[Any, Renderer | None]:
    """Load what renders a model's prompts; none where its files are not on this machine."""
    revision = (init.revision if init else None) or "main"
    try:
        folder = base_of(Path(model)) if is_adapter(Path(model)) else model
        architecture = architecture_here(str(folder), revision=revision)
        family = find_family(init.family) if init and init.family else read_family(Path(model), architecture.model_type)
        if init and init.family:
            require_named(init.family, family, architecture, model)
        processor = load_processor(model, family=family, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None, None
    except GtrTurboError:
        if Path(model).is_dir():
            raise
        return None, None  # Of a model of the hub some files may be here, and others not.
    if init and init.chat_template:
        processor.chat_template = read_template(init.chat_template)
    require_template(processor, model)
    return architecture, Renderer(processor, family)
