"""eval: how good is a checkpoint, on the same deals for every checkpoint?"""

from gtrturbo.artifacts import Result, save_json, writing
from gtrturbo.config import EvalConfig
from gtrturbo.envs.task import chance, load_task
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.processor import renderer_hash
from gtrturbo.models.speak import PolicySpeaker
from gtrturbo.models.transcript import record_episodes
from gtrturbo.stages import done, provenance
from gtrturbo.summary import summarize

METRICS = "metrics.json"
CHANCE_EPISODES = 1000


def run(config: EvalConfig) -> Result:
    """Play fixed episodes; write the turns, and metrics.json with the task's chance levels beside the policy's."""
    task = load_task(config.task, config.env)
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype)
        speak = PolicySpeaker(policy, seed=config.seed, temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        turns = record_episodes(
            draft.folder,
            speak,
            task,
            seed=config.seed,
            episodes=range(config.episodes),
            num_envs=config.num_envs,
            illegal=config.illegal,
        )
        levels = chance(task, episodes=CHANCE_EPISODES, seed=config.seed)
        draft.metrics = summarize(turns) | {f"chance_{name}": value for name, value in levels.items()}
        save_json(draft.folder / METRICS, draft.metrics)
        draft.renderer, draft.timing = renderer_hash(config.checkpoint), policy.machine()
    return done(draft)
