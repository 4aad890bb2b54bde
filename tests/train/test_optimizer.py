"""AdamW whose state lives in the checkpoint: interrupted and continued equals never interrupted."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from resealed import reseal
from safetensors.torch import load_file, save_file
from torch import nn

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.train.optimizer import Optimizer, require_known_head

RATES = {"learning_rate": 0.1, "value_learning_rate": 0.3, "weight_decay": 0.01}


def new_policy(*, head: bool = True) -> SimpleNamespace:
    """A model of four weights and a value head of two, always the same."""
    torch.manual_seed(0)
    model, value_head = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    return SimpleNamespace(model=model, value_head=value_head if head else None, parameters=model.named_parameters)


def weights(policy) -> list[nn.Parameter]:
    return [policy.model.weight] + ([policy.value_head.weight] if policy.value_head else [])


def give_gradients(policy, step: int, size: float = 1e-3) -> None:
    for weight in weights(policy):
        weight.grad = size * torch.arange(weight.numel(), dtype=torch.float32).view_as(weight).add(step).sin()


def test_steps_through_the_disk_equal_uninterrupted_adamw(tmp_path):
    ours, theirs = new_policy(), new_policy()
    adamw = torch.optim.AdamW(
        [{"params": [theirs.model.weight], "lr": 0.1}, {"params": [theirs.value_head.weight], "lr": 0.3}], weight_decay=0.01
    )
    for step in range(3):
        optimizer = Optimizer(ours, **RATES)
        optimizer.load(tmp_path)  # Nothing there the first time.
        give_gradients(ours, step)
        optimizer.step(max_grad_norm=1.0)
        optimizer.save(tmp_path)
        give_gradients(theirs, step)
        adamw.step()
    for left, right in zip(weights(ours), weights(theirs), strict=True):
        assert torch.equal(left, right)


def test_the_saved_state_counts_steps_per_parameter_and_updates(tmp_path):
    policy = new_policy()
    optimizer = Optimizer(policy, **RATES)
    for step in range(4):
        give_gradients(policy, step)
        optimizer.step(max_grad_norm=1.0)
    optimizer.updates += 1
    optimizer.save(tmp_path)
    state = load_file(tmp_path / "optimizer.safetensors")
    assert state["updates"].item() == 1
    assert state["step.weight"].item() == state["step.value_head.weight"].item() == 4


def test_gradients_are_scaled_down_to_the_largest_norm_over_model_and_head_together():
    policy = new_policy()
    optimizer = Optimizer(policy, **RATES)
    for weight in weights(policy):
        weight.grad = torch.full_like(weight, 2.0)
    # Six entries of 2: norm sqrt(24). The first AdamW moment is 0.1 g, with g scaled by 1/sqrt(24).
    assert optimizer.step(max_grad_norm=1.0) == pytest.approx(24**0.5, abs=1e-5)
    moment = optimizer._adam.state[policy.model.weight]["exp_avg"]
    assert moment.flatten().tolist() == pytest.approx([0.1 * 2 / 24**0.5] * 4, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_weights_and_is_reported(bad):
    policy = new_policy()
    before = [weight.clone() for weight in weights(policy)]
    optimizer = Optimizer(policy, **RATES)
    give_gradients(policy, 0)
    policy.model.weight.grad[0, 0] = bad
    norm = optimizer.step(max_grad_norm=1.0)
    assert not norm < float("inf")
    assert all(torch.equal(old, weight) for old, weight in zip(before, weights(policy), strict=True))
    assert all(weight.grad is None for weight in weights(policy))


def test_model_and_head_keep_learning_rates_of_their_own():
    policy = new_policy()
    before = [weight.clone() for weight in weights(policy)]
    optimizer = Optimizer(policy, learning_rate=1.0, value_learning_rate=1.0, weight_decay=0.0)
    optimizer.set_learning_rate(0.1, 0.3)
    for weight in weights(policy):
        weight.grad = torch.full_like(weight, 1e-3)
    optimizer.step(max_grad_norm=1.0)
    # The first AdamW step is the learning rate times the gradient's sign.
    moved = [(old - weight).flatten().tolist() for old, weight in zip(before, weights(policy), strict=True)]
    assert moved == [pytest.approx([0.1] * 4, abs=1e-4), pytest.approx([0.3] * 2, abs=1e-4)]


def saved(folder, policy) -> dict[str, torch.Tensor]:
    """Take one step and write the state."""
    optimizer = Optimizer(policy, **RATES)
    optimizer.load(folder)
    give_gradients(policy, 0)
    optimizer.step(max_grad_norm=1.0)
    optimizer.save(folder)
    return load_file(folder / "optimizer.safetensors")


def test_the_state_of_other_parameters_is_refused_and_named(tmp_path):
    saved(tmp_path, new_policy())
    other = new_policy()
    other.parameters = lambda: [("other", other.model.weight)]
    with pytest.raises(GtrTurboError, match=r"belongs to other parameters \(first: exp_avg\.weight\)"):
        Optimizer(other, **RATES).load(tmp_path)


def test_the_moments_of_a_value_head_that_has_no_part_are_passed_on(tmp_path):
    before = saved(tmp_path, new_policy())
    after = saved(tmp_path, new_policy(head=False))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if "value_head" in name)
    assert (after["step.weight"].item(), after["step.value_head.weight"].item()) == (2, 1)


def in_bfloat16() -> SimpleNamespace:
    policy = new_policy(head=False)
    policy.model.bfloat16()
    nn.init.ones_(policy.model.weight)
    return policy


def test_weights_in_float16_are_refused_with_the_type_to_train_in():
    # 6e-8 is the least number of float16: what is below its half, as gradients of a large model may be, is 0.
    assert torch.tensor(2e-8).half() == 0
    policy = new_policy()
    policy.model.half()
    with pytest.raises(GtrTurboError, match=r"weights in float16 are not trained: .*\nadd: --dtype bfloat16"):
        Optimizer(policy, **RATES)


def test_small_steps_on_bfloat16_weights_add_up(tmp_path):
    # Below 1 the spacing of bfloat16 is 2⁻⁸: a step of 1e-4 changes nothing by itself, fifty make 5e-3.
    policy = in_bfloat16()
    rates = {"learning_rate": 1e-4, "value_learning_rate": 1e-4, "weight_decay": 0.0}
    for _ in range(2):  # Half of them after a detour over the disk.
        optimizer = Optimizer(policy, **rates)
        optimizer.load(tmp_path)
        for _ in range(25):
            policy.model.weight.grad = torch.ones_like(policy.model.weight)
            optimizer.step(max_grad_norm=1e9)
        optimizer.save(tmp_path)
    assert policy.model.weight.dtype == torch.bfloat16
    assert policy.model.weight.flatten().tolist() == [1 - 2**-8] * 4  # 0.995 rounds to 0.99609375.
    assert load_file(tmp_path / "optimizer.safetensors")["master.weight"].flatten().tolist() == pytest.approx(
        [0.995] * 4, abs=1e-5
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state, name: state.pop(f"exp_avg.{name}"), "not all of step, exp_avg, exp_avg_sq"),
        (lambda state, name: state.pop(f"step.{name}"), "not all of step, exp_avg, exp_avg_sq"),
        (lambda state, name: state.update({f"exp_avg.{name}": torch.zeros(3)}), r"exp_avg\.\S+ is \[3\], not \["),
        (lambda state, name: state[f"exp_avg.{name}"].fill_(torch.nan), "holds numbers that are none of it"),
        (lambda state, name: state[f"exp_avg_sq.{name}"].fill_(-1), "holds numbers that are none of it"),
        (lambda state, name: state.update(updates=torch.tensor(-1)), "it counts -1 updates"),
    ],
)
def test_moments_that_are_none_are_refused(ppo, tmp_path, change, said):
    shutil.copytree(ppo, tmp_path / "c")
    file = tmp_path / "c" / "optimizer.safetensors"
    state = load_file(file)
    change(state, min(key for key in state if key.startswith("step.")).removeprefix("step."))
    save_file(state, file, {"format": "pt"})
    policy = load_policy(tmp_path / "c", device="cpu", trainable=True)
    with pytest.raises(GtrTurboError, match=said):
        Optimizer(policy, **RATES).load(tmp_path / "c")


def test_a_value_head_that_the_optimiser_knows_and_that_is_gone_is_missed(ppo, tmp_path):
    shutil.copytree(ppo, tmp_path / "c")
    (tmp_path / "c" / "value_head.safetensors").unlink()
    policy = load_policy(reseal(tmp_path / "c"), device="cpu", trainable=True)
    with pytest.raises(GtrTurboError, match=r"has no value_head.safetensors, and optimizer.safetensors was made with one"):
        require_known_head(policy, tmp_path / "c")
    require_known_head(load_policy(ppo, device="cpu"), ppo)
