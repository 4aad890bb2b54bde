"""An adapter of float32 weights computes in the type of a bfloat16 model where it is asked to, and nowhere else."""

from contextlib import nullcontext

import torch
from models.test_decoding import prompts_of

from gtrturbo.models.adapter_compute import adapter_precision
from gtrturbo.models.built_in import build
from gtrturbo.models.checkpoint import add_adapter
from gtrturbo.models.policy import Policy


def adapted(dtype: torch.dtype):
    model, processor = build("tiny", 0)
    model = add_adapter(model.to(dtype), rank=8, alpha=16.0, target=(), revision=None, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Policy(model, processor)


def logprobs_and_gradient(policy, precision):
    prompts = prompts_of(policy, 3)
    policy.scorer.precision = precision
    scored = policy.score(prompts, [[5, 6, 7]] * 3, temperature=1.0, values=False).logprobs
    scored.sum().backward()
    gradients = [parameter.grad for _, parameter in policy.parameters()]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return scored.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_log_probs_and_gradients_are_those_of_float32_products_up_to_bfloat16():
    whole = logprobs_and_gradient(adapted(torch.bfloat16), nullcontext)
    policy = adapted(torch.bfloat16)
    rounded = logprobs_and_gradient(policy, adapter_precision(policy.model, device="cpu"))
    exact = logprobs_and_gradient(adapted(torch.float32), nullcontext)
    # What rounding products adds is no more than what the model's own type costs against float32.
    assert 0 < (rounded[0] - whole[0]).abs().max() < (whole[0] - exact[0]).abs().max() < 0.1
    alike = torch.nn.functional.cosine_similarity(rounded[1], exact[1], dim=0)
    assert alike > 0.99


def test_on_a_cpu_and_in_float32_and_without_an_adapter_nothing_changes():
    assert adapter_precision(adapted(torch.bfloat16).model) is nullcontext
    assert adapter_precision(adapted(torch.float32).model, device="cpu") is nullcontext
    assert adapter_precision(build("tiny", 0)[0].to(torch.bfloat16), device="cpu") is nullcontext
