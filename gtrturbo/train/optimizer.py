"""AdamW over the model and its value head, with a state that lives in the checkpoint.

Without it every ppo-step of a shell loop would start Adam and the learning-rate schedule anew.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gtrturbo.algorithms.ppo import cosine_learning_rate
from gtrturbo.config.choices import ADAM_EPSILON
from gtrturbo.distributed.collectives import sum_gradients
from gtrturbo.distributed.processes import group
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.policy import Policy
from gtrturbo.models.reading import reading_model
from gtrturbo.models.split_files import described, gather_into
from gtrturbo.models.split_model import full, of_rows, own, own_rows
from gtrturbo.models.stored_types import require_trained_type
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import OPTIMIZER_FILE, VALUE_HEAD
from gtrturbo.store.new_tensors import new_tensors
from gtrturbo.store.safetensors_files import read_header

UPDATES = "updates"
COUNT = "step"
MOMENTS = (COUNT, "exp_avg", "exp_avg_sq")
MASTER = "master"
HEAD_PREFIX = "value_head."


class Optimizer:
    """AdamW with one learning rate for the model and one for the value head; counts the updates (ppo-steps) behind it.

    Weights in bfloat16 are trained as float32 copies and rounded after each step: steps of 1e-5 are lost below half the spacing
    of bfloat16, 2⁻⁹ of a weight's size.

    Raises:
        GtrTurboError: weights are in float16, whose gradients would be 0 below 6e-8 and infinite above 65,504.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        learning_rate: float,
        value_learning_rate: float,
        weight_decay: float,
        epsilon: float = ADAM_EPSILON,
    ) -> None:
        self._model = dict(policy.parameters())
        require_trained_type({parameter.dtype for parameter in self._model.values()})
        head = policy.value_head.named_parameters() if policy.value_head else ()
        self._head = {f"{HEAD_PREFIX}{name}": parameter for name, parameter in head}
        self._trained = {name: _in_float32(parameter) for name, parameter in self.named.items()}
        self._scale = group().world.size if any(isinstance(value, DTensor) for value in self.named.values()) else 1
        self._passed_on: dict[str, Tensor] = {}
        self.updates = 0
        groups = [
            {"params": [self._trained[name] for name in self._model], "lr": learning_rate},
            {"params": [self._trained[name] for name in self._head], "lr": value_learning_rate},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            eps=epsilon,
            weight_decay=weight_decay,
            fused=any(value.is_cuda for value in self.named.values()),
        )

    @property
    def named(self) -> dict[str, nn.Parameter]:
        return self._model | self._head

    def set_learning_rate(self, model: float, head: float) -> None:
        for settings, rate in zip(self._adam.param_groups, (model, head), strict=False):
            settings["lr"] = rate

    @property
    def learning_rate(self) -> float:
        return self._adam.param_groups[0]["lr"]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one process's share of the loss; their sum over processes is what `step` takes."""
        # FSDP averages over processes what is to be summed.
        (loss * self._scale if self._scale > 1 else loss).backward()

    def step(self, *, max_grad_norm: float) -> float:
        """Sum over processes, clip, step, forget the gradients; return the norm before clipping.

        A norm that is not finite leaves all as it was.
        """
        if self._scale == 1:
            sum_gradients(list(self.named.values()))
        for name, parameter in self.named.items():
            if self._trained[name] is not parameter:
                self._trained[name].grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(full(nn.utils.clip_grad_norm_(list(self._trained.values()), max_grad_norm)))
        if math.isfinite(norm):
            self._adam.step()
            self._round()
        self.forget_gradients()
        return norm

    def forget_gradients(self) -> None:
        for parameter in (*self.named.values(), *self._trained.values()):
            parameter.grad = None

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self.named.items():
            if self._trained[name] is not parameter:
                parameter.copy_(self._trained[name])

    def save(self, folder: Path) -> None:
        """Write moments by parameter name, and the number of updates. A parameter that no loss reaches has none.

        All processes take part where weights are split over them; the first writes.
        """
        state: dict[str, Tensor] = {UPDATES: torch.tensor(self.updates)} | self._passed_on
        for name, trained in self._trained.items():
            values = dict(self._adam.state[trained])
            if trained is not self.named[name]:
                values[MASTER] = trained.detach()
            state |= {f"{kind}.{name}": value for kind, value in values.items()}
        with new_tensors() as new:
            if group().world.first:
                (folder / OPTIMIZER_FILE).unlink(missing_ok=True)
                new.lay_out(folder / OPTIMIZER_FILE, {name: described(value) for name, value in state.items()})
            for name, value in state.items():
                gather_into(new, name, value)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's optimiser, if it has one. A value head's moments are passed on where it has no part.

        Raises:
            GtrTurboError: it belongs to other parameters.
        """
        if (folder / OPTIMIZER_FILE).exists():
            with reading_model(folder, f"has an {OPTIMIZER_FILE} that cannot be gone on from"):
                self._load(folder)

    def _load(self, folder: Path) -> None:
        file = folder / OPTIMIZER_FILE
        with safe_open(file, framework="pt") as stored:
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118 - it is no mapping
            self.updates = int(stored.get_tensor(UPDATES))
            del shapes[UPDATES]
            self._require(next(_misfits(shapes, self.updates, self.named), None), folder)
            passed_on = [] if self._head else [key for key in shapes if key.partition(".")[2].startswith(HEAD_PREFIX)]
            expected = {f"{kind}.{name}" for name in self.named for kind in (*MOMENTS, MASTER)}
            if odd := sorted(shapes.keys() - expected - set(passed_on)):
                raise GtrTurboError(f"{file} belongs to other parameters (first: {odd[0]}).", mend_of(folder))
            state = {key: self._own_rows(stored, key) for key in shapes}
        self._require(next(_no_numbers(state), None), folder)
        self._passed_on = {key: state.pop(key) for key in passed_on}
        self._take(state)

    def _require(self, fault: str | None, folder: Path) -> None:
        if fault:
            raise GtrTurboError(f"{folder / OPTIMIZER_FILE} is damaged: {fault}.", mend_of(folder))

    def _own_rows(self, stored: Any, key: str) -> Tensor:
        """Read what this process holds of a stored tensor."""
        kind, _, name = key.partition(".")
        rows = own_rows(self._trained[name]) if kind != COUNT and name in self._trained else None
        return stored.get_tensor(key) if rows is None else stored.get_slice(key)[rows]

    def _take(self, state: dict[str, Tensor]) -> None:
        """Go on from moments of the rows that this process holds."""
        for name, trained in self._trained.items():
            if f"{COUNT}.{name}" in state:
                values = {kind: of_rows(state[f"{kind}.{name}"].to(own(trained).device), trained) for kind in MOMENTS[1:]}
                self._adam.state[trained] = {COUNT: self._count(state[f"{COUNT}.{name}"], trained), **values}
            if trained is not self.named[name] and f"{MASTER}.{name}" in state:
                own(trained.data).copy_(state[f"{MASTER}.{name}"])

    def _count(self, step: Tensor, trained: nn.Parameter) -> Tensor:
        return step.to(trained.device) if self._adam.defaults["fused"] else step


def _misfits(stored: Mapping[str, tuple[int, ...]], updates: int, parameters: Mapping[str, Tensor]) -> Iterator[str]:
    """Say what is wrong with which moments are stored: some of a parameter's are missing, or of another shape."""
    if updates < 0:
        yield f"it counts {updates} updates"
    for key, shape in stored.items():
        kind, _, name = key.partition(".")
        if kind in MOMENTS and any(f"{other}.{name}" not in stored for other in MOMENTS):
            yield f"of {name} there is {kind}, and not all of {', '.join(MOMENTS)}"
        if name in parameters and kind != COUNT and shape != tuple(parameters[name].shape):
            yield f"{key} is {list(shape)}, not {list(parameters[name].shape)}"


