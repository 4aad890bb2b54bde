"""eval: how good is a checkpoint, on the same deals for every checkpoint?"""

from contextlib import ExitStack
from functools import partial

from gtrturbo.analysis.summary import success_by_kind, summarize
from gtrturbo.analysis.thoughts import thought_entropy, thought_information
from gtrturbo.config import EvalConfig
from gtrturbo.console import stderr
from gtrturbo.distributed.escapes import visible
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.play.agents import open_player
from gtrturbo.play.draws import require_played_anew
from gtrturbo.play.hints import told_task
from gtrturbo.play.recording import Episode, record_episodes
from gtrturbo.plugins import is_outside
from gtrturbo.stages import done, provenance
from gtrturbo.stages.opening import opening_of
from gtrturbo.store.draft import Result
from gtrturbo.store.files import save_json
from gtrturbo.store.kept import kept
from gtrturbo.store.names import METRICS
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.run_cache import cached
from gtrturbo.store.writing import writing
from gtrturbo.tasks.chance import chance, fewer_episodes
from gtrturbo.tasks.loading import load_task
from gtrturbo.tasks.origin import environment_code, origin, rules
from gtrturbo.tasks.task import Task

CHANCE_EPISODES = 1000
CHANCE_SECONDS = 600.0


def run(config: EvalConfig) -> Result:
    """Play fixed episodes; write the turns, and metrics.json: success, what thoughts are like, and the task's chance levels."""
    task = load_task(config.task, config.env)
    told, panel = told_task(task, config.hints), task.panel(config.panel) if config.panel else None
    work = provenance(config)
    with (
        writing(config.out, work, overwrite=config.overwrite) as draft,
        ResumeLog(config.out, work, Episode, Episode.speakers) as resume_log,
        ExitStack() as ending,
    ):
        opening = opening_of(config, at_once=config.num_envs, for_training=False, ending=ending)
        sampling = {"seed": config.seed, "temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
        player = open_player(config.checkpoint, config.engine, opening, **sampling)
        turns = record_episodes(
            draft.folder,
            resume_log,
            player.agent,
            told,
            seed=config.seed,
            episodes=range(len(panel) if panel else config.episodes),
            deals=panel,
            num_envs=config.num_envs,
            on_invalid_reply=config.on_invalid_reply,
            at_end=player.at_end,
        )
        if turns:  # Of several processes the first has them all, the others none.
            told = player.tells_sampled()
            anew = require_played_anew(draft.folder, turns, temperature=config.temperature, told=told)
            known = {"knows_truth": task.truth is not None, "own_parser": task.parse is not None}
            draft.metrics = summarize(turns, **known) | success_by_kind(turns, task.kind and task.kind_of) | _chance(config, task)
            draft.metrics |= thought_entropy(draft.folder) | anew | player.metrics()
            draft.metrics |= thought_information(draft.folder, turns, player.policy, temperature=config.temperature)
            save_json(draft.folder / METRICS, draft.metrics)
        draft.renderer, draft.timing = renderer_hash(config.checkpoint), player.machine()
    resume_log.remove()
    return done(draft)


def _chance(config: EvalConfig, task: Task) -> dict[str, float]:
    """Return the task's chance levels: kept from before, or played now without pictures; nothing where that takes too long."""
    if not config.chance_episodes:
        return {}
    episodes = fewer_episodes(task, min(config.chance_episodes, CHANCE_EPISODES))
    levels = cached("chance", (config.task, config.env, config.seed, episodes), lambda: _kept_chance(config, task, episodes))
    if levels is None:
        said = f"the chance levels of {task.name} took more than {CHANCE_SECONDS:g} s and are left out; add: --chance-episodes 0"
        stderr.print(visible(said))
    return {f"chance_{name}": value for name, value in (levels or {}).items()}


def _kept_chance(config: EvalConfig, task: Task, episodes: int) -> dict[str, float] | None:
    play = partial(chance, task, episodes=episodes, seed=config.seed, seconds=CHANCE_SECONDS)
    # Code of the user's own may change, and so may all that it imports and reads.
    if is_outside(config.task) or environment_code(config.task, tuple(config.env)):
        return play()
    made_from = {
        "task": task.name,
        "options": dict(task.options),
        "rules": rules(),
        "played_with": origin(config.task, config.env),
        "episodes": episodes,
        "seed": config.seed,
    }
    return kept("chance", made_from, play)
