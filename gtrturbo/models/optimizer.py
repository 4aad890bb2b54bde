"""AdamW over the model and its value head, with a state that lives in the checkpoint.

Without it every ppo-step of a shell loop would start Adam and the learning-rate schedule anew.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gtrturbo.artifacts import SAFETENSORS_METADATA
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy

OPTIMIZER = "optimizer.safetensors"
UPDATES = "updates"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Optimizer:
    """AdamW with one learning rate for the model and one for the value head; counts the updates (ppo-steps) behind it."""

    def __init__(self, policy: Policy, *, learning_rate: float, value_learning_rate: float, weight_decay: float) -> None:
        self._model = dict(policy.parameters())
        head = policy.value_head.named_parameters() if policy.value_head else ()
        self._head = {f"value_head.{name}": parameter for name, parameter in head}
        self.updates = 0
        groups = [
            {"params": list(self._model.values()), "lr": learning_rate},
            {"params": list(self._head.values()), "lr": value_learning_rate},
        ]
        self._adam = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=weight_decay)

    @property
    def named(self) -> dict[str, nn.Parameter]:
        return self._model | self._head

    def set_learning_rate(self, model: float, head: float) -> None:
        for group, rate in zip(self._adam.param_groups, (model, head), strict=False):
            group["lr"] = rate

    @property
    def learning_rate(self) -> float:
        return self._adam.param_groups[0]["lr"]

    def step(self, *, max_grad_norm: float) -> float:
        """Clip, step, forget the gradients; return the norm before clipping. A norm that is not finite leaves all as it was."""
        norm = float(nn.utils.clip_grad_norm_(list(self.named.values()), max_grad_norm))
        if math.isfinite(norm):
            self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def save(self, folder: Path) -> None:
        """Write moments by parameter name, and the number of updates. A parameter that no loss reaches has none."""
        state: dict[str, Tensor] = {UPDATES: torch.tensor(self.updates)}
        for name, parameter in self.named.items():
            for moment, value in self._adam.state[parameter].items():
                state[f"{moment}.{name}"] = value.cpu().contiguous()
        save_file(state, folder / OPTIMIZER, SAFETENSORS_METADATA)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's optimiser, if it has one.

        Raises:
            GtrTurboError: it belongs to other parameters.
        """
        file = folder / OPTIMIZER
        if not file.is_file():
            return
        state = load_file(file)
        self.updates = int(state.pop(UPDATES))
        expected = {f"{moment}.{name}" for name in self.named for moment in MOMENTS}
        if odd := sorted(state.keys() - expected):
            raise GtrTurboError(f"{file} belongs to other parameters (first: {odd[0]}).", f"see: gtrturbo show {folder} --check")
        for name, parameter in self.named.items():
            if f"step.{name}" not in state:
                continue
            values = {moment: state[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS[1:]}
            self._adam.state[parameter] = {"step": state[f"step.{name}"], **values}
