"""What goes along with a merge: all of the base but weights, training state and junk; links are followed nowhere else."""

import json
import os
import shutil

import numpy as np
import pytest
from transformers import ProcessorMixin

from gtrturbo.errors import GtrTurboError
from gtrturbo.merging.recipes.files import template_in, write_template
from gtrturbo.models.checkpoint_files import copy_renderer
from gtrturbo.store.manifest import read_manifest

CARRIED = [
    "config.json", "additional_chat_templates/tool.jinja", "vocab.bpe", "source.spm", "bpe.codes", "sentencepiece.bpe.model",
    "tokenizer.tiktoken", "modeling_custom.py", "LICENSE", "USE_POLICY.md", "NOTICE.pdf", "1_Pooling/config.json", "modules.json",
    "params.yaml", "original/params.json", "deep/er/notes.txt", "assets/logo.png", "events.json",
    "scheduler/scheduler_config.json",
]  # fmt: skip
LEFT = [
    "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "training_args.bin", "global_step5/zero.pt",
    "latest",
    "zero_to_fp32.py", ".DS_Store", ".git/config", ".gitattributes", "._config.json", "__pycache__/m.pyc", "config.json~",
    "config.json.bak", "notes.swp", "Thumbs.db", "pytorch_model.bin.index.json", "model.safetensors.bak",
    "runs/e/events.out.tfevents.1",
    "checkpoint-500/config.json", "wandb/x.json", "train_results.json", "onnx/model.onnx", "original/consolidated.00.pth",
    "other.safetensors", "flax_model.msgpack", "special.pkl", "timing.json",
]  # fmt: skip
WRITTEN = ["stage.json", "timing.json", "moved.json", "README.md"]


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def dressed(family):
    base, others = family(2)
    for name in (*CARRIED, *LEFT):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        if not (base / name).exists():
            (base / name).write_text(f"content of {name}")
    return base, others


@pytest.mark.parametrize("none", [True, False])
def test_what_is_no_weight_goes_along_byte_for_byte(folders, dressed, none, capsys):
    base, others = dressed
    if none:  # A merge of no checkpoints is the base, with the weights that are read and those beside them.
        (base / "other.safetensors").unlink()
    out = folders.merge(*([] if none else others), base=base)
    found = files(out)
    assert set(CARRIED) <= found
    copied = set() if none else {name for name in LEFT if name in found}
    assert copied == ({"timing.json"} if not none else set()) and (out / "timing.json").read_text() != "content of timing.json"
    assert all((out / name).read_bytes() == (base / name).read_bytes() for name in CARRIED)
    if not none:
        assert found - set(CARRIED) == {"model.safetensors", *WRITTEN}
        assert f"{base}/onnx/model.onnx holds weights that are not merged" in capsys.readouterr().err


ODD = "Screenshot at 10.00.00\u202fAM.png"


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_merge_of_no_checkpoints_leaves_out_what_every_merge_does(folders, family, adapted, kind, capsys):
    factors = {"a": (np.ones((4, 2), np.float32), np.ones((2, 4), np.float32))}
    base = family(1)[0] if kind == "full" else adapted({"a": np.ones((4, 4), np.float32)}, [factors])[1][0]
    for name in (ODD, "optimizer.pt", "rng_state.pth", "pytorch_model.bin", "training_args.bin", "notes.txt", "README.md"):
        (base / name).write_text(name)
    (folders.root / "secret").write_text("secret")
    (base / "led.txt").symlink_to(folders.root / "secret")
    before = files(base) - {ODD, "optimizer.pt", "rng_state.pth", "pytorch_model.bin", "training_args.bin", "led.txt"}
    out = folders.merge(base=base)
    assert files(out) - {"stage.json", "timing.json"} == before and read_manifest(out).stage == "merge"
    said = " ".join(capsys.readouterr().err.split())
    assert "optimizer.pt, pytorch_model.bin, rng_state.pth, training_args.bin" in said
    assert "has a name that no artifact's file may have" in said and "led.txt is a link that leads out" in said


