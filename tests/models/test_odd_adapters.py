"""Adapters on what is no plain linear layer: embeddings, heads that are tied, stacks of experts, and a scale of 0."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_families
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gtrturbo.config import InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, RunConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_model, load_policy
from gtrturbo.models.checkpoint_files import copy_renderer
from gtrturbo.runs.estimate import notes
from gtrturbo.stages import execute
from gtrturbo.store.names import ADAPTER_CONFIG, MANIFEST

TASK = {"task": "numberline", "env": ("image=tiny",)}


def adapter(folder: Path, base: Path, **settings) -> Path:
    """An adapter of PEFT's own on a checkpoint, with factors that change something."""
    torch.manual_seed(0)
    adapted: Any = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), LoraConfig(**{"r": 2, **settings}))
    with torch.no_grad():
        for value in (value for value in adapted.parameters() if value.requires_grad):
            value.add_(0.01 * torch.randn_like(value))
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    copy_renderer(base, folder)
    _set(folder / ADAPTER_CONFIG, base_model_name_or_path=str(base))
    return folder


def _set(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_trained_tokens_go_through_all_stages(warm, expert, tmp_path):
    given = adapter(tmp_path / "a", warm, target_modules=["q_proj"], trainable_token_indices=[5, 6, 70])
    turns = execute(RolloutConfig(out=tmp_path / "turns", checkpoint=given, episodes=4, max_new_tokens=48, **TASK)).out
    again = execute(SftConfig(out=tmp_path / "sft", data=(expert,), checkpoint=given, steps=1, batch_size=4)).out
    assert load_file(again / "adapter_model.safetensors").keys() == load_file(given / "adapter_model.safetensors").keys()
    update = PpoStepConfig(out=tmp_path / "ppo", checkpoint=given, rollouts=turns, epochs=1, minibatch_size=16)
    assert execute(update).metrics["sampler_trainer_gap_max"] < 1e-4
    merged = execute(MergeConfig(out=tmp_path / "merged", base=warm, checkpoints=(given,), density="1")).out
    ids = torch.arange(5, 105)[None]
    with torch.no_grad():
        one, other = (load_model(path)(input_ids=ids).logits for path in (merged, given))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_factors_of_an_embedding_load_and_say_nothing_of_peft(warm, tmp_path):
    given = adapter(tmp_path / "a", warm, target_modules=["q_proj", "embed_tokens"])
    with warnings.catch_warnings(record=True) as told:
        load_policy(given, device="cpu")
    assert not [each for each in told if issubclass(each.category, UserWarning)]


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_init_and_the_dry_run_refuse_an_adapter_on_one_end_of_a_tie(init, tmp_path, target):
    with pytest.raises(GtrTurboError, match=rf"{target} of this qwen2_5_vl is tied") as error:
        execute(InitConfig(out=tmp_path / "out", model=str(init), lora_rank=2, lora_target=(target,)))
    assert error.value.fix == f"leave {target} out of --lora-target."
    with pytest.raises(GtrTurboError, match="is tied"):
        notes(RunConfig(out=tmp_path / "run", model=str(init), lora_rank=2, set=(f"init.lora_target={target}",), **TASK))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_end_that_is_not_tied_is_trained_and_merged(init, expert, tmp_path, target):
    model = AutoModelForImageTextToText.from_pretrained(init)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "model")
    copy_renderer(init, tmp_path / "model")
    made = InitConfig(out=tmp_path / "lora", model=str(tmp_path / "model"), lora_rank=2, lora_target=(target,))
    sft = SftConfig(out=tmp_path / "sft", data=(expert,), checkpoint=execute(made).out, steps=2, batch_size=4, learning_rate=1e-2)
    assert execute(MergeConfig(out=tmp_path / "merged", checkpoints=(execute(sft).out,))).metrics["delta_norm"] > 0


def test_an_adapter_that_is_scaled_by_0_is_refused_where_it_is_loaded(lora_warm, tmp_path):
    given = shutil.copytree(lora_warm, tmp_path / "a")
    (given / MANIFEST).unlink()
    _set(given / ADAPTER_CONFIG, lora_alpha=0, base_model_name_or_path=str(lora_warm.parent / "lora" / "base"))
    with pytest.raises(GtrTurboError, match=r"scales all of the adapter's factors by 0 \(lora_alpha\)"):
        load_policy(given, device="cpu")


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> Path:
    """A Qwen3-VL whose layers are mixtures of four experts."""
    folder = tmp_path_factory.mktemp("moe") / "moe"
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    words = tiny_families.tokenizer(names, bos=False)
    ids = {f"{name}_id": getattr(words, f"{name}_id") for name in names}
    mixture = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text = {"vocab_size": len(words), "head_dim": 16, "max_position_embeddings": 2048, "rope_parameters": rope}
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14}
    tower |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    settings: Any = {"text_config": text | mixture | tiny_families.TEXT, "vision_config": tower, **ids}
    torch.manual_seed(0)
    Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**settings)).save_pretrained(folder)
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 64 * 784}, patch_size=14, merge_size=2)
    template = tiny_families.template("<|vision_start|><|image_pad|><|vision_end|>", bos=False)
    made: Any = tiny_families._without_videos(Qwen3VLProcessor)
    made(pictures, words, None, chat_template=template).save_pretrained(folder)
    return folder


def test_experts_that_an_adapter_leaves_frozen_are_told(experts, tmp_path, capsys):
    execute(InitConfig(out=tmp_path / "lora", model=str(experts), lora_rank=2))
    weights = load_file(experts / "model.safetensors")
    language = {name: value.numel() for name, value in weights.items() if "visual" not in name}
    share = sum(count for name, count in language.items() if ".experts." in name) / sum(language.values())
    told = " ".join(capsys.readouterr().err.split())
    assert f"{share:.1%} of the weights of {experts}'s language model are experts" in told
    assert "(down_proj and gate_up_proj)" in told and "LoRA leaves them frozen" in told


@pytest.mark.parametrize("targets", [("gate_up_proj",), ("q_proj", "experts.down_proj")])
def test_an_adapter_on_a_stack_of_experts_is_refused_by_its_name(experts, tmp_path, targets):
    with pytest.raises(GtrTurboError, match=rf"{targets[-1]} of a qwen3_vl_moe is a stack of experts") as error:
        execute(InitConfig(out=tmp_path / "lora", model=str(experts), lora_rank=2, lora_target=targets))
    assert error.value.fix.startswith("name linear layers, such as ")
