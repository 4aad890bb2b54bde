"""Recipes against mergekit itself: a sample in every run, all kinds with GTRTURBO_ALL_RECIPES=1."""

import json
import os

import numpy as np
import pytest
import torch
import yaml
from checkpoints import read
from recipe_kinds import EXAMPLES, KINDS

pytest.importorskip("mergekit", reason="pip install --no-deps mergekit==0.1.5 immutables==0.21")

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

SAMPLE = ["linear, weight by filter", "numbers as 6e-1", "quoted false", "ties, lambda by layer", "slerp, t 0", "slices, ties",
          "passthrough, layers twice", "model with an adapter", "tokenizer, tokens", "out_dtype", "nearswap"]  # fmt: skip
ALL = EXAMPLES | KINDS
CHOSEN = list(ALL) if os.environ.get("GTRTURBO_ALL_RECIPES") else [*EXAMPLES, *SAMPLE]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip


def save_tokenizer(folder, words: list[str], template: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small Llama in float32, three around it, one with more tokens, and an adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("recipes")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).float()
    model.save_pretrained(root / "base")
    base = {name: value.clone() for name, value in model.state_dict().items()}
    words = [f"w{i}" for i in range(61)]
    for number, name in enumerate("abc"):
        generator = torch.Generator().manual_seed(number)
        model.load_state_dict(
            {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in base.items()}
        )
        model.save_pretrained(root / name)
        save_tokenizer(root / name, words, "{{ messages[0]['content'] }}" if number else "{{ messages[1]['content'] }}")
    save_tokenizer(root / "base", words, "{{ messages[0]['content'] }}")
    more = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 66})).float()
    more.save_pretrained(root / "more")
    save_tokenizer(root / "more", ["new0", "new1", *words], "{{ messages[0]['content'] }}")
    adapted = get_peft_model(
        LlamaForCausalLM.from_pretrained(root / "base"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    )
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.1)
    adapted.save_pretrained(root / "lora")
    return root


def theirs(text: str, out, root):
    how = MergeOptions(quiet=True, write_model_card=False, lora_merge_cache=str(root / "cache"))
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(out), how)
    return out


@pytest.mark.parametrize("kind", CHOSEN)
def test_a_recipe_is_what_mergekit_makes_of_it(folders, root, kind, tmp_path):
    text = ALL[kind].format(root=root)
    file = folders.root / "recipe.yaml"
    file.write_text(text)
    made = folders.merge(recipe=str(file), verify=3)
    expected_folder = theirs(text, tmp_path / "theirs", root)
    found, expected = read(made), read(expected_folder)
    order = rows(made, expected_folder)
    assert found.keys() == expected.keys() - (expected.keys() - found.keys() if tied(made) else set())
    far = entries = 0
    for name, value in found.items():
        wanted = expected[name]
        assert value.dtype == wanted.dtype and value.shape == wanted.shape, name
        if order is not None and value.shape[0] == len(order):
            wanted = wanted[order]
        # mergekit computes in the type that it is asked for, here float32, or float16 and bfloat16: a few units in the last place
        # of the sums, of order 1. An entry near a threshold may fall on its other side: there it may move by what was trimmed.
        far += int((np.abs(value.astype(np.float64) - wanted.astype(np.float64)) > tolerance(made)).sum())
        entries += value.size
    assert far <= entries * (0.01 if tolerance(made) > 1e-5 else 0.0005)
    ours, theirs_ = (json.loads((folder / "config.json").read_text()) for folder in (made, expected_folder))
    for key in ("num_hidden_layers", "vocab_size"):
        assert ours[key] == theirs_[key]
    assert ours.get("dtype", ours.get("torch_dtype")) == theirs_.get("dtype", theirs_.get("torch_dtype"))


def tied(folder) -> bool:
    return bool(json.loads((folder / "config.json").read_text())["tie_word_embeddings"])


def tolerance(folder) -> float:
    from gtrturbo.store.safetensors_files import read_layout

    kinds = {entry.dtype for entry in read_layout(folder).entries.values()}
    return {"F32": 2e-6, "F16": 2e-3, "BF16": 1.6e-2}[kinds.pop()]


def rows(ours, theirs_):
    """Ids of tokens that are new differ: mergekit takes them in the order of a hash table."""
    from transformers import AutoTokenizer

    a, b = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (ours, theirs_))
    assert a.keys() == b.keys()
    if a == b:
        return None
    order = [b[token] for token, _ in sorted(a.items(), key=lambda each: each[1])]
    size = json.loads((ours / "config.json").read_text())["vocab_size"]
    return order + list(range(len(order), size))
