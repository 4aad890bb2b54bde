"""Write played episodes as a turns artifact, and read such an artifact back for training."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gtrturbo.algorithms.tokens import span_masks
from gtrturbo.config.choices import InvalidReply
from gtrturbo.console import progress_bar
from gtrturbo.distributed.escapes import complain
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.renderer import Prompt, Renderer
from gtrturbo.play.episodes import Agent, Played, Response, State, play_episodes
from gtrturbo.store.names import TOKENS, TURNS
from gtrturbo.store.pictures import copy_picture, load_picture
from gtrturbo.store.records import Message, Successor, Turn, write_rows
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.saved_pictures import is_saved, save_image
from gtrturbo.store.tensors import TurnTokens, save_turn_tokens
from gtrturbo.store.turns import read_turn_tokens, read_turns
from gtrturbo.tasks.task import Task

PLAYED_BY = "use the checkpoint that played, or one trained from it."


@dataclass(frozen=True)
class SampledReply:
    """One sampled reply's row of `TurnTokens`, as numbers that JSON holds exactly."""

    prompt_ids: list[int]
    response_ids: list[int]
    response_spans: list[tuple[int, int]]
    thought_mask: list[bool]
    action_mask: list[bool]
    sample_logprobs: list[float]


# So many replies without one that can be read are no accident.
MANY_TURNS = 32


@dataclass(frozen=True)
class Episode:
    """One finished episode: its turns, and a sampled reply for each where a policy spoke."""

    turns: list[Turn]
    sampled: list[SampledReply]

    @property
    def index(self) -> int:
        return self.turns[0].episode

    def speakers(self) -> set[str | None]:
        """Name who spoke."""
        return {turn.agent for turn in self.turns}


def record_episodes(
    folder: Path,
    resume_log: ResumeLog[Episode],
    agent: Agent,
    task: Task,
    *,
    seed: int,
    episodes: Sequence[int],
    num_envs: int,
    on_invalid_reply: InvalidReply,
    deals: Sequence[int] | None = None,
    group_size: int = 1,
    retell: Callable[[Sequence[Played]], Sequence[Played]] = lambda played: played,
    at_end: Callable[[], object] = lambda: None,
) -> list[Turn]:
    """Play those episodes that the resume log does not hold, show progress, and write all of them into `folder`.

    Several processes share the episodes; the first writes and returns the turns, the others return none.
    `retell` may put what is recorded of an episode otherwise; `at_end` is called by each process after its last, and may refuse
    them all; of which it is not proved then who played them, those are played again. See `play_episodes` for the other arguments.
    """
    there, mute = {episode.index for episode in resume_log.found}, Mute(task)
    missing = [index for index in episodes if index not in there]
    own = [missing[place] for place in group().world.share(len(missing))]
    how = {"num_envs": num_envs, "on_invalid_reply": on_invalid_reply, "deals": deals, "group_size": group_size}
    with progress_bar("episodes", len(own)) as bar:
        while own:
            waiting = _Waiting(resume_log)
            with closing(play_episodes(waiting.keeping(agent), task, seed=seed, episodes=own, **how)) as playing:
                for played in playing:
                    episode = record(resume_log.folder, retell(played))
                    waiting.add(episode, played)
                    mute.hear(episode.turns)
                    bar.advance()
            at_end()
            own = waiting.unproved()  # They are played again, by who can be believed.
            bar.advance(-len(own))
    group().barrier()
    if not group().world.first:
        return []
    played = {episode.index: episode for episode in resume_log.read()}
    turns = _write_episodes(folder, [played[index] for index in episodes], pictures=resume_log.folder)
    mute.end(turns)
    return turns


class _Waiting:
    """Finished episodes that are kept once it is proved who played them; nobody has to prove it of what is in this process."""

    def __init__(self, resume_log: ResumeLog[Episode]) -> None:
        self._resume_log = resume_log
        self._episodes: list[tuple[Episode, Sequence[Played]]] = []

    def keeping(self, agent: Agent) -> Agent:
        """Let an agent answer, and keep at once what is proved by that: no episode needs to end for it."""

        def answer(states: Sequence[State]) -> Sequence[Response | None]:
            responses = agent(states)
            self.unproved()
            return responses

        return answer

    def add(self, episode: Episode, played: Sequence[Played]) -> None:
        self._episodes.append((episode, played))
        self.unproved()

    def unproved(self) -> list[int]:
        """Keep what is proved by now, and return the others, by index."""
        left = []
        for episode, played in self._episodes:
            if all(each.response.believed for each in played):
                self._resume_log.append(episode, [image for turn in episode.turns for image in _images(turn)])
            else:
                left.append((episode, played))
        self._episodes = left
        return [episode.index for episode, _ in left]


