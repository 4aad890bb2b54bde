"""What several configs have in common: bounds, and fields that mean the same everywhere."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gtrturbo.config.addresses import servers_of
from gtrturbo.config.bounds import SEED, SIDE_BY_SIDE, TOKENS, WordOrWhole
from gtrturbo.config.choices import AUTO, CPU, InvalidReply, VerifyInputs
from gtrturbo.config.fields import Absent, Checked, Role, Seam, check, fields, shortened
from gtrturbo.errors import GtrTurboError


def check_device(device: str) -> None:
    """Refuse what is no kind of device that torch computes on, with a number or without.

    Raises:
        GtrTurboError: names the kinds.
    """
    if not re.fullmatch(rf"{AUTO}|{CPU}|(?:{'|'.join(ACCELERATORS)})(?::\d+)?", device):
        raise GtrTurboError(f"there is no device {shortened(device)}.", "give one of auto, cpu, cuda.")


def check_named_device(device: str) -> None:
    """Refuse a device as `check_device` does, and auto, where only a device that is named is taken.

    Raises:
        GtrTurboError: names the kinds.
    """
    if device == AUTO:
        raise GtrTurboError("device must be named, got auto.", "give cpu or cuda.")
    check_device(device)


# As torch calls them; cuda is also AMD's.
ACCELERATORS = ("cuda", "mps", "xpu", "hpu", "npu")
Device = Annotated[str, "Where to compute: auto takes cuda if there is one, else cpu.", Role.RUNTIME, Checked(check_device)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    "Type of the weights in memory; auto is what the model's config says, else the type on disk.",
]
Overwrite = Annotated[bool, "Replace --out if it exists.", Role.RUNTIME]
Seed = Annotated[int, "Everything random in this stage follows from it.", SEED]
Log = Annotated[
    tuple[str, ...],
    "Who is told all numbers as they arise: tensorboard, wandb, trackio, or path/to/file.py:NAME of your own; repeatable.",
    Role.RUNTIME,
]
Verify = Annotated[
    VerifyInputs,
    "When large files of the inputs are hashed and compared with their manifests: always, once while they look the same, or "
    "never; small ones are every time.",
    Role.RUNTIME,
]
Out = Annotated[Path, "Folder to write; it appears when the stage is done.", Role.RUNTIME]
TaskName = Annotated[
    str,
    "numberline, ezpoints, blackjack, points24, frozenlake, sokoban, alfworld, minigrid:ID, miniwob:ID or gym:ID, see "
    "the documentation: tasks; one of your own: package.module:NAME or path/to/file.py:NAME.",
    Seam("task"),
]
EnvOptions = Annotated[tuple[str, ...], "KEY=VALUE for the environment, such as image=tiny or horizon=5; repeatable."]
OnInvalidReply = Annotated[
    InvalidReply,
    "What a reply that does not parse does: a random action (as in the paper), nothing, or end the episode.",
]
MaxNewTokens = Annotated[int, "Longest reply in tokens; 256 as in the paper.", TOKENS]
NumEnvs = Annotated[int, "Episodes played side by side, and replies generated in one batch.", SIDE_BY_SIDE]
Engine = Annotated[
    str,
    "Who answers: hf is this process, with transformers; vllm is a server that is started for this stage, see --vllm-python; a "
    "running one by its kind and address, vllm:http://localhost:8000 or sglang:http://localhost:30000; several that share the "
    "episodes with commas between, vllm:http://a:8000,http://b:8000; openai:http://… is any other that speaks the protocol, "
    "which returns no token ids and so serves eval and thoughts alone; or an agent of your own, path/to/file.py:NAME.",
    Seam("engine"),
    Checked(servers_of),
]
VllmPython = Annotated[str, "Python of an environment that has vLLM (--engine vllm).", Role.RUNTIME]
ServedModel = Annotated[str | None, "Model that the server is asked for; the first that it lists if not given."]
Probe = Annotated[
    bool,
    "Before anything is played, prove by log-probs of a few replies that the server serves the checkpoint, which is loaded here "
    "for that (--device; auto is the CPU).",
    Absent(True, silent=True),
]
MicroBatchTokens = Annotated[
    str,
    "Tokens per forward pass, padding included: a number, or auto (8192 on a CPU, what fits on a GPU). Results change by "
    "rounding only.",
    WordOrWhole(AUTO, high=10**9),
]
ProbeTurns = Annotated[
    Path | None,
    "Turns that this checkpoint played elsewhere with --engine hf: their log-probs prove a server of kind vllm, and no weights "
    "are loaded here for that.",
    Role.INPUT,
]
Checkpointing = Annotated[
    bool, "Compute activations again in the backward pass: far less memory, about a third more time, the same result."
]
Fsdp = Annotated[
    bool, "Under torchrun: split full weights, gradients and optimiser over the processes, not only the work.", Role.RUNTIME
]


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage has; checks bounds and choices of all fields when it is made."""

    out: Out
    overwrite: Overwrite = False
    log: Log = ()
    verify_inputs: Verify = "once"

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            check(field, getattr(self, field.name))
