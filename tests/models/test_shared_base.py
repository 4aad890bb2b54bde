"""What a run keeps in memory between its stages: the same weights, untouched, and never a policy."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import KasaConfig
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from gtrturbo.config import InitConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models import checkpoint
from gtrturbo.models import shared_base as residency
from gtrturbo.models.checkpoint import load_model, load_policy
from gtrturbo.models.checkpoint_files import copy_renderer, point_to_base
from gtrturbo.models.shared_base import fingerprint
from gtrturbo.models.under_adapter import base_of
from gtrturbo.stages import execute
from gtrturbo.store.names import ADAPTER_WEIGHTS
from gtrturbo.store.run_cache import cached, caching, drop


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Note which full weights are read."""
    read: list[str] = []
    load = checkpoint._load_full
    monkeypatch.setattr(checkpoint, "_load_full", lambda model, **more: (read.append(Path(model).name), load(model, **more))[1])
    return read


def tree(model) -> list[tuple]:
    """Describe every module and tensor of a model: kinds, settings, hooks, and bits."""
    modules = [
        (name, type(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for name, module in model.named_modules()
    ]
    tensors = [
        (name, t.dtype, t.requires_grad, t.grad is None) for name, t in [*model.named_parameters(), *model.named_buffers()]
    ]
    return [*modules, *tensors, model.config.to_dict(), model.generation_config.to_dict()]


def bits(model) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in [*model.parameters(), *model.buffers()]]


def train_a_little(policy, transcript) -> None:
    policy.model.enable_input_require_grads()
    policy.model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for _, p in policy.parameters()], lr=0.1)
    policy.score(transcript.prompts[:2], transcript.tokens.response_ids[:2], temperature=1.0).logprobs.sum().backward()
    optimizer.step()


def test_the_base_is_read_once_in_a_run_and_each_time_outside_of_one(lora, lora_warm, reads):
    for path in (lora, lora_warm):
        load_policy(path, device="cpu")
    assert reads == ["base", "base"]
    with caching():
        for path in (lora, lora_warm, lora):
            load_policy(path, device="cpu")
    assert reads[2:] == ["base"]
    load_policy(lora, device="cpu")
    assert reads[3:] == ["base"]  # Nothing outlives the run.


def test_a_kept_base_is_bit_by_bit_and_module_by_module_a_fresh_one_after_many_stages(lora, lora_warm, transcript):
    fresh = checkpoint._load_full(str(lora / "base"), dtype="auto").requires_grad_(False).eval()
    with caching():
        for path in (lora, lora_warm, lora):
            policy = load_policy(path, device="cpu", trainable=True)
            train_a_little(policy, transcript)
            policy.generate(transcript.prompts[:2], None, temperature=1.0, max_new_tokens=2)
            del policy
        where = {"revision": "main", "dtype": "auto", "device": "cpu"}
        found = residency.shared_base(str(lora / "base"), **where, load=lambda: pytest.fail("the base is not kept"))
    assert tree(found) == tree(fresh)
    assert all(torch.equal(one, other) for one, other in zip(bits(found), bits(fresh), strict=True))


def test_a_policy_on_a_kept_base_is_the_policy_on_a_fresh_one(lora, lora_warm, transcript):
    def scores(path: Path) -> torch.Tensor:
        policy = load_policy(path, device="cpu")
        with torch.no_grad():
            return policy.score(transcript.prompts[:2], transcript.tokens.response_ids[:2], temperature=1.0).logprobs

    expected = [scores(path) for path in (lora, lora_warm)]
    with caching():
        found = [scores(path) for path in (lora, lora_warm, lora, lora_warm)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 2, strict=True))
    assert not torch.equal(*expected)


def test_policies_on_one_base_share_its_tensors_and_nothing_else(lora):
    with caching():
        one, other = (load_policy(lora, device="cpu", trainable=True).model for _ in range(2))
    weights = {name: (p, dict(other.named_parameters())[name]) for name, p in one.named_parameters()}
    assert {name for name, (mine, theirs) in weights.items() if mine is theirs} == {n for n in weights if "lora_" not in n}
    assert not {id(module) for module in one.modules()} & {id(module) for module in other.modules()}


