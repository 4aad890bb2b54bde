"""rollout: play episodes and write every turn."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gtrturbo.analysis.summary import success_by_kind, summarize
from gtrturbo.analysis.thoughts import thought_entropy
from gtrturbo.config import RolloutConfig
from gtrturbo.config.choices import HINTS
from gtrturbo.config.games import settings_file
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.play.agents import Player, open_player
from gtrturbo.play.draws import require_played_anew
from gtrturbo.play.episodes import Agent, Played, Response, State
from gtrturbo.play.hints import EpisodeEnd, in_words, outcome_of, require_known, told
from gtrturbo.play.recording import Episode, record_episodes
from gtrturbo.stages import done, provenance
from gtrturbo.stages.opening import opening_of
from gtrturbo.store.draft import Result
from gtrturbo.store.ids import seed_for
from gtrturbo.store.names import ENVIRONMENT
from gtrturbo.store.records import Turn
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.writing import writing
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.task import Task


def run(config: RolloutConfig) -> Result:
    """Play with a checkpoint, or with the task's scripted expert, which needs no model."""
    task = load_task(config.task, config.env)
    require_known(config.hints, task)
    work = provenance(config)
    with (
        writing(config.out, work, overwrite=config.overwrite) as draft,
        ResumeLog(config.out, work, Episode, Episode.speakers) as resume_log,
        ExitStack() as ending,
    ):
        player = _open(config, config.checkpoint, ending) if config.checkpoint else None
        turns = record_episodes(
            draft.folder,
            resume_log,
            player.agent if player else _expert(config, task),
            task,
            seed=config.seed,
            episodes=range(config.first_episode, config.first_episode + config.episodes),
            num_envs=config.num_envs,
            on_invalid_reply=config.on_invalid_reply,
            at_end=player.at_end if player else lambda: None,
            group_size=config.group_size,
            retell=partial(_with_hints, config, task),
        )
        if config.expert:
            _require_readable(task, turns)
        if turns:  # Of several processes the first has them all, the others none.
            known = {"knows_truth": task.truth is not None, "own_parser": task.parse is not None}
            draft.metrics = (
                summarize(turns, **known) | success_by_kind(turns, task.kind and task.kind_of) | thought_entropy(draft.folder)
            )
        if turns and (file := settings_file(config.task, config.env)):  # A teacher's task is made of it.
            (draft.folder / ENVIRONMENT).write_bytes(file.read_bytes())
        if player and turns:
            told = player.tells_sampled()
            draft.metrics |= (
                require_played_anew(draft.folder, turns, temperature=config.temperature, told=told) | player.metrics()
            )
        if player and config.checkpoint:
            draft.renderer, draft.timing = renderer_hash(config.checkpoint), player.machine()
            draft.tokenizer = player.tokenizer
    resume_log.remove()
    return done(draft)


def _expert(config: RolloutConfig, task: Task) -> Agent:
    return lambda states: [Response(_expert_reply(config, task, state)) for state in states]


def _require_readable(task: Task, turns: Sequence[Turn]) -> None:
    """Refuse replies of the task's own expert that the task itself cannot read."""
    mute = next((turn for turn in turns if not turn.legal), None)
    if mute:
        raise GtrTurboError(
            f"{task.name} cannot read its own expert's reply {mute.reply!r} (episode {mute.episode}, turn {mute.turn}).",
            "mend its parse or its expert; see: gtrturbo check-task …",
        )


def _expert_reply(config: RolloutConfig, task: Task, state: State) -> str:
    if np.random.default_rng(seed_for(config.seed, "novice", state.episode)).random() >= config.random_expert_share:
        return task.expert_reply(state.info)
    return task.random_expert_reply(state.info, np.random.default_rng(seed_for(config.seed, "novice", state.episode, state.turn)))


def _with_hints(config: RolloutConfig, task: Task, played: Sequence[Played]) -> list[Played]:
    """Put hints into the prompts of a share of an episode's turns, each drawn alone: so all that teachers are told is learned."""
    if not config.hints:
        return list(played)
    outcome = outcome_of([each.turn for each in played])
    return [_hinted(config, task, each, outcome) for each in played]


def _hinted(config: RolloutConfig, task: Task, played: Played, outcome: EpisodeEnd) -> Played:
    turn = played.turn
    rng = np.random.default_rng(seed_for(config.seed, "hints", turn.episode, turn.turn))
    drawn = [hint for hint, number in zip(HINTS, rng.random(len(HINTS)), strict=True) if number < config.hinted_share]
    hints = in_words([hint for hint in drawn if hint in config.hints], task, turn.info, outcome)
    return replace(played, turn=replace(turn, messages=[*told(turn.messages[:-1], hints), turn.messages[-1]]))


def _open(config: RolloutConfig, checkpoint: Path, ending: ExitStack) -> Player:
    opening = opening_of(config, at_once=config.num_envs, for_training=True, ending=ending)
    sampling = {"seed": config.seed, "temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
    return open_player(checkpoint, config.engine, opening, **sampling)
