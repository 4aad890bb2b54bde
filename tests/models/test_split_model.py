"""Two processes that split a model: each reads its half, and together they write the files that one process writes of it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from more_families import MORE
from tiny_families import FAMILIES, TEXT, VISION
from transformers import AutoModelForImageTextToText, PreTrainedModel

from gtrturbo.models.split_files import MOST_IN_FILE

pytestmark = pytest.mark.long
MOST = "60KB"
# Each process splits the model of every folder, compares it with the whole one, and writes it; it says what it read and held.
SCRIPT = """
import json, sys, weakref
from pathlib import Path
from types import SimpleNamespace
import torch, transformers.modeling_utils as loading
from gtrturbo.distributed.collectives import together
from gtrturbo.models import split_files
from gtrturbo.models.batches import token_budget
from gtrturbo.models.checkpoint import load_model
from gtrturbo.models.split_model import full, load_split
from gtrturbo.store.draft import Draft

read, gathered, most = [], [], 0

class Slice:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def __getitem__(self, rows):
        values = self.inner[rows]
        read.append(values.nbytes)
        return values

class Opened:
    def __init__(self, *args, **settings):
        self.inner = opener(*args, **settings)
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        return self.inner.__exit__(*error)
    def get_slice(self, name):
        return Slice(self.inner.get_slice(name))

def watched(values):
    global most
    whole = full(values)
    gathered.append(weakref.ref(whole))
    most = max(most, sum(each() is not None for each in gathered))
    return whole

def tokens(model, free):
    policy = SimpleNamespace(
        model=model, device=SimpleNamespace(type="cuda"), value_head=None, parameters=lambda: list(model.named_parameters())
    )
    torch.cuda.mem_get_info = lambda device: (free, free)
    return token_budget("auto", policy, recomputes=False)

opener, loading.safe_open = loading.safe_open, Opened
split_files.full = watched
most_in_file, *names = sys.argv[1:]
split_files.MOST_IN_FILE = most_in_file
said = {}
with together() as group:
    for name in names:
        whole = load_model(Path(name))
        read.clear(), gathered.clear()
        most = 0
        ours = load_split(Path(name), device="cpu", dtype="auto")
        own = sum(read)
        state, expected = ours.state_dict(), whole.state_dict()
        differ = [key for key in expected if not torch.equal(full(state[key]), expected[key])]
        for kind in ("named_buffers", "named_parameters"):
            left, right = dict(getattr(ours, kind)()), dict(getattr(whole, kind)())
            differ += left.keys() ^ right.keys()
            differ += [key for key in right if left[key].dtype != right[key].dtype]
            differ += [key for key in right if not torch.equal(full(left[key]), right[key])]
        out = Path(name).parent / "split"
        shards = [out / ".shard-1"]
        if group.world.first:
            shards[0].mkdir(parents=True)
        group.barrier()
        split_files.save_split(ours, Draft(folder=out if group.world.first else shards[0], shards=shards))
        group.barrier()
        # As much as gradients and the optimiser's state of the whole model take.
        free = sum(value.numel() * (12 if value.dtype == torch.float32 else 14) for value in whole.parameters())
        said[name] = [own, differ, most, tokens(whole, free), tokens(ours, free)]
    said = group.gather(said)
    if group.world.first:
        print(json.dumps(said))
