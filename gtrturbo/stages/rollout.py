"""rollout: play episodes and write every turn."""

from gtrturbo.artifacts import Result, writing
from gtrturbo.config import RolloutConfig
from gtrturbo.envs.task import Task, load_task
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.play import Speaker, Spoken
from gtrturbo.models.policy import Policy
from gtrturbo.models.processor import renderer_hash
from gtrturbo.models.speak import PolicySpeaker
from gtrturbo.models.transcript import record_episodes
from gtrturbo.stages import done, provenance
from gtrturbo.summary import summarize


def run(config: RolloutConfig) -> Result:
    """Play with a checkpoint, or with the task's scripted expert, which needs no model."""
    if config.expert == (config.checkpoint is not None):
        raise GtrTurboError("a rollout needs either --checkpoint or --expert.", "give one of the two.")
    task = load_task(config.task, config.env)
    with writing(config.out, provenance(config), overwrite=config.overwrite) as draft:
        policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype) if config.checkpoint else None
        speak = _sampling(config, policy) if policy else _expert(task)
        turns = record_episodes(
            draft.folder,
            speak,
            task,
            seed=config.seed,
            episodes=range(config.first_episode, config.first_episode + config.episodes),
            num_envs=config.num_envs,
            illegal=config.illegal,
        )
        draft.metrics = summarize(turns)
        if policy and config.checkpoint:
            draft.renderer, draft.timing = renderer_hash(config.checkpoint), policy.machine()
    return done(draft)


def _expert(task: Task) -> Speaker:
    return lambda states: [Spoken(task.expert(state.info)) for state in states]


def _sampling(config: RolloutConfig, policy: Policy) -> Speaker:
    return PolicySpeaker(policy, seed=config.seed, temperature=config.temperature, max_new_tokens=config.max_new_tokens)
