"""Checkpoints: what is saved is what is loaded, by us and by others, in the same bytes everywhere."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_model, load_policy, save_model
from gtrturbo.models.checkpoint_files import rebased_name
from gtrturbo.models.under_adapter import base_of
from gtrturbo.models.value_head import ValueHead
from gtrturbo.play.recording import read_transcript
from gtrturbo.store.ids import artifact_id


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scores(path: Path, turns: Path) -> np.ndarray:
    policy = load_policy(path, device="cpu")
    transcript = read_transcript(turns, policy.renderer)
    with torch.no_grad():
        return policy.score(transcript.prompts[:2], transcript.tokens.response_ids[:2], temperature=1.0).logprobs.numpy()


@pytest.mark.parametrize("kind", ["warm", "lora_warm"])
def test_a_saved_model_is_loaded_back_with_every_weight(request, tmp_path, kind):
    path = request.getfixturevalue(kind)
    model = load_model(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.arange(parameter.numel()).view_as(parameter) * 1e-6)
    # An adapter's base is named by path and not saved with it, so only the adapter's own weights come back.
    save_model(model, tmp_path, base=str(Path(base_of(path)).resolve()) if kind == "lora_warm" else None)
    back = dict(load_model(tmp_path).named_parameters())
    own = {name: p for name, p in model.named_parameters() if kind == "warm" or "lora_" in name}
    assert len(own) > 10
    assert all(torch.equal(parameter, back[name]) for name, parameter in own.items())


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from gtrturbo.config import InitConfig, SftConfig
from gtrturbo.stages import execute
out, expert = Path(sys.argv[1]), Path(sys.argv[2])
execute(InitConfig(out=out / "init"))
lora = execute(InitConfig(out=out / "lora", lora_rank=4)).out
execute(SftConfig(out=out / "lora_warm", data=(expert,), checkpoint=lora, steps=3, learning_rate=1e-2, batch_size=8))
"""


@pytest.mark.long
def test_another_process_writes_the_same_bytes(tmp_path, init, lora, lora_warm, expert):
    # Hash order differs from process to process; here it differs for certain.
    environment = os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path), str(expert)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for ours in (init, lora, lora_warm):
        assert hashes(tmp_path / ours.name) == hashes(ours)


def test_safetensors_of_a_checkpoint_have_exactly_one_metadata_key(ppo, lora_warm):
    files = [*ppo.glob("*.safetensors"), *lora_warm.glob("*.safetensors")]
    assert {file.name for file in files} >= {"model.safetensors", "adapter_model.safetensors", "value_head.safetensors"}
    for file in files:
        content = file.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["__metadata__"] == {"format": "pt"}, file.name


def test_the_adapters_config_is_sorted_and_names_a_base_relative_to_itself(lora, lora_warm):
    for path, base in ((lora, "base"), (lora_warm, "../lora/base")):
        text = (path / "adapter_config.json").read_text()
        config = json.loads(text)
        assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
        assert config["target_modules"] == sorted(config["target_modules"])
        assert config["base_model_name_or_path"] == base
        assert config["lora_dropout"] == 0.0
        assert not (path / "README.md").exists()


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(lora, lora_warm, turns):
    base = scores(lora / "base", turns)
    assert np.array_equal(scores(lora, turns), base)
    assert np.abs(scores(lora_warm, turns) - base).max() > 1e-2


def test_an_adapter_is_found_with_its_base_after_the_whole_run_was_moved(tmp_path, lora, lora_warm, turns):
    for path in (lora, lora_warm):
        shutil.copytree(path, tmp_path / "moved" / path.name)
    expected = scores(lora_warm, turns)
    assert np.array_equal(scores(tmp_path / "moved" / "lora_warm", turns), expected)
    assert Path(base_of(tmp_path / "moved" / "lora_warm")).resolve() == tmp_path / "moved" / "lora" / "base"


def test_saving_an_adapter_asks_no_other_machine(tmp_path, monkeypatch, lora):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    save_model(load_model(lora), tmp_path, base="../lora/base")
    assert asked == []


