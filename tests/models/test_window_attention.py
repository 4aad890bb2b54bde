"""The vision tower's attention within windows: what transformers computes window by window, in a few calls."""

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from gtrturbo.models.checkpoint import load_policy, save_model
from gtrturbo.models.window_attention import attend_at_once

# Rows and columns of patches: windows of 8 × 8, and what is left of them at two edges.
GRIDS = torch.tensor([[1, 20, 12], [1, 4, 4], [1, 20, 12], [1, 8, 22]])


class Counted(TorchDispatchMode):
    """Counts attention calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls["attention" if "attention" in str(func) else "other"] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["qwen2.5", "qwen2"])
def tower(request):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = sizes | heads | {"rope_parameters": rope}
    if request.param == "qwen2.5":
        vision = {"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"fullatt_block_indexes": [3]})
        return Qwen2_5_VLForConditionalGeneration(config).eval()
    vision = {"depth": 4, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).eval()


def seen(model):
    """The features of pictures of several sizes, the gradient of a sum of them, and the attention calls of both."""
    pixels = torch.randn(int(GRIDS.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with Counted() as counted:
        features = model.model.visual(pixels, GRIDS).pooler_output
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return features.detach(), gradients, counted.calls["attention"]


def test_features_and_gradients_are_those_of_one_window_after_the_other(tower):
    features, gradients, calls = seen(tower)
    attend_at_once(tower)
    others, other_gradients, fewer = seen(tower)
    assert len(gradients) > 20 and features.abs().max() > 0
    torch.testing.assert_close(others, features, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)
    # Pictures have three sizes. Windows are 8 × 8, 8 × 6, 8 × 4 (or 4 × 8) and 4 × 4 patches. Forward and backward.
    within_windows = 3 if "2_5" in tower.config.model_type else 0
    assert fewer == 2 * (within_windows * 4 + (4 - within_windows) * 3) < calls


def test_a_policy_attends_at_once_and_its_checkpoint_does_not_say_so(warm, tmp_path):
    policy = load_policy(warm, device="cpu")
    assert policy.model.model.visual.config._attn_implementation == "gtrturbo_flash_windows"
    save_model(policy.model, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == (warm / "config.json").read_bytes()
    assert b"flash" not in (tmp_path / "config.json").read_bytes()