class Mute:
    """Says once that no reply could be read: while episodes are played, for hours would be lost on them, or at their end."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._unread, self._told = 0, False

    def hear(self, turns: Sequence[Turn]) -> None:
        """Count the turns of one more episode."""
        self._told = self._told or any(turn.legal for turn in turns)
        self._unread += len(turns)
        if not self._told and self._unread >= MANY_TURNS:
            self._tell(f"the first {self._unread}", turns[-1])

    def end(self, turns: Sequence[Turn]) -> None:
        """Say it of all turns, of however few, if it was not said."""
        if turns and not self._told and not any(turn.legal for turn in turns):
            self._tell(f"the {len(turns)}", turns[-1])

    def _tell(self, which: str, turn: Turn) -> None:
        self._told = True
        said = textwrap.shorten(turn.reply, 80, placeholder=" …")
        complain(
            f"none of {which} replies can be read as one of {self._task.name}, such as {said!r}: "
            f"was this checkpoint trained on another task, or with other pictures? See: gtrturbo play --task …"
        )


def record(folder: Path, played: Sequence[Played]) -> Episode:
    """Turn an episode as it was played into rows, with its pictures saved in `folder`.

    Raises:
        ValueError: a reply has tokens beside one that has none.
    """
    sampled = [_sampled(each) for each in played if each.response.response_ids is not None]
    if len(sampled) not in (0, len(played)):
        raise ValueError("a sampled reply has no tokens.")
    return Episode([_with_pictures(folder, each) for each in played], sampled)


def write_turns(folder: Path, episodes: Iterable[list[Played]]) -> list[Turn]:
    """Write turns, pictures and, where a policy sampled the replies, tokens; sorted by (episode, turn). Return the turns."""
    return _write_episodes(folder, [record(folder, played) for played in episodes], pictures=folder)


def _write_episodes(folder: Path, episodes: Iterable[Episode], *, pictures: Path) -> list[Turn]:
    ordered = sorted(episodes, key=lambda episode: episode.index)
    turns = [turn for episode in ordered for turn in episode.turns]
    sampled = [reply for episode in ordered for reply in episode.sampled]
    if len(sampled) not in (0, len(turns)):
        raise ValueError("a sampled reply has no tokens.")
    _copy_pictures(pictures, folder, turns)
    write_rows(folder / TURNS, turns)
    if sampled:
        save_turn_tokens(folder / TOKENS, _tokens(sampled))
    return turns


def _copy_pictures(source: Path, folder: Path, turns: Sequence[Turn]) -> None:
    for name in {image for turn in turns for image in _images(turn)} if source != folder else ():
        if not is_saved(source, name):
            raise GtrTurboError(f"{source / name} was changed while the episodes were played.", "run it again.")
        copy_picture(source, folder, name)


def _images(turn: Turn) -> list[str]:
    return [*turn.images, *(turn.successor.images if turn.successor else ())]


def _with_pictures(folder: Path, played: Played) -> Turn:
    successor = None
    if played.after:
        after = played.after
        successor = Successor(messages=after.messages, images=[save_image(folder, image) for image in after.images])
    return replace(played.turn, images=[save_image(folder, image) for image in played.state.images], successor=successor)


def _sampled(played: Played) -> SampledReply:
    response, reply = played.response, played.reply
    masks = span_masks(
        response.offsets,
        action_start=reply.action_start if reply else None,
        action_span=reply.action_span if reply else None,
        thought_span=reply.thought_span if reply else None,
    )
    return SampledReply(
        prompt_ids=_present(response.prompt_ids).tolist(),
        response_ids=_present(response.response_ids).tolist(),
        response_spans=response.offsets,
        thought_mask=masks.thought,
        action_mask=masks.action,
        sample_logprobs=_present(response.logprobs).tolist(),
    )


def _tokens(sampled: Sequence[SampledReply]) -> TurnTokens:
    return TurnTokens(
        prompt_ids=[np.array(each.prompt_ids, np.int32) for each in sampled],
        response_ids=[np.array(each.response_ids, np.int32) for each in sampled],
        response_spans=[np.array(each.response_spans, np.int32) for each in sampled],
        thought_mask=[np.array(each.thought_mask) for each in sampled],
        action_mask=[np.array(each.action_mask) for each in sampled],
        sample_logprobs=[np.array(each.sample_logprobs, np.float32) for each in sampled],
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


def read_transcript(path: Path, renderer: Renderer, *, own_prompts: bool = False) -> Transcript:
    """Read turns with tokens and render their prompts again.

    Args:
        own_prompts: who reads them has the student's tokenizer, and may have a template and a picture's tokens of its own.

    Raises:
        GtrTurboError: the turns carry no tokens (an expert played), or render to other ids than the policy was given.
    """
    turns = read_turns(path)
    tokens = read_turn_tokens(path, turns)
    require_texts(path, turns, tokens, renderer)
    prompts = [render(renderer, path, turn.messages[:-1], turn.images) for turn in turns]
    for row, (prompt, ids) in enumerate(zip(prompts, tokens.prompt_ids, strict=True)):
        if not own_prompts and not np.array_equal(prompt.ids, ids):
            raise GtrTurboError(
                f"turn {row} of {path} renders to other tokens than were played: tokenizer, processor or template differ.",
                PLAYED_BY,
            )
    return Transcript(turns, tokens, prompts)


def require_texts(path: Path, turns: Sequence[Turn], tokens: TurnTokens, renderer: Renderer) -> None:
    """Refuse turns whose replies are not what their tokens decode to, offsets included.

    Raises:
        GtrTurboError: names the first row.
    """
    for row, (turn, ids, spans) in enumerate(zip(turns, tokens.response_ids, tokens.response_spans, strict=True)):
        if ids.max() >= len(renderer.processor.tokenizer):
            raise GtrTurboError(f"row {row} of {path} has a token that the tokenizer does not know.", PLAYED_BY)
        text, offsets = renderer.decode(ids.tolist())
        if text != turn.reply or not np.array_equal(np.array(offsets, np.int32), spans):
            raise GtrTurboError(f"the reply of row {row} of {path} is not what its tokens say: {text!r}.", PLAYED_BY)


def render(renderer: Renderer, path: Path, messages: Sequence[Message], images: Sequence[str]) -> Prompt:
    """Render messages whose pictures lie in the artifact at `path`."""
    return renderer.prompt(messages, [load_picture(path, image) for image in images])
