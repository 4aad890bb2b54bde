"""How strongly does each channel of a teacher pull, and where to? Its gradients at the last update of runs that are done.

    python -m examples.reproduce.gradients runs/reproduce/numberline-1e-3/merged/*

Of all turns of the update's rollout at once, before its first step: what the full KL as a loss at β = 1 and the paper's KL as a
reward at each of BETAS add. The cosine says how much of what a channel adds points where the KL itself falls.

Advantages are divided by their spread, to which the KL as a reward adds. Its part is therefore taken before that division, where
rewards and gradient are linear in β, and then divided as the update divides it; the difference of two gradients of other spreads
would hold PPO's own part, too. The loss of the value head is left out: rewards of another size change it for no teacher's sake.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtrturbo.algorithms.advantages import EPSILON
from gtrturbo.analysis.intervals import bootstrap, said
from gtrturbo.config import PpoStepConfig
from gtrturbo.config.building import build
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.play.recording import read_transcript
from gtrturbo.stages.ppo_step import check_inputs, loss_settings, optimizer_of, prepared
from gtrturbo.train.steps import Student, add_gradients

BETAS = (1.0, 30.0)
LOSS = "full KL as a loss at β = 1"


def gradient(config: PpoStepConfig) -> tuple[Tensor, float]:
    """Return the gradient [parameters of the model] of all of a config's turns as one minibatch, and its advantages' spread."""
    rollout = check_inputs(config)
    policy = load_policy(config.checkpoint, device=config.device, dtype=config.dtype, trainable=True)
    transcript = read_transcript(config.rollouts, policy.renderer)
    optimizer = optimizer_of(config, policy)
    batch, metrics = prepared(config, policy, transcript, rollout)
    student = Student(policy, optimizer, transcript, batch)
    add_gradients(student, range(len(transcript.turns)), [], settings=loss_settings(config, rollout))
    model = dict(policy.parameters())
    parts = [(value.grad if value.grad is not None else torch.zeros_like(value)).flatten() for value in model.values()]
    return torch.cat(parts), metrics["advantage_std"] + EPSILON


def measured(run: Path) -> dict[str, tuple[float, float]]:
    """Return norm and direction at a run's last update: of PPO alone, and of what each channel adds to it."""
    made = sorted((run / "checkpoints").iterdir())
    learned: dict[str, Any] = json.loads((made[-1] / "stage.json").read_text(encoding="utf-8"))["config"]
    before = made[-2].name
    settings = {name: value for name, value in learned.items() if value is not None} | {
        "checkpoint": made[-2],
        "rollouts": run / "rollouts" / before,
        "scores": run / "guidance" / before,
        "out": run / "none",
    }
    guided: PpoStepConfig = replace(build(PpoStepConfig, settings), value_coef=0.0)
    alone, spread = gradient(replace(guided, scores=None))
    found = {"PPO alone": alone, LOSS: gradient(guided)[0] - alone}
    for beta in BETAS:
        mixed, wider = gradient(replace(guided, kl_placement="reward", kl_estimator="k1-clip", kl_coef=beta))
        found[f"KL as a reward at β = {beta:g}"] = mixed - alone * (spread / wider)
    return {
        name: (float(value.norm()), float(torch.cosine_similarity(value, found[LOSS], dim=0))) for name, value in found.items()
    }


def main(runs: list[Path]) -> None:
    each = [measured(run) for run in runs]
    print("| gradient | norm | cosine with that of the full KL |\n| --- | --- | --- |")
    for name in each[0]:
        norm, cosine = (said(bootstrap([[found[name][which] for found in each]])) for which in (0, 1))
        print(f"| {name} | {norm} | {cosine if name != LOSS else '1'} |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
