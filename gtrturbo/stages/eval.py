"""eval: how good is a checkpoint, on the same deals for every checkpoint?"""

from gtrturbo.analysis.summary import summarize
from gtrturbo.analysis.thoughts import thought_entropy, thought_information
from gtrturbo.config import EvalConfig
from gtrturbo.models.checkpoint_files import renderer_hash
from gtrturbo.play.agents import Endpoint, Opening, open_player
from gtrturbo.play.recording import Episode, record_episodes
from gtrturbo.stages import done, provenance
from gtrturbo.store.draft import Result
from gtrturbo.store.files import save_json
from gtrturbo.store.names import METRICS
from gtrturbo.store.resume_log import ResumeLog
from gtrturbo.store.run_cache import cached
from gtrturbo.store.writing import writing
from gtrturbo.tasks.chance import chance
from gtrturbo.tasks.loading import load_task

CHANCE_EPISODES = 1000


def run(config: EvalConfig) -> Result:
    """Play fixed episodes; write the turns, and metrics.json: success, what thoughts are like, and the task's chance levels."""
    task = load_task(config.task, config.env)
    panel = task.panel(config.panel) if config.panel else None
    work = provenance(config)
    with (
        writing(config.out, work, overwrite=config.overwrite) as draft,
        ResumeLog(config.out, work, Episode) as resume_log,
    ):
        endpoint = Endpoint(config.engine, config.served_model, at_once=config.num_envs)
        opening = Opening(endpoint, for_training=False, device=config.device, dtype=config.dtype)
        sampling = {"seed": config.seed, "temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
        player = open_player(config.checkpoint, config.engine, opening, **sampling)
        turns = record_episodes(
            draft.folder,
            resume_log,
            player.agent,
            task,
            seed=config.seed,
            episodes=range(len(panel) if panel else config.episodes),
            deals=panel,
            num_envs=config.num_envs,
            on_invalid_reply=config.on_invalid_reply,
        )
        if turns:  # Of several processes the first has them all, the others none.
            asked = (config.task, config.env, config.seed)
            levels = cached("chance", asked, lambda: chance(task, episodes=CHANCE_EPISODES, seed=config.seed))
            draft.metrics = summarize(turns) | {f"chance_{name}": value for name, value in levels.items()}
            draft.metrics |= thought_entropy(draft.folder)
            draft.metrics |= thought_information(draft.folder, turns, player.policy, temperature=config.temperature)
            save_json(draft.folder / METRICS, draft.metrics)
        draft.renderer, draft.timing = renderer_hash(config.checkpoint), player.machine()
    resume_log.remove()
    return done(draft)
