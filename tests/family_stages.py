"""Families × stages: `python tests/family_stages.py [NAME …]` makes a tiny random model of each family, sends it through every
stage, and prints the table of docs/engines.md: what works, and what is refused with which sentence."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from more_families import MORE, TEMPLATES
from tiny_families import FAMILIES, make

from gtrturbo.config import DistillConfig, InitConfig, MergeConfig, PpoStepConfig, RolloutConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint import load_policy
from gtrturbo.models.inputs import to_device
from gtrturbo.play.recording import read_transcript
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest

TASK = {"task": "numberline", "env": ("image=tiny",)}
STAGES = ("init", "sft", "rollout", "merge", "distill", "ppo-step")
GAP = "largest |p − s|"
WORKS = "works"
TEMPERATURE = 0.4


def plain_logprobs(policy, prompt, ids, temperature: float) -> np.ndarray:
    """One forward pass of transformers over prompt and reply, without a cache and without anything of ours but the prompt."""
    batch = dict(prompt.tensors)
    tail = torch.from_numpy(np.asarray(ids[:-1], np.int64))[None]
    count = batch["input_ids"].shape[1]
    for name in prompt.per_token:
        if name in batch:
            kinds = torch.full_like(tail, prompt.in_replies.get(name, 0))
            more = tail if name == "input_ids" else torch.ones_like(tail) if name == "attention_mask" else kinds
            batch[name] = torch.cat([batch[name], more], dim=1)
    with torch.no_grad():
        logits = policy.model(**to_device(policy.model, batch)).logits[0, count - 1 :].double()
    logits[:, policy.forbidden] = -torch.inf
    return (logits / temperature).log_softmax(-1)[torch.arange(len(ids)), torch.from_numpy(np.asarray(ids, np.int64))].numpy()


def largest_gap(turns: Path, policy) -> float:
    """Compare what was sampled with the plain forward pass, in nats."""
    played = read_transcript(turns, policy.renderer)
    rows = zip(played.prompts, played.tokens.response_ids, played.tokens.sample_logprobs, strict=True)
    return max(float(np.abs(sampled - plain_logprobs(policy, prompt, ids, TEMPERATURE)).max()) for prompt, ids, sampled in rows)


def through_all_stages(model: Path, out: Path, template: Path | None) -> Iterator[tuple[str, object]]:
    """Go through the stages; yield each when it is done, and the gap of what was sampled."""
    first = execute(InitConfig(out=out / "init", model=str(model), chat_template=template)).out
    yield "init", WORKS
    data = execute(RolloutConfig(out=out / "expert", expert=True, episodes=8, **TASK)).out
    taught = SftConfig(out=out / "0", checkpoint=first, data=(data,), steps=100, learning_rate=1e-2, batch_size=8)
    zero = execute(taught).out
    yield "sft", WORKS
    play = RolloutConfig(out=out / "t", checkpoint=zero, episodes=2, max_new_tokens=40, temperature=TEMPERATURE, **TASK)
    turns = execute(play).out
    yield "rollout", WORKS
    yield GAP, largest_gap(turns, load_policy(zero, device="cpu"))
    teacher = execute(MergeConfig(out=out / "m", base=first, checkpoints=(zero,))).out
    yield "merge", WORKS
    scores = execute(DistillConfig(out=out / "s", teacher=teacher, rollouts=turns)).out
    yield "distill", WORKS
    update = PpoStepConfig(
        out=out / "1", checkpoint=zero, rollouts=turns, scores=scores, epochs=1, minibatch_size=8, learning_rate=1e-4
    )
    error = read_manifest(execute(update).out).metrics["first_ratio_error"]
    yield "ppo-step", WORKS if error < 1e-5 else f"the first ratio is off by {error:.1e}"


def row_of(name: str, folder: Path) -> dict[str, object]:
    """Fill a row of the table: the first stage that refuses the model says why."""
    found: dict[str, object] = {}
    template = TEMPLATES.get(name)
    if template:
        (folder / "template.jinja").write_text(template)
    try:
        for stage, what in through_all_stages(
            make(name, folder / "model"), folder, folder / "template.jinja" if template else None
        ):
            found[stage] = what
    except GtrTurboError as error:
        refusing = next(stage for stage in STAGES if stage not in found)
        found[refusing] = error.what.replace(str(folder / "model"), name)
    return found


def main(names: list[str]) -> None:
    print("| family |", " | ".join([*STAGES, GAP]), "|")
    print("|---" * (len(STAGES) + 2) + "|")
    FAMILIES.update(MORE)
    for name in names or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            row = row_of(name, Path(folder))
        cells = [
            f"{row.get(column, ''):.0e}" if column == GAP and column in row else row.get(column, "") for column in (*STAGES, GAP)
        ]
        print(f"| {name} |", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