"""


def experts(_: Path) -> Any:
    """Experts lie in memory as a stack, and on disk one by one."""
    text = hf.Qwen3MoeConfig(
        vocab_size=99,
        head_dim=8,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        tie_word_embeddings=True,
        **TEXT,
    )
    config = hf.LlavaConfig(text_config=text, vision_config=hf.CLIPVisionConfig(**VISION), image_token_index=98)
    return hf.LlavaForConditionalGeneration(config), None


def bfloat16(folder: Path) -> Any:
    model, processor = FAMILIES["qwen3_vl"](folder)
    return model.to(torch.bfloat16), processor


def turned(_: Path) -> Any:
    """Stacks of experts that transformers may turn."""
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text: dict[str, Any] = {
        "vocab_size": 99,
        "head_dim": 16,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        **TEXT,
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    ids = {"image_token_id": 98, "video_token_id": 97, "vision_start_token_id": 96, "vision_end_token_id": 95}
    config = hf.Qwen3VLMoeConfig(text_config=text | {"rope_parameters": rotary}, vision_config=vision, **ids)
    return hf.Qwen3VLMoeForConditionalGeneration(config), None


def cut(_: Path) -> Any:
    """Two projections are stored as one matrix."""
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = hf.LlavaConfig(
        text_config=hf.Qwen2Config(vocab_size=99, **TEXT),
        vision_config=hf.Dinov2Config(**tower, mlp_ratio=2, use_swiglu_ffn=True),
        image_token_index=98,
    )
    return hf.LlavaForConditionalGeneration(config), None


# mllama has gates of one number, of which the second process holds none.
STORED_ALIKE = {"gemma3": FAMILIES["gemma3"], "internvl": FAMILIES["internvl"], "mllama": MORE["mllama"], "bfloat16": bfloat16,
                "experts": experts}  # fmt: skip
MODELS = STORED_ALIKE | {"turned": turned, "cut": cut}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name, make in MODELS.items():
        made[name] = tmp_path_factory.mktemp(name) / "model"
        torch.manual_seed(0)
        make(made[name].parent)[0].save_pretrained(made[name], max_shard_size=MOST)
    return made


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "run.py").write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "run.py")]
    return subprocess.run([*start, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def two(folders, tmp_path_factory) -> list[dict[str, list]]:
    """What each of two processes says of each model."""
    run = launch(tmp_path_factory.mktemp("two"), MOST, *map(str, folders.values()))
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", MODELS)
def test_a_split_model_is_the_whole_one(two, folders, name):
    assert [said[str(folders[name])][1] for said in two] == [[], []]


@pytest.mark.parametrize("name", STORED_ALIKE)
def test_each_process_reads_its_rows_alone(two, folders, name):
    shares = [said[str(folders[name])][0] for said in two]
    model = AutoModelForImageTextToText.from_pretrained(folders[name])
    stored = sum(value.nbytes for value in model.parameters())
    buffers = sum(value.nbytes for key, value in model.named_buffers() if key in model.state_dict())
    assert sum(shares) == stored + 2 * buffers
    assert max(shares) < 0.65 * stored  # Of five experts one process has three.


@pytest.mark.parametrize("name", STORED_ALIKE)
def test_one_tensor_is_gathered_at_a_time(two, folders, name):
    assert [said[str(folders[name])][2] for said in two] == [1, 1]


def test_a_split_model_leaves_memory_for_tokens(two, folders):
    whole, split = zip(*(said[str(folders["gemma3"])][3:] for said in two), strict=True)
    # 24·32 + 8·64 numbers per token and layer of two, and half of what is free, which is half of 12 bytes of each parameter.
    parameters = sum(value.numel() for value in AutoModelForImageTextToText.from_pretrained(folders["gemma3"]).parameters())
    expected = 0.5 * 6 * parameters / (2 * (24 * 32 + 8 * 64))
    assert whole == (1, 1) and split == pytest.approx((expected, expected), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_split_and_whole_models_have_the_same_files(two, folders, name):
    whole, split = (folders[name].parent / part for part in ("whole", "split"))
    model = AutoModelForImageTextToText.from_pretrained(folders[name])
    model.save_pretrained(whole, max_shard_size=MOST)
    ours, expected = ({file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} for folder in (split, whole))
    assert ours.keys() == expected.keys() and len([file for file in ours if file.endswith(".safetensors")]) > 2
    assert [file for file in expected if ours[file] != expected[file]] == []


def test_files_are_cut_where_transformers_cuts_them():
    assert inspect.signature(PreTrainedModel.save_pretrained).parameters["max_shard_size"].default == MOST_IN_FILE