OTHERS = """
import sys, numpy, torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText
full, base, adapter, inputs, out = sys.argv[1:]
inputs = {name: torch.from_numpy(value) for name, value in numpy.load(inputs).items()}
models = [AutoModelForImageTextToText.from_pretrained(full)]
models.append(PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), adapter))
with torch.no_grad():
    numpy.savez(out, *[model.eval()(**inputs).logits.numpy() for model in models])
assert not any(name.startswith("gtrturbo") for name in sys.modules)
"""


def test_plain_transformers_and_plain_peft_compute_the_same_without_gtrturbo(tmp_path, warm, lora, lora_warm, turns):
    policies = [load_policy(path, device="cpu") for path in (warm, lora_warm)]
    tensors = read_transcript(turns, policies[0].renderer).prompts[0].tensors
    np.savez(tmp_path / "inputs.npz", **{name: value.numpy() for name, value in tensors.items()})
    paths = [warm, lora / "base", lora_warm, tmp_path / "inputs.npz", tmp_path / "logits.npz"]
    subprocess.run([sys.executable, "-c", OTHERS, *map(str, paths)], check=True, capture_output=True, cwd=tmp_path)
    theirs = np.load(tmp_path / "logits.npz")
    for policy, logits in zip(policies, theirs.values(), strict=True):
        with torch.no_grad():
            # Of another process: with other numbers of threads a product may end in other bits.
            assert np.allclose(policy.model(**tensors).logits.numpy(), logits, rtol=1e-4, atol=1e-5)


def test_only_the_adapter_is_trainable_and_the_rest_frozen(lora_warm):
    model = load_policy(lora_warm, device="cpu", trainable=True).model
    assert isinstance(model, PeftModel)
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in model.named_parameters())


def test_a_checkpoint_that_is_not_to_be_trained_is_frozen(warm, lora_warm):
    for path in (warm, lora_warm):
        assert not any(parameter.requires_grad for parameter in load_policy(path, device="cpu").model.parameters())


def test_an_adapter_file_holds_factors_only(lora_warm):
    names = load_file(lora_warm / "adapter_model.safetensors")
    assert names and all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_no_part_of_a_model_is_left_without_gradient_in_training(warm, turns):
    # The optimiser saves moments of every trainable parameter, so each must be reached by the loss.
    policy = load_policy(warm, device="cpu", trainable=True)
    transcript = read_transcript(turns, policy.renderer)
    policy.score(transcript.prompts[:2], transcript.tokens.response_ids[:2], temperature=1.0).logprobs.sum().backward()
    assert [name for name, parameter in policy.parameters() if parameter.grad is None] == []


def test_a_value_head_comes_back_with_its_sizes_and_weights(tmp_path):
    head = ValueHead.new(64, seed=3)
    torch.nn.init.normal_(head.layers[-1].weight)
    head.save(tmp_path)
    state = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ValueHead.load(tmp_path)(state), head(state))


def test_a_value_head_follows_from_its_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    heads = [ValueHead.new(64, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = [head.layers[0].weight for head in heads]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_checkpoint_without_value_head_has_none(warm):
    assert ValueHead.load(warm) is None


def test_a_damaged_checkpoint_is_named_with_the_command_that_checks_it(tmp_path, warm):
    shutil.copytree(warm, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(GtrTurboError, match=r"broken/model.safetensors cannot be read: .*\nsee: gtrturbo show .*broken --check"):
        load_policy(tmp_path / "broken", device="cpu")


def test_turns_are_refused_where_a_checkpoint_is_wanted(turns):
    with pytest.raises(GtrTurboError, match=r"holds turns \(made by rollout\), not checkpoint"):
        load_policy(turns, device="cpu")


def test_a_hub_id_stays_as_it_is_and_a_folder_becomes_relative(tmp_path):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert rebased_name("Qwen/Qwen2.5-VL-3B-Instruct", tmp_path / "out") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert rebased_name(str(tmp_path / "runs" / "base"), tmp_path / "runs" / "ckpt") == "../base"


def test_two_seeds_give_two_models_and_one_seed_one(tmp_path, init):
    from gtrturbo.config import InitConfig
    from gtrturbo.stages import execute

    other = execute(InitConfig(out=tmp_path / "other", seed=1)).out
    assert artifact_id(other) != artifact_id(init)
    assert hashes(other)["model.safetensors"] != hashes(init)["model.safetensors"]
    assert hashes(other)["tokenizer.json"] == hashes(init)["tokenizer.json"]
