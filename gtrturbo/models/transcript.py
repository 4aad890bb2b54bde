"""Write played episodes as a turns artifact, and read such an artifact back for training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gtrturbo.algorithms.tokens import span_masks
from gtrturbo.artifacts import TOKENS, TURNS
from gtrturbo.console import progress_bar
from gtrturbo.envs.task import Task
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.chat import Prompt, Renderer, load_picture
from gtrturbo.models.play import Illegal, Played, Speaker, play_episodes
from gtrturbo.records import Message, Successor, Turn, chat, read_rows, write_rows
from gtrturbo.tensors import TurnTokens, load_turn_tokens, save_image, save_turn_tokens


def record_episodes(
    folder: Path, speak: Speaker, task: Task, *, seed: int, episodes: range, num_envs: int, illegal: Illegal
) -> list[Turn]:
    """Play episodes, show progress, and write them into `folder`; see `play_episodes` for the arguments."""
    played = []
    with progress_bar("episodes", len(episodes)) as bar:
        for episode in play_episodes(speak, task, seed=seed, episodes=episodes, num_envs=num_envs, illegal=illegal):
            played.append(episode)
            bar.advance()
    return write_turns(folder, played)


def write_turns(folder: Path, episodes: Iterable[list[Played]]) -> list[Turn]:
    """Write turns, pictures and, where a policy sampled the replies, tokens; sorted by (episode, turn). Return the turns."""
    played = [turn for episode in sorted(episodes, key=lambda turns: turns[0].turn.episode) for turn in episode]
    turns = [_with_pictures(folder, each) for each in played]
    write_rows(folder / TURNS, turns)
    if played[0].spoken.response_ids is not None:
        save_turn_tokens(folder / TOKENS, _tokens(played))
    return turns


def _with_pictures(folder: Path, played: Played) -> Turn:
    successor = None
    if played.after:
        successor = Successor(messages=chat(played.after.prompt), images=[save_image(folder, played.after.picture)])
    return replace(played.turn, images=[save_image(folder, played.state.picture)], successor=successor)


def _tokens(played: Sequence[Played]) -> TurnTokens:
    masks = [
        span_masks(
            each.spoken.offsets,
            action_start=each.reply.action_start if each.reply else None,
            action_span=each.reply.action_span if each.reply else None,
        )
        for each in played
    ]
    return TurnTokens(
        prompt_ids=[_present(each.spoken.prompt_ids) for each in played],
        response_ids=[_present(each.spoken.response_ids) for each in played],
        response_spans=[np.array(each.spoken.offsets, np.int32) for each in played],
        thought_mask=[np.array(mask.thought) for mask in masks],
        action_mask=[np.array(mask.action) for mask in masks],
        sample_logprobs=[_present(each.spoken.logprobs) for each in played],
    )


def _present(array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise ValueError("a sampled reply has no tokens.")
    return array


@dataclass(frozen=True)
class Transcript:
    """A turns artifact in memory: N turns, their tokens and their rendered prompts."""

    turns: list[Turn]
    tokens: TurnTokens
    prompts: list[Prompt]


def read_turns(path: Path) -> list[Turn]:
    """Read the turns of an artifact, each row validated."""
    return list(read_rows(path / TURNS, Turn))


def read_transcript(path: Path, renderer: Renderer) -> Transcript:
    """Read turns with tokens and render their prompts again.

    Raises:
        GtrTurboError: the turns carry no tokens (an expert played), or render to other ids than the policy was given.
    """
    if not (path / TOKENS).is_file():
        raise GtrTurboError(
            f"{path} has no tokens: an expert played it, not a policy.", "play with: gtrturbo rollout --checkpoint …"
        )
    turns, tokens = read_turns(path), load_turn_tokens(path / TOKENS)
    if len(turns) != len(tokens.response_ids):
        raise GtrTurboError(
            f"{path} has {len(turns)} turns and tokens of {len(tokens.response_ids)}.", f"see: gtrturbo show {path} --check"
        )
    prompts = [render(renderer, path, turn.messages[:-1], turn.images) for turn in turns]
    for row, (prompt, ids) in enumerate(zip(prompts, tokens.prompt_ids, strict=True)):
        if not np.array_equal(prompt.ids, ids):
            raise GtrTurboError(
                f"turn {row} of {path} renders to other tokens than were played: tokenizer, processor or template differ.",
                "use the checkpoint that played, or one trained from it.",
            )
    return Transcript(turns, tokens, prompts)


def render(renderer: Renderer, path: Path, messages: Sequence[Message], images: Sequence[str]) -> Prompt:
    """Render messages whose pictures lie in the artifact at `path`."""
    return renderer.prompt(messages, [load_picture(path / image) for image in images])
