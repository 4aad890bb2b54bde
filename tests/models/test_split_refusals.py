"""What two processes that split a model say of weights that are not those of the model: no less than one process does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = pytest.mark.long
METADATA = {"format": "pt"}
NAME = "model.layers.1.mlp.down_proj.weight"
IN_MEMORY = NAME.replace("model.", "model.language_model.", 1)
SCRIPT = """
import json, sys
from pathlib import Path
from gtrturbo.distributed.collectives import together
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy

def said_of(path):
    try:
        policy = load_policy(Path(path), device="cpu", split=True)
    except GtrTurboError as error:
        return str(error)
    ends = [end().weight for end in (policy.model.get_input_embeddings, policy.model.get_output_embeddings)]
    return f"{len(list(policy.model.parameters()))} {ends[0] is ends[1]}"

with together() as group:
    said = group.gather([said_of(path) for path in sys.argv[1:]])
    if group.world.first:
        print(json.dumps(said))
"""


def with_nan(weights: dict[str, Tensor]) -> None:
    weights[NAME][-1, 0] = torch.nan


def with_fewer_rows(weights: dict[str, Tensor]) -> None:
    weights[NAME] = weights[NAME][:-1].clone()


def with_fewer_columns(weights: dict[str, Tensor]) -> None:
    weights[NAME] = weights[NAME][:, :-1].clone()


def with_more(weights: dict[str, Tensor]) -> None:
    weights["model.layers.7.mlp.down_proj.weight"] = torch.zeros(2, 2)


def with_less(weights: dict[str, Tensor]) -> None:
    del weights[NAME]


def with_tied_twice(weights: dict[str, Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


def with_a_head_of_its_own(weights: dict[str, Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0)


def from_elsewhere(_: dict[str, Tensor]) -> None:
    pass


def as_it_was(_: dict[str, Tensor]) -> None:
    pass


CHANGES: dict[str, Callable[[dict[str, Tensor]], None]] = {
    change.__name__: change
    for change in (
        with_nan,
        with_fewer_rows,
        with_fewer_columns,
        with_more,
        with_less,
        with_tied_twice,
        with_a_head_of_its_own,
        from_elsewhere,
        as_it_was,
    )
}


@pytest.fixture(scope="module")
def said(init, lora, tmp_path_factory) -> dict[str, list[str]]:
    """What each of two processes says, by change."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "run.py").write_text(SCRIPT)
    for name, change in CHANGES.items():
        shutil.copytree(init, folder / name)
        weights = load_file(init / "model.safetensors")
        change(weights)
        save_file(weights, folder / name / "model.safetensors", METADATA)
    (folder / "from_elsewhere" / "stage.json").unlink()  # So it plays a first turn.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "run.py")]
    paths = [*(folder / name for name in CHANGES), lora]
    # A process that was refused goes on to the next model here, while the other may wait for it, at which gloo aborts at times.
    # In a command an error in one process ends all.
    for _ in range(3):
        run = subprocess.run([*launch, *map(str, paths)], capture_output=True, text=True)
        if not run.returncode:
            break
    assert run.returncode == 0, run.stderr
    return dict(zip([*CHANGES, "lora"], map(list, zip(*json.loads(run.stdout), strict=True)), strict=True))


def loaded(said: list[str]) -> list[bool]:
    return [text == "56 True" for text in said]


def test_a_process_refuses_what_is_no_number_in_its_rows(said):
    # The last row is the second process's. The first is ended by it.
    assert loaded(said["with_nan"]) == [True, False]
    assert f"holds weights that are no numbers (NaN or infinity), first in {IN_MEMORY}" in said["with_nan"][1]


def test_a_row_too_few_is_missed_by_the_process_that_it_is_of(said):
    # 64 rows, of which the first process has its 32, and the second 31.
    assert loaded(said["with_fewer_rows"]) == [True, False]
    assert (
        "with_fewer_rows cannot be loaded: its weights have other shapes than its config.json says." in said["with_fewer_rows"][1]
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("with_fewer_columns", "with_fewer_columns cannot be loaded: its weights have other shapes than its config.json says."),
        (
            "with_more",
            "holds 1 tensors that the model has no place for (first: model.language_model.layers.7.mlp.",
        ),
        ("with_less", f"lacks 1 tensors of the model (first: {IN_MEMORY})"),
        ("with_a_head_of_its_own", "with_a_head_of_its_own ties lm_head.weight to other weights"),
        ("lora", "--fsdp splits full weights, and this checkpoint is an adapter."),
    ],
)
def test_all_processes_refuse_what_one_refuses(said, change, text):
    assert [text in told for told in said[change]] == [True, True]


@pytest.mark.parametrize("change", ["with_tied_twice", "from_elsewhere", "as_it_was"])
def test_tied_weights_are_one_parameter_whether_stored_once_or_twice(said, change):
    assert loaded(said[change]) == [True, True]
