"""What names tokens by id names the same tokens where a recipe takes another vocabulary; and what is told of it is so."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_recipes import save_tokenizer
from test_what_is_read import saved
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from gtrturbo import merge_tensors
from gtrturbo.store.names import RENDERER_FILES

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
GENERATION = {
    "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 5, "forced_eos_token_id": 2, "bad_words_ids": [[3, 4], [6]],
    "suppress_tokens": [7],
}  # fmt: skip


@pytest.fixture
def two(folders):
    """A base, and a model whose vocabulary starts with two more words and lacks two of its words."""
    words = [f"w{i}" for i in range(3, 9)]
    for name, its in (("base", [*words, "w9"]), ("other", ["new0", "new1", *words[:-1]])):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=3 + len(its), eos_token_id=[2, 5], **SMALL))
        model.generation_config = GenerationConfig(**(GENERATION if name == "base" else {"eos_token_id": 7}))
        save_tokenizer(saved(folders.root / name, model, 0), its, f"{name} {{{{ messages }}}}")
    return folders.root / "base", folders.root / "other"


def merged(folders, two, **more):
    base, other = map(str, two)
    recipe = {"merge_method": "linear", "base_model": base, "models": [{"model": each} for each in (base, other)]}
    for each in recipe["models"]:
        each["parameters"] = {"weight": 1}
    file = folders.root / "recipe.yml"
    file.write_text(json.dumps(recipe | more))
    return folders.merge(recipe=str(file))


RANDOM = ["dare-linear", "dare-ties", "della-linear", "della"]


@pytest.fixture
def twice(folders):
    """A base, and two models around it, that store a tied embedding twice, as some that were saved by others do."""
    generator = np.random.default_rng(0)
    models = []
    for name in ("base", "one", "other"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=True, **SMALL))
        file = saved(folders.root / name, model, 0) / "model.safetensors"
        weights = {key: value + generator.normal(size=value.shape).astype("f4") for key, value in load_file(file).items()}
        save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].copy()}, file, {"format": "pt"})
        models.append(file.parent)
    return models


@pytest.mark.parametrize("method", RANDOM)
def test_random_drops_hit_the_same_entries_of_both_copies_of_a_tied_embedding(folders, twice, method):
    base, *others = twice
    weights = load_file(folders.merge(*others, base=base, method=method, density="0.5") / "model.safetensors")
    assert np.array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    states = [{name: torch.from_numpy(value) for name, value in load_file(each / "model.safetensors").items()} for each in twice]
    found = merge_tensors(states[0], states[1:], method, density=0.5)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_random_drops_of_matrices_that_only_the_base_has_alike_are_apart(folders, twice):
    base, one, _ = twice
    file = one / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"] + 1}, file, {"format": "pt"})
    before = load_file(base / "model.safetensors")
    found = load_file(folders.merge(one, base=base, method="dare-linear", density="0.5") / "model.safetensors")
    moved = [found[name] != before[name] for name in ("lm_head.weight", "model.embed_tokens.weight")]
    assert not np.array_equal(*moved)


def tokens(names: AutoTokenizer, ids):
    return [tokens(names, each) for each in ids] if isinstance(ids, list) else names.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("source", ["base", "other", "union"])
def test_all_ids_follow_the_tokens(folders, two, source):
    base, other = two
    out = merged(folders, two, tokenizer_source=str(other) if source == "other" else source)
    was, now = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    config = json.loads((out / "generation_config.json").read_text())
    for name, ids in GENERATION.items():
        assert tokens(now, config[name]) == tokens(was, ids)
    assert tokens(now, json.loads((out / "config.json").read_text())["eos_token_id"]) == ["</s>", "w5"]
    assert LlamaForCausalLM.from_pretrained(out).generation_config.eos_token_id == config["eos_token_id"]


def test_a_token_that_is_gone_is_the_tokenizers_own_or_none(folders, two):
    base, other = two
    gone = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("w8")
    said = {"eos_token_id": gone, "pad_token_id": gone, "suppress_tokens": [gone, 1], "bad_words_ids": [[gone]]}
    GenerationConfig(**said).save_pretrained(base)
    out = merged(folders, two, tokenizer_source=str(other))
    config = json.loads((out / "generation_config.json").read_text())
    assert config["eos_token_id"] == AutoTokenizer.from_pretrained(out).eos_token_id == 2
    assert config.get("pad_token_id") is None and config.get("bad_words_ids") is None and config["suppress_tokens"] == [1]


def test_no_file_of_the_bases_tokenizer_stays_beside_another(folders, two):
    base, other = two
    for name in ("special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.json"):
        (base / name).write_text("{}")
    (base / "added_tokens.json").write_text('{"stale": 10}')
    out = merged(folders, two, tokenizer_source=str(other))
    AutoTokenizer.from_pretrained(other).save_pretrained(folders.root / "alone")
    names = {path.name for path in (folders.root / "alone").iterdir()}
    stays = {path.name for path in base.iterdir() if path.name in {*RENDERER_FILES} and (out / path.name).is_file()}
    assert stays <= names and {"tokenizer.json", "chat_template.jinja"} <= stays
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(other).get_vocab()


def test_only_what_is_the_bases_is_told_to_go_along(folders, two, capsys):
    merged(folders, two)
    said = capsys.readouterr().err
    assert "tokenizer.json" in said and "chat template" in said and "than the base: the base's go along" in said
    merged(folders, two, tokenizer_source=str(two[1]))
    assert "tokenizer.json" not in (said := capsys.readouterr().err) and "chat template" not in said
    merged(folders, two, tokenizer_source="base", chat_template="chatml")
    assert "chat template" not in capsys.readouterr().err
