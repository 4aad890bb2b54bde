"""What an update is given besides weights: turns and scores, which must belong to the checkpoint and to one another."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtrturbo.algorithms.kl import Estimator, require_loss
from gtrturbo.config.choices import HF
from gtrturbo.errors import GtrTurboError
from gtrturbo.play.agents import has_exact_logprobs
from gtrturbo.play.teachers import tells_of_tokens
from gtrturbo.plugins import is_outside
from gtrturbo.store.ids import artifact_id, short
from gtrturbo.store.manifest import read_manifest
from gtrturbo.train.guidance import OwnEstimator

RELEASE = "examples/reproduce/release.py"


@dataclass(frozen=True)
class Rollout:
    """How turns were played, as their manifest says.

    Attributes:
        path: the turns.
        temperature: of sampling.
        sampler: what sampled; None where this toolkit's own engine did, whose log-probs are the trainer's.
        same_type: it computed in no narrower type than the trainer.
        group_size: how many episodes share a deal.
    """

    path: Path
    temperature: float
    sampler: str | None
    same_type: bool = False
    group_size: int = 1


def read_rollout(path: Path, *, dtype: str = "") -> Rollout:
    """Read how turns were played.

    Args:
        path: the turns.
        dtype: that the trainer's weights are asked for in; auto, as the sampler's, is the type on disk.

    Raises:
        GtrTurboError: there are no turns.
    """
    manifest = read_manifest(path, "turns")
    config = manifest.config
    exact = has_exact_logprobs(config.get("engine", HF))
    temperature = config.get("temperature")
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise GtrTurboError(f"{path} was sampled at temperature {temperature}, which is none.", "play again: gtrturbo rollout …")
    same_type = config.get("dtype") in ("float32", dtype)
    sampler = None if exact else _sampler(config)
    return Rollout(path, temperature, sampler, same_type, group_size=config.get("group_size", 1))


def _sampler(config: dict[str, Any]) -> str:
    """Name what sampled in another's place: the kind of server, or the engine of the user's own."""
    return config["engine"] if is_outside(config["engine"]) else f"{config['engine']} server"


def require_groups(rollout: Rollout, name: str) -> None:
    """Refuse turns whose episodes share no deals, for a credit that compares those that do."""
    if rollout.group_size == 1:
        raise GtrTurboError(
            f"--credit {name} compares episodes of one deal, and each in {rollout.path} has a deal of its own.",
            "play them with: gtrturbo rollout --group-size 8 …",
        )


def require_scores(scores: Path, rollout: Rollout, *, name: str, estimator: Estimator | OwnEstimator, as_loss: bool) -> None:
    """Refuse scores of other turns, and those that an estimator cannot make the KL of.

    Args:
        scores: of the teacher.
        rollout: the turns that the update learns from.
        name, estimator: of the KL, as the user wrote it and as it was found.
        as_loss: the KL is to stand beside PPO as a loss.
    """
    manifest, given = read_manifest(scores, "scores"), artifact_id(rollout.path)
    made_for = manifest.inputs.get("rollouts")
    if made_for != given:
        raise GtrTurboError(
            f"scores were made for turns {short(made_for)}, but --rollouts is {short(given)}.",
            f"run: gtrturbo distill --rollouts {rollout.path} --mode kl …",
        )
    if manifest.config.get("compat") == "release":
        raise GtrTurboError(
            f"{scores} was made with --compat release, which earlier versions had.",
            f"distill again with --mode {RELEASE}:BLIND, and give --kl-estimator {RELEASE}:BLIND_KL.",
        )
    if isinstance(estimator, Estimator) and not tells_of_tokens(manifest):
        raise GtrTurboError(
            f"{scores} was made by --mode {manifest.config.get('mode')}, which need not tell log-probs of the tokens sampled.",
            "give the --kl-estimator of your own that goes with it, or distill again with --mode kl.",
        )
    if as_loss:
        require_loss(name, estimator)
    if isinstance(estimator, Estimator) and estimator.distributions and not manifest.config.get("top_logprobs"):
        raise GtrTurboError(
            f"--kl-estimator {name} needs the teacher's most likely tokens, and {scores} has none.",
            f"run: gtrturbo distill --rollouts {rollout.path} --mode kl --top-logprobs 64 …",
        )