def of_peft(folder: Path, lora: Path, **settings) -> Path:
    """An adapter of PEFT's own on the base of another; all that it trains is changed."""
    torch.manual_seed(0)
    base = Path(base_of(lora)).resolve()
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **settings})
    adapted = get_peft_model(checkpoint._load_full(str(base), dtype="auto").requires_grad_(False), config)
    with torch.no_grad():
        for value in (value for value in adapted.parameters() if value.requires_grad):
            value.add_(0.1 * torch.randn_like(value))
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    copy_renderer(lora, folder)
    point_to_base(folder, str(base))
    return folder


def logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_policy(path, device="cpu").model(input_ids=torch.arange(5, 25)[None]).logits


WRITING = {
    "all biases": {"bias": "all"},
    "biases of its own layers": {"bias": "lora_only"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "kasa": {"kasa_config": KasaConfig()},
}


@pytest.mark.parametrize("settings", WRITING.values(), ids=WRITING)
def test_an_adapter_that_peft_writes_into_its_base_leaves_the_kept_base_as_it_was(tmp_path, lora_warm, settings):
    writing = of_peft(tmp_path / "a", lora_warm, **settings)
    expected = [logits(path) for path in (writing, lora_warm)]
    with caching():
        logits(lora_warm)
        found = [logits(path) for path in (writing, lora_warm, writing, lora_warm)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 2, strict=True))


def test_an_adapter_whose_base_is_drawn_anew_at_each_load_is_refused(tmp_path, lora_warm):
    drawn = of_peft(tmp_path / "a", lora_warm, init_lora_weights="pissa_niter_4")
    with pytest.raises(GtrTurboError, match="'pissa_niter_4', which is drawn anew at each load") as error:
        load_policy(drawn, device="cpu")
    assert error.value.fix.startswith("convert it where it was trained")


def test_an_embedding_that_an_adapter_brings_leaves_the_kept_base_as_it_was(tmp_path, lora_warm):
    bringing = of_peft(tmp_path / "a", lora_warm)
    file = bringing / ADAPTER_WEIGHTS
    embedding = load_model(bringing).get_input_embeddings().weight
    save_file(load_file(file) | {"base_model.model.model.language_model.embed_tokens.weight": 2 * embedding}, file)
    expected = logits(lora_warm)
    with caching():
        policy = load_policy(lora_warm, device="cpu")
        before = bits(policy.model)
        assert torch.equal(load_policy(bringing, device="cpu").model.get_input_embeddings().weight, 2 * embedding)
        assert all(torch.equal(one, other) for one, other in zip(bits(policy.model), before, strict=True))
        assert torch.equal(logits(lora_warm), expected)


