"""Square layers, whose shapes do not tell which way round they are stored: as PEFT merges them into the model."""

import pytest
import torch
from checkpoints import read
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, GptOssConfig, GptOssForCausalLM

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.layer_ways import surely_straight


def gpt_oss(inner: int) -> GptOssForCausalLM:
    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=40, hidden_size=32, intermediate_size=inner, num_hidden_layers=1, num_attention_heads=8,
            num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, layer_types=["full_attention"],
        )
    )  # fmt: skip


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=20, tie_word_embeddings=False))


DOWN, GATE = "mlp.experts.down_proj", "mlp.experts.gate_up_proj"
CASES = {
    "experts, square": (lambda: gpt_oss(32), {"target_modules": [], "target_parameters": [DOWN]}),
    "experts beside linear layers": (lambda: gpt_oss(32), {"target_modules": ["q_proj"], "target_parameters": [GATE, DOWN]}),
    "experts, the other square": (lambda: gpt_oss(16), {"target_modules": ["q_proj"], "target_parameters": [GATE]}),
    "Conv1D beside linear layers": (gpt2, {"target_modules": ["attn.c_proj", "lm_head"]}),
    "Conv1D with DoRA": (gpt2, {"target_modules": ["attn.c_proj", "lm_head"], "use_dora": True}),
    "Conv1D alone": (gpt2, {"target_modules": ["attn.c_proj"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_square_layers_are_merged_the_way_that_the_model_stores_them(folders, case):
    make, chosen = CASES[case]
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folders.root / "base")
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, **chosen))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folders.root / "adapter")
    wrapped.merge_and_unload().save_pretrained(folders.root / "full")
    expected = load_file(folders.root / "full" / "model.safetensors")
    out = read(folders.merge(folders.root / "adapter", base=folders.root / "base", method="linear", verify=9))
    base = read(folders.root / "base")
    assert any((expected[name].numpy() != value).any() for name, value in base.items())
    for name, value in expected.items():
        assert abs(out[name] - value.numpy()).max() < 1e-6, name


def test_what_a_model_is_made_of_is_read_from_the_source_of_its_type(tmp_path):
    def straight(config: str) -> bool:
        (tmp_path / "config.json").write_text(config)
        return surely_straight(tmp_path)

    assert straight('{"model_type": "llama"}')
    assert straight('{"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2_5_vl_text"}, "vision_config": {}}')
    for odd in ("gpt2", "gpt_oss", "of-my-own", "../llama", ""):
        assert not straight(f'{{"model_type": "{odd}"}}')
    assert not straight('{"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}')
    assert not straight('{"model_type": "llama", "auto_map": {"AutoModel": "mine.Model"}}')
    assert not straight("[") and not surely_straight(tmp_path / "gone")


def test_square_experts_of_a_model_that_nobody_knows_are_refused(folders, tmp_path):
    model = gpt_oss(32)
    model.save_pretrained(folders.root / "base")
    get_peft_model(model, LoraConfig(r=3, target_modules=[], target_parameters=[DOWN])).save_pretrained(folders.root / "adapter")
    config = folders.root / "base" / "config.json"
    config.write_text(config.read_text().replace('"gpt_oss"', '"of-my-own"').replace("GptOssForCausalLM", "Mine"))
    with pytest.raises(GtrTurboError, match="its shape does not tell"):
        folders.merge(folders.root / "adapter", base=folders.root / "base", method="linear")