def _no_numbers(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Say which stored values are no moments."""
    for key, values in state.items():
        if not values.isfinite().all() or (key.partition(".")[0] in (COUNT, MOMENTS[-1]) and (values < 0).any()):
            yield f"{key} holds numbers that are none of it"


def require_known_head(policy: Policy, checkpoint: Path) -> None:
    """Refuse a checkpoint that was trained with a value head and has none: a new one would take its place.

    Raises:
        GtrTurboError: its optimiser holds moments of a value head.
    """
    file = checkpoint / OPTIMIZER_FILE
    if policy.value_head or not file.exists():
        return
    if any(f".{HEAD_PREFIX}" in entry.name for entry in read_header(file)[1]):
        raise GtrTurboError(
            f"{checkpoint} has no {VALUE_HEAD}, and {OPTIMIZER_FILE} was made with one.",
            mend_of(checkpoint),
        )


def resume_optimizer(
    policy: Policy,
    checkpoint: Path,
    *,
    learning_rate: float,
    final_learning_rate: float,
    value_learning_rate: float | None,
    schedule_updates: int,
    schedule_start: int = 0,
    weight_decay: float,
    epsilon: float = ADAM_EPSILON,
) -> Optimizer:
    """Go on with a checkpoint's optimiser at the learning rates of this update.

    Both fall along one cosine over `schedule_updates` updates, from when `schedule_start` updates are behind the checkpoint, and
    stay where `schedule_updates` is 0; the value head's is the model's if not given.

    Raises:
        GtrTurboError: fewer updates are behind the checkpoint than the cosine begins at.
    """
    head_rate = value_learning_rate or learning_rate
    rates = {"learning_rate": learning_rate, "value_learning_rate": head_rate}
    optimizer = Optimizer(policy, **rates, weight_decay=weight_decay, epsilon=epsilon)
    optimizer.load(checkpoint)
    share = 1.0
    if schedule_updates:
        ends = {"initial": learning_rate, "final": final_learning_rate}
        require_begun(optimizer.updates, checkpoint, schedule_start=schedule_start)
        share = cosine_learning_rate(optimizer.updates - schedule_start, **ends, total=schedule_updates) / learning_rate
    optimizer.set_learning_rate(share * learning_rate, share * head_rate)
    return optimizer


def require_begun(updates: int, checkpoint: Path | None, *, schedule_start: int) -> None:
    """Refuse a schedule that begins after the updates behind a checkpoint; None is one that is still to be made.

    Raises:
        GtrTurboError: says how many there are.
    """
    if updates < schedule_start:
        raise GtrTurboError(
            f"--schedule-start {schedule_start} counts more updates than are behind {checkpoint or 'the first checkpoint'}: "
            f"{updates}.",
            f"give: --schedule-start {updates}",
        )


def updates_behind(checkpoint: Path) -> int:
    """Read how many updates (ppo-steps) are behind a checkpoint: 0 where it has no optimiser.

    Raises:
        GtrTurboError: its optimiser's file is damaged.
    """
    if not (checkpoint / OPTIMIZER_FILE).exists():
        return 0
    with (
        reading_model(checkpoint, f"has an {OPTIMIZER_FILE} that cannot be gone on from"),
        safe_open(checkpoint / OPTIMIZER_FILE, framework="pt") as stored,
    ):
        return int(stored.get_tensor(UPDATES))


def _in_float32(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float()) if parameter.dtype == torch.bfloat16 else parameter