def test_links_are_followed_within_a_folder_and_nowhere_else(folders, family, capsys):
    base, others = family(1)
    secret = folders.root / "secret.txt"
    secret.write_text("mine")
    (base / "out.txt").symlink_to(secret)
    (base / "real.txt").write_text("here")
    (base / "in.txt").symlink_to("real.txt")
    (base / "gone.txt").symlink_to("nowhere")
    (base / "folder").symlink_to(folders.root)
    (base / "circle").symlink_to(base)
    os.mkfifo(base / "pipe")
    out = folders.merge(*others, base=base)
    assert files(out) == {"config.json", "real.txt", "in.txt", "model.safetensors", *WRITTEN}
    assert (out / "in.txt").read_text() == "here" and not any(path.is_symlink() for path in out.rglob("*"))
    told = capsys.readouterr().err
    assert f"{base}/out.txt is a link that leads out of its folder" in told
    assert all(f"{base}/{name} is neither a file nor a link to one" in told for name in ("gone.txt", "folder", "circle", "pipe"))
    # Weights may lie anywhere: they are read, not copied.
    (base / "model.safetensors").rename(folders.root / "w")
    (base / "model.safetensors").symlink_to(folders.root / "w")
    folders.merge(*others, base=base)
    (base / "config.json").rename(folders.root / "c")
    (base / "config.json").symlink_to(folders.root / "c")
    with pytest.raises(GtrTurboError, match=r"config.json is a link to .*/c, which is not copied"):
        folders.merge(*others, base=base)


def test_a_link_to_the_whole_base_is_the_base(folders, family):
    base, others = family(1)
    (folders.root / "link").symlink_to(base)
    (base / "a").mkdir()
    (base / "a" / "b.txt").write_text("x")
    assert (folders.merge(*others, base=folders.root / "link") / "a" / "b.txt").read_text() == "x"


