"""Layers in new places are of the kind that they were: the config follows where a list says it, else the slices are refused."""

import json

import pytest
import torch
from test_what_is_read import saved
from transformers import AutoConfig, AutoModelForCausalLM

from gtrturbo.errors import GtrTurboError

SMALL = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
          "topk_group": 1}  # fmt: skip
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 4}
MIXED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = MIXED | {"shared_expert_intermediate_size": 16}
EVERY_SECOND = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8,
    "mamba_dt_rank": 4, "use_mamba_kernels": False, "pad_token_id": 0, "num_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1, "moe_layer_end_index": 3}
NEO = {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "num_heads": 4}
NESTED = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96, "laurel_rank": 4}


def small(folders, family: str, **settings):
    return saved(folders.root / family, AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | settings)), 0)


def stacked(folders, base, *ranges):
    slices = [{"sources": [{"model": str(base), "layer_range": list(each)}]} for each in ranges]
    file = folders.root / "recipe.yml"
    file.write_text(json.dumps({"merge_method": "passthrough", "slices": slices}))
    return folders.merge(recipe=str(file))


@pytest.mark.parametrize(
    ("family", "settings", "ranges"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1, **ROUTED, **LATENT}, [(1, 4)]),
        ("glm4_moe", {"first_k_dense_replace": 1, **ROUTED}, [(0, 2), (0, 4)]),
        ("dots1", {"first_k_dense_replace": 1, **ROUTED}, [(1, 4)]),
        ("qwen3_moe", {"decoder_sparse_step": 2, **MIXED}, [(1, 4)]),
        ("jamba", EVERY_SECOND, [(1, 4)]),
        ("ernie4_5_moe", ERNIE, [(1, 4)]),
    ],
)
def test_slices_after_which_a_number_in_the_config_means_other_layers_are_refused(folders, family, settings, ranges):
    base = small(folders, family, **settings)
    with pytest.raises(GtrTurboError, match=r"would be of another kind by its config.json"):
        stacked(folders, base, *ranges)


@pytest.mark.parametrize(
    ("family", "settings", "ranges", "lists"),
    [
        ("qwen2_moe", {"mlp_only_layers": [0], **SHARED}, [(0, 3), (0, 4)], {"mlp_only_layers": [0, 3]}),
        ("qwen3_moe", {"decoder_sparse_step": 2, **MIXED}, [(0, 2), (0, 4)], {}),
        (
            "llama4_text",
            {"num_local_experts": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
            [(1, 4)],
            {"moe_layers": [0, 2]},
        ),
        ("gpt_neo", NEO, [(1, 4)], {"attention_layers": ["local", "global", "local"]}),
        (
            "gemma3n_text",
            {**NESTED, "intermediate_size": [48, 32, 16, 24]},
            [(1, 3), (0, 2)],
            {"intermediate_size": [32, 16, 48, 32]},
        ),
        ("minimax", {"num_local_experts": 4, "num_experts_per_tok": 2}, [(1, 4)], {}),
    ],
)
def test_lists_of_layers_follow_and_transformers_loads_what_was_stacked(folders, family, settings, ranges, lists):
    base = small(folders, family, **settings)
    out = stacked(folders, base, *ranges)
    config = json.loads((out / "config.json").read_text())
    assert {name: config[name] for name in lists} == lists
    kind = type(AutoModelForCausalLM.from_pretrained(base))
    model, told = kind.from_pretrained(out, output_loading_info=True)
    assert not any(told.values())
    # Layer by layer the weights that the base has there.
    theirs = kind.from_pretrained(base).state_dict()
    mark, layers = ("transformer.h.", model.state_dict()) if family == "gpt_neo" else ("model.layers.", model.state_dict())
    for number, layer in enumerate(layer for first, last in ranges for layer in range(first, last)):
        ours = {name.removeprefix(f"{mark}{number}."): value for name, value in layers.items() if f"{mark}{number}." in name}
        assert ours
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[f"{mark}{layer}.{name}"], rtol=0, atol=0)


def test_tensors_outside_of_layers_that_have_a_part_for_each_are_no_others_after_slices(folders):
    base = small(folders, "gemma3n_text", **NESTED)
    with pytest.raises(
        GtrTurboError, match=r"embed_tokens_per_layer.weight has a part for each layer: \[96, 32\], and \[96, 16\]"
    ):
        stacked(folders, base, (1, 3))


def test_kinds_that_follow_from_a_layers_number_are_written_where_it_changes(folders):
    base = small(folders, "gemma2")
    config = json.loads((base / "config.json").read_text())
    assert config.pop("layer_types")  # As in files of the hub: layer i slides where i is even.
    (base / "config.json").write_text(json.dumps(config))
    out = stacked(folders, base, (0, 1), (2, 4), (3, 4))
    assert AutoConfig.from_pretrained(out).layer_types == [f"{kind}_attention" for kind in ("sliding", "sliding", "full", "full")]


def test_a_model_that_transformers_does_not_know_is_stacked_and_told(folders, capsys):
    base = small(folders, "llama")
    config = json.loads((base / "config.json").read_text()) | {"model_type": "of_our_own", "architectures": ["OwnModel"]}
    (base / "config.json").write_text(json.dumps(config))
    stacked(folders, base, (0, 2), (0, 4))
    assert "whether its config.json fits the layers in their new places is not known" in capsys.readouterr().err