KEEPING = {
    "plain": {},
    "dora": {"use_dora": True},
    "a module of its own": {"modules_to_save": ["lm_head"]},
    "tokens of its own": {"trainable_token_indices": [5, 6]},
    "an embedding": {"target_modules": ["embed_tokens"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("settings", KEEPING.values(), ids=KEEPING)
def test_an_adapter_that_leaves_its_base_alone_shares_it(tmp_path, lora_warm, reads, settings):
    keeping = of_peft(tmp_path / "a", lora_warm, **settings)
    expected = [logits(path) for path in (keeping, lora_warm)]
    del reads[:]
    with caching():
        found = [logits(path) for path in (keeping, lora_warm, keeping, lora_warm)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected * 2, strict=True))
    assert reads == ["base"]


def test_a_stack_of_experts_that_is_bound_anew_counts_as_it_was():
    class Doubled(torch.nn.Module):
        def forward(self, weights: torch.Tensor) -> torch.Tensor:
            return 2 * weights

    experts = torch.nn.Module()
    experts.stack = torch.nn.Parameter(torch.ones(2, 3, 3))
    before = residency._marks(experts)
    parametrize.register_parametrization(experts, "stack", Doubled())
    parametrize.remove_parametrizations(experts, "stack", leave_parametrized=False)
    assert residency._marks(experts) == before


def test_a_kept_base_that_was_written_into_is_read_again(lora, reads):
    with caching():
        weight = load_policy(lora, device="cpu").model.get_base_model().lm_head.weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
        assert torch.equal(load_policy(lora, device="cpu").model.get_base_model().lm_head.weight, before)
    assert reads == ["base", "base"]


def test_another_base_takes_the_place_of_the_kept_one(tmp_path, lora, reads):
    other = execute(InitConfig(out=tmp_path / "other", lora_rank=4, seed=9)).out
    with caching():
        mine = load_policy(lora, device="cpu").model.get_base_model().lm_head.weight
        theirs = load_policy(other, device="cpu").model.get_base_model().lm_head.weight
        assert not torch.equal(mine, theirs)
        load_policy(lora, device="cpu", dtype="bfloat16")
        load_policy(lora, device="cpu")
    assert reads == ["base"] * 4


def test_a_base_that_was_written_again_is_read_again(tmp_path, reads):
    path = execute(InitConfig(out=tmp_path / "a", lora_rank=4)).out
    with caching():
        before = load_policy(path, device="cpu").model.get_base_model().lm_head.weight
        execute(InitConfig(out=tmp_path / "a", lora_rank=4, seed=1, overwrite=True))
        after = load_policy(path, device="cpu").model.get_base_model().lm_head.weight
    assert not torch.equal(before, after)
    assert reads == ["base", "base"]


def test_a_fingerprint_changes_with_any_file_of_the_same_size(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("one")
    before = fingerprint(str(tmp_path), "main")
    assert fingerprint(str(tmp_path), "main") == before
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").replace(tmp_path / "model.safetensors")
    assert fingerprint(str(tmp_path), "main") != before
    assert fingerprint("org/model", "main") != fingerprint("org/model", "v2")


@pytest.mark.parametrize(("free", "times"), [(100, 1), (49, 2)])
def test_the_base_goes_where_a_second_model_would_leave_less_than_half_of_the_memory(lora, warm, reads, monkeypatch, free, times):
    size = (warm / "model.safetensors").stat().st_size
    monkeypatch.setattr(residency, "memory", lambda device: (size + free, 100))
    with caching():
        load_policy(lora, device="cpu")
        load_policy(warm, device="cpu")
        load_policy(lora, device="cpu")
    assert (reads.count("base"), reads.count(warm.name)) == (times, 1)


def test_memory_of_the_host_is_what_another_library_says():
    psutil = pytest.importorskip("psutil")
    free, total = residency.memory("cpu")
    assert total == psutil.virtual_memory().total
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.1)


@pytest.mark.parametrize("kind", ["warm", "lora_warm"])
def test_a_policy_is_gone_when_its_stage_is(request, kind, transcript):
    path = request.getfixturevalue(kind)
    gc.collect()
    gc.disable()  # Nothing may wait for the collector: the next stage wants the memory now.
    try:
        with caching():
            policy = load_policy(path, device="cpu", trainable=True)
            train_a_little(policy, transcript)
            policy.generate(transcript.prompts[:2], None, temperature=1.0, max_new_tokens=2)
            gone = [weakref.ref(policy.model), weakref.ref(policy.parameters()[0][1])]
            del policy
            assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_renderers_are_shared_between_checkpoints_with_the_same_files(tmp_path, lora, warm):
    with caching():
        assert load_policy(lora, device="cpu").renderer is load_policy(warm, device="cpu").renderer
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in warm.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        (copy / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
        assert load_policy(copy, device="cpu").renderer is not load_policy(warm, device="cpu").renderer


def test_a_merge_works_on_weights_of_its_own(lora):
    with caching():
        kept_weight = load_policy(lora, device="cpu").model.get_base_model().lm_head.weight
        before = kept_weight.clone()
        load_model(lora / "base").lm_head.weight.data.add_(1)
    assert torch.equal(kept_weight, before)


def test_one_thing_is_kept_per_name_and_the_old_one_goes_first():
    alive: list[weakref.ref] = []

    class Thing:
        def __init__(self) -> None:
            assert [reference() for reference in alive if reference()] == []
            alive.append(weakref.ref(self))

    assert isinstance(cached("name", 1, Thing), Thing)
    assert isinstance(cached("name", 1, Thing), Thing)  # Outside of a run the first is gone by now.
    with caching():
        first = weakref.ref(cached("name", 1, Thing))
        assert cached("name", 1, Thing) is first()
        assert cached("name", 2, Thing) is not None and first() is None
        drop("name")
        assert not any(reference() for reference in alive)
        cached("name", 3, Thing)
    assert not any(reference() for reference in alive)
