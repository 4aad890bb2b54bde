"""What supervised steps learn from: replies with the tokens that carry loss, from turns or demos artifacts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.context import require_context
from gtrturbo.models.policy import Policy
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.play.recording import render, require_texts
from gtrturbo.store.manifest import read_manifest
from gtrturbo.store.pictures import load_picture
from gtrturbo.store.records import Demo, Turn
from gtrturbo.store.turns import has_tokens, read_demos, read_turn_tokens, read_turns


@dataclass(frozen=True)
class Example:
    """One reply to learn: ids [R], end-of-turn token included, and the tokens that carry loss [R] bool."""

    prompt: Prompt
    response_ids: np.ndarray
    learned: np.ndarray


def read_examples(paths: Sequence[Path], renderer: Renderer) -> list[Example]:
    """Read the replies of turns or demos artifacts; turns whose reply did not parse are left out.

    Raises:
        GtrTurboError: an artifact is of another kind.
    """
    return [example for path in paths for example in _read(path, renderer)]


def require_fit(policy: Policy, examples: Sequence[Example]) -> None:
    """Refuse examples that are longer than what a policy's model reads, before any of them is learned.

    Raises:
        GtrTurboError: names both numbers.
    """
    prompts, replies = [each.prompt for each in examples], [each.response_ids for each in examples]
    require_context(prompts, policy.model.config, policy.model.name_or_path, replies=replies)


def mixed(paths: Sequence[Path]) -> list[str]:
    """Say of artifacts that are learned from together which tasks, and pictures of which sizes, they hold, where these differ."""
    found: dict[str, dict[str, list[str]]] = {"tasks": {}, "sizes of pictures": {}}
    for path in paths:
        manifest = read_manifest(path)
        if task := manifest.config.get("task"):
            found["tasks"].setdefault(str(task), []).append(str(path))
        if picture := next((name for name in sorted(manifest.files) if name.startswith("images/")), None):
            height, width, _ = load_picture(path, picture).shape
            found["sizes of pictures"].setdefault(f"{width} × {height}", []).append(str(path))
    return [
        f"different {what} are learned together: {'; '.join(f'{each} of {_first(names)}' for each, names in kinds.items())}."
        for what, kinds in found.items()
        if len(kinds) > 1
    ]


def _first(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _read(path: Path, renderer: Renderer) -> list[Example]:
    kind = read_manifest(path).kind
    if kind == "demos":
        return [demo_example(demo, path, renderer) for demo in read_demos(path)]
    if kind != "turns":
        raise GtrTurboError(f"{path} holds {kind}, not turns or demos.", "make some with: gtrturbo rollout --expert …")
    turns = read_turns(path)
    # Sampled ids are learned as they were sampled; only an expert's text is tokenised.
    sampled = _sampled(path, turns, renderer) if has_tokens(path) else [None] * len(turns)
    examples = []
    for turn, ids in zip(turns, sampled, strict=True):
        if turn.legal:
            response = renderer.response_ids(turn.reply)[0] if ids is None else ids
            prompt = render(renderer, path, turn.messages[:-1], turn.images)
            examples.append(Example(prompt, np.asarray(response, np.int32), np.ones(len(response), bool)))
    return examples


def _sampled(path: Path, turns: Sequence[Turn], renderer: Renderer) -> list[np.ndarray]:
    tokens = read_turn_tokens(path, turns)
    require_texts(path, turns, tokens, renderer)
    return tokens.response_ids


def demo_example(demo: Demo, path: Path, renderer: Renderer) -> Example:
    """Tokenise a demo; a token that overlaps an masked_spans span carries no loss."""
    ids, offsets = renderer.response_ids(demo.messages[-1]["content"][0]["text"])
    learned = [not any(start < stop and end > first for first, stop in demo.masked_spans) for start, end in offsets]
    prompt = render(renderer, path, demo.messages[:-1], demo.images)
    return Example(prompt, np.asarray(ids, np.int32), np.array(learned))


def imitation_loss(policy: Policy, examples: Sequence[Example]) -> Tensor:
    """Return the summed negative log-likelihood of the learned tokens in nats.

    Source: GTR (arXiv 2503.08525), the SFT term on corrected thoughts.
    """
    prompts, responses = [e.prompt for e in examples], [e.response_ids for e in examples]
    scored = policy.score(prompts, responses, temperature=1.0, values=False)
    learned = torch.zeros_like(scored.mask)
    for row, example in enumerate(examples):
        learned[row, : len(example.learned)] = torch.from_numpy(example.learned).to(learned.device)
    return -(scored.logprobs * learned).sum()


class Shuffle:
    """Draw indices without replacement, shuffled anew whenever all have been drawn."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._count = count
        self._random = np.random.default_rng(seed)
        self._left: list[int] = []

    def draw(self, size: int) -> list[int]:
        """Return the next `size` indices; more than there are come from as many shuffles as it takes."""
        drawn: list[int] = []
        while len(drawn) < size:
            if not self._left:
                self._left = self._random.permutation(self._count).tolist()
            take = size - len(drawn)
            drawn, self._left = drawn + self._left[:take], self._left[take:]
        return drawn