def test_what_differs_beside_the_weights_is_told(folders, family, capsys):
    base, (one, two) = family(2)
    for folder in (base, one, two):
        (folder / "chat_template.jinja").write_text("old")
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "transformers_version": folder.name}))
        decoder = {"1": {"content": "<a>"}}
        (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, "name_or_path": folder.name}))
    folders.merge(one, two, base=base)
    assert "than the base" not in capsys.readouterr().err
    (one / "chat_template.jinja").write_text("new")
    (one / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    tokens = {"added_tokens_decoder": {"1": {"content": "<b>"}}}
    (two / "tokenizer_config.json").write_text(json.dumps(tokens | {"chat_template": "of no effect beside a file"}))
    (two / "config.json").write_text(json.dumps({"model_type": "none", "rope_theta": 7}))
    out = folders.merge(one, two, base=base)
    said = capsys.readouterr().err
    assert f"{one} has other eos_token_id of generation_config.json, chat template than the base" in said
    assert f"{two} has other rope_theta of config.json, added tokens than the base" in said
    assert (out / "chat_template.jinja").read_text() == "old"
    assert str(folders.root) not in (out / "README.md").read_text()


def test_what_a_card_says_of_names_cannot_leave_its_place(folders, family):
    evil = "w`\n# Head\x1b[31m|<script>\u202e"
    base, one = folders.write("b", {evil: np.ones(2)}), folders.write("c", {evil: np.zeros(2)})
    card = (folders.merge(one, base=base) / "README.md").read_text()
    assert "\x1b" not in card and "\u202e" not in card and "\n# Head" not in card
    line = next(line for line in card.splitlines() if "Head" in line)
    assert line.startswith("- `` ") and line.count("``") == 2 and "w`␊# Head␛" in line


TEMPLATE, LEGACY = {"chat_template.jinja": "mine"}, {"chat_template.json": '{"chat_template": "theirs"}'}
TOKENIZER = {"tokenizer.json": "{}", "tokenizer_config.json": "{}"}
PICTURES = {"preprocessor_config.json": "{}", "video_preprocessor_config.json": "{}", "family.json": "{}"}
PROCESSOR = {"processor_config.json": '{"image_processor": {}}'}


@pytest.mark.parametrize(("own", "other", "stays"), [
    (TEMPLATE, LEGACY, []),
    (LEGACY, TEMPLATE | {"additional_chat_templates/tool.jinja": "theirs"}, []),
    ({"tokenizer_config.json": '{"chat_template": "mine"}'}, TEMPLATE | LEGACY, []),
    (TOKENIZER, LEGACY | dict.fromkeys(("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
                                        "tekken.json"), "{}"), ["chat_template.json"]),
    (PROCESSOR, PICTURES | {"vocab.txt": ""}, ["vocab.txt"]),
    ({"preprocessor_config.json": "{}"}, PROCESSOR | LEGACY, ["chat_template.json"]),
    ({"processor_config.json": "{}"}, PICTURES, [*PICTURES]),
    ({}, TEMPLATE | PICTURES | TOKENIZER, [*TEMPLATE, *PICTURES, *TOKENIZER]),
])  # fmt: skip
def test_nothing_is_left_of_another_renderer_that_would_be_read_in_the_place_of_the_own(tmp_path, own, other, stays):
    for folder, content in (("own", own), ("made", other)):
        (tmp_path / folder).mkdir()
        for name, text in content.items():
            (tmp_path / folder / name).parent.mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
    copy_renderer(tmp_path / "own", tmp_path / "made")
    assert files(tmp_path / "made") == {*own, *stays}


def test_a_merged_adapter_renders_as_it_did_and_not_as_its_base(folders, adapted):
    factors = {"a": (np.ones((4, 2), np.float32), np.ones((2, 4), np.float32))}
    base, [adapter] = adapted({"a": np.ones((4, 4), np.float32)}, [factors])
    for folder, content in ((base, LEGACY | TOKENIZER), (adapter, TEMPLATE | TOKENIZER)):
        for name, text in content.items():
            (folder / name).write_text(text)
    for checkpoints in ([adapter], []):
        merged = folders.merge(*checkpoints, base=adapter, method="linear")
        assert ProcessorMixin.get_processor_dict(str(merged))[0]["chat_template"] == "mine"


def test_a_template_that_is_asked_for_is_the_one_that_is_read(tmp_path):
    made, voter = tmp_path / "made", tmp_path / "voter"
    for folder in (made, voter):
        folder.mkdir()
        for name, text in (TEMPLATE | LEGACY | TOKENIZER | PROCESSOR).items():
            (folder / name).write_text(text)
    assert template_in(made) == "theirs"  # As transformers takes it.
    (made / "processor_config.json").write_text('{"chat_template": "of the processor"}')
    assert template_in(made) == "of the processor"
    for wanted, read in (("{{ asked }}", "{{ asked }}"), ("auto", "theirs")):
        write_template(made, wanted, [voter])
        assert ProcessorMixin.get_processor_dict(str(made))[0]["chat_template"] == read == template_in(made)


def test_a_copy_of_a_checkpoint_in_the_folder_is_none_of_the_base(folders, family):
    base, others = family(1)
    shutil.copytree(folders.merge(*others, base=base), base / "teacher")
    assert not (folders.merge(*others, base=base) / "teacher").exists()


def test_weights_of_a_module_of_its_own_go_along(folders, family, capsys):
    (base, (one,)) = family(1)
    parts = {
        "2_Dense": {"in_features": 4, "out_features": 2, "bias": True},
        "deep/3_Dense": {"in_features": 2},
        "vision": {"model_type": "clip_vision_model"},
        "fp32": json.loads((base / "config.json").read_text()),
        "bare": None,
        "1_Router": None,
    }
    weights = ["model.safetensors", "pytorch_model.bin", "model.onnx", "openvino_model.bin", "tf_model.h5"]
    for name, config in parts.items():
        (base / name).mkdir(parents=True)
        if config is not None:
            (base / name / "config.json").write_text(json.dumps(config))
        for file in weights:
            (base / name / file).write_text(f"{file} of {name}")
    (base / "speech-lora").mkdir()
    (base / "speech-lora" / "adapter_config.json").write_text("{}")
    (base / "speech-lora" / "adapter_model.safetensors").write_text("factors")
    (base / "modules.json").write_text(json.dumps([{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Router"}]))
    found = files(folders.merge(one, base=base))
    kept = {f"{name}/{file}" for name in ("2_Dense", "deep/3_Dense", "vision", "1_Router") for file in weights[:2]}
    kept |= {"speech-lora/adapter_model.safetensors"}
    assert {name for name in found if "/" in name and not name.endswith("config.json")} == kept
    said = capsys.readouterr().err
    for name in kept:
        assert f"{base}/{name} is of a module of its own: it goes along as it is" in said
    assert f"{base}/fp32/model.safetensors holds weights that are not merged" in said
    assert all((base / name).read_bytes() == (folders.root / "merged1" / name).read_bytes() for name in kept)
