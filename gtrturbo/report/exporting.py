"""export: turns as other tools load them."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gtrturbo import __version__
from gtrturbo.algorithms.returns import undiscounted
from gtrturbo.analysis.summary import by_episode
from gtrturbo.config import ExportConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.report.preferences import preferred
from gtrturbo.store.apart import require_apart
from gtrturbo.store.claims import claimed_anew, put_in_place
from gtrturbo.store.files import write_whole
from gtrturbo.store.ids import artifact_id
from gtrturbo.store.inside import open_inside
from gtrturbo.store.manifest import Manifest, read_manifest
from gtrturbo.store.pictures import copy_picture
from gtrturbo.store.records import Turn, parts_of
from gtrturbo.store.tensors import TurnTokens
from gtrturbo.store.turns import has_tokens, read_turn_tokens, read_turns
from gtrturbo.store.verification import verify

# A column whose name ends so holds names of pictures, which load_dataset("imagefolder") opens as the column before it.
PICTURES, METADATA = "images_file_names", "metadata.jsonl"
ATIF_VERSION = "ATIF-v1.7"
ACT = "act"
# Who speaks in a trajectory is system, user or agent; what is none of these told the policy something, as a user does.
SOURCES = {"assistant": "agent", "system": "system", "developer": "system"}
TABLE = "turns.parquet"


@dataclass(frozen=True)
class Exported:
    """Turns that are exported.

    Attributes:
        folder: the artifact.
        manifest: of it.
        turns: all of them.
    """

    folder: Path
    manifest: Manifest
    turns: Sequence[Turn]

    @cached_property
    def tokens(self) -> TurnTokens | None:
        """What a policy sampled; None where an expert played."""
        return read_turn_tokens(self.folder, self.turns) if has_tokens(self.folder) else None


def export(config: ExportConfig) -> Path:
    """Write turns as --to says; return the folder, which appears when all is in it.

    Raises:
        GtrTurboError: these are no turns, or not as they were written; something is there already, or a format's package is
            missing.
    """
    manifest = _manifest(config.turns)
    if os.path.lexists(config.out):
        raise GtrTurboError(f"{config.out} exists.", "choose another --out.")
    require_apart("--out", config.out, [config.turns])
    verify(config.turns, "always")  # The pictures, too, which nobody compares who reads them.
    source = Exported(config.turns, manifest, read_turns(config.turns))
    busy = GtrTurboError(f"another process is writing {config.out}.", "wait for it, or choose another --out.")
    with claimed_anew(config.out, busy) as draft:
        FORMATS[config.to](source, draft)
        put_in_place(draft, config.out)
    return config.out


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest.kind not in ("turns", "evaluation"):
        raise GtrTurboError(f"{folder} holds {manifest.kind}, not turns.", "make some with: gtrturbo rollout …")
    return manifest


def _copy_pictures(source: Exported, draft: Path, turns: Iterable[Turn]) -> None:
    for name in dict.fromkeys(name for turn in turns for name in turn.images):
        copy_picture(source.folder, draft, name)


def _write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_whole(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


def _facts(turn: Turn) -> dict[str, Any]:
    """Return what a row says of a turn besides its texts and pictures. What differs from task to task is JSON in a text."""
    return {
        "episode": turn.episode,
        "turn": turn.turn,
        "seed": turn.seed,
        "group": turn.group,
        "action": turn.action,
        "executed": turn.executed,
        "legal": turn.legal,
        "perception_correct": turn.perception_correct,
        "reward": turn.reward,
        "terminated": turn.terminated,
        "truncated": turn.truncated,
        "won": turn.won,
        "info": json.dumps(turn.info),
    }


def _as_image_folder(source: Exported, draft: Path) -> None:
    """A row per turn: the chat, its pictures, and what came of it. Loads with load_dataset("imagefolder", data_dir=…)."""
    rows = ({PICTURES: list(turn.images), "messages": _typed(turn.messages), **_facts(turn)} for turn in source.turns)
    _write_lines(draft / METADATA, rows)
    _copy_pictures(source, draft, source.turns)


def _as_prompts(source: Exported, draft: Path) -> None:
    """A row per reply that parses, as TRL's SFTTrainer takes it: prompt and completion as chats, and the prompt's pictures."""
    legal = [turn for turn in source.turns if turn.legal]
    if not legal:
        raise GtrTurboError(f"no reply in {source.folder} parses, so there is nothing to imitate.", "export with --to hf.")
    split = ((turn, _typed(turn.messages)) for turn in legal)
    rows = ({PICTURES: list(turn.images), "prompt": chat[:-1], "completion": chat[-1:], **_facts(turn)} for turn, chat in split)
    _write_lines(draft / METADATA, rows)
    _copy_pictures(source, draft, legal)


def _as_preferences(source: Exported, draft: Path) -> None:
    """A row per reply that is worse than another to the same prompt and pictures, as TRL's DPOTrainer and RewardTrainer take it.

    Prompt, chosen and rejected are chats, beside the prompt's pictures. Worse is: less was earned from there on, undiscounted,
    by more than rounding.
    """
    pairs = preferred(source.turns)
    if not pairs:
        raise GtrTurboError(
            f"no two replies in {source.folder} to the same input earned differently.",
            "play several episodes a deal: --group-size 8",
        )
    rows = (
        {
            PICTURES: list(worse.turn.images),
            "prompt": _typed(worse.turn.messages[:-1]),
            "chosen": _typed(better.turn.messages[-1:]),
            "rejected": _typed(worse.turn.messages[-1:]),
            "chosen_return": better.total,
            "rejected_return": worse.total,
        }
        for better, worse in pairs
    )
    _write_lines(draft / METADATA, rows)
    _copy_pictures(source, draft, (worse.turn for _, worse in pairs))


def _typed(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write every content as a list of parts with the same keys, as a column has one type."""
    return [
        {"role": message["role"], "content": [{"type": part["type"], "text": part.get("text")} for part in parts_of(message)]}
        for message in messages
    ]


def _as_trajectories(source: Exported, draft: Path) -> None:
    """A trajectory per episode, of the Agent Trajectory Interchange Format 1.7 (Harbor, RFC 0001)."""
    identity, row = artifact_id(source.folder), 0
    for episode in by_episode(source.turns):
        steps = []
        for turn in episode:
            steps += _steps(turn, len(steps) + 1, source.tokens, row)
            row += 1
        name = f"episode-{episode[0].episode:06d}"
        trajectory = {
            "schema_version": ATIF_VERSION,
            "session_id": f"{identity}-{name}",
            "agent": {
                "name": "gtrturbo",
                "version": __version__,
                "model_name": str(source.manifest.inputs.get("checkpoint", "expert")),
                "extra": {"task": source.manifest.config.get("task"), "env": source.manifest.config.get("env")},
            },
            "steps": steps,
            "final_metrics": {
                "total_steps": len(steps),
                "extra": {"return": undiscounted(turn.reward for turn in episode), "won": episode[-1].won},
            },
        }
        write_whole(draft / f"{name}.json", json.dumps(trajectory, ensure_ascii=False, indent=1).encode())
    _copy_pictures(source, draft, source.turns)


def _steps(turn: Turn, first: int, tokens: TurnTokens | None, row: int) -> Iterator[dict[str, Any]]:
    """Yield what the policy was told, and what it said, did and was told of it."""
    pictures = iter(turn.images)
    for message in turn.messages[:-1]:
        source = SOURCES.get(message["role"], "user")
        yield {"step_id": first, "source": source, "message": [_shown(part, pictures) for part in parts_of(message)]}
        first += 1
    yield {
        "step_id": first,
        "source": "agent",
        "message": turn.reply,
        "extra": _facts(turn),
        **({"metrics": _measured(tokens, row)} if tokens else {}),
        **(_acted(turn) if turn.executed is not None else {}),
    }


def _shown(part: dict[str, Any], pictures: Iterator[str]) -> dict[str, Any]:
    if part["type"] != "image":
        return {"type": "text", "text": part["text"]}
    path = next(pictures)
    return {"type": "image", "source": {"media_type": "image/png" if path.endswith(".png") else "image/jpeg", "path": path}}


def _acted(turn: Turn) -> dict[str, Any]:
    call = f"{turn.episode}-{turn.turn}"
    told = json.dumps({"reward": turn.reward, "terminated": turn.terminated, "truncated": turn.truncated, "won": turn.won})
    return {
        "tool_calls": [{"tool_call_id": call, "function_name": ACT, "arguments": {"action": turn.executed}}],
        "observation": {"results": [{"source_call_id": call, "content": told}]},
    }


def _measured(tokens: TurnTokens, row: int) -> dict[str, Any]:
    prompt, reply = tokens.prompt_ids[row].tolist(), tokens.response_ids[row].tolist()
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(reply),
        "prompt_token_ids": prompt,
        "completion_token_ids": reply,
        "logprobs": tokens.sample_logprobs[row].tolist(),
    }


def _as_table(source: Exported, draft: Path) -> None:
    """One file with a row per turn: chat as JSON, pictures as their files' bytes, token ids and log-probs."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise GtrTurboError("--to parquet needs the package pyarrow.", "install it with: pip install pyarrow") from None
    rows = []
    for row, turn in enumerate(source.turns):
        sampled = _measured(source.tokens, row) if source.tokens else {}
        pictures = [{"path": name, "bytes": _content(source.folder, name)} for name in turn.images]
        rows.append({"images": pictures, "messages": json.dumps(turn.messages), **_facts(turn), **sampled})
    parquet.write_table(arrow.Table.from_pylist(rows), draft / TABLE)


def _content(folder: Path, name: str) -> bytes:
    with open_inside(folder, name) as file:
        return file.read()


FORMATS: dict[str, Callable[[Exported, Path], None]] = {
    "hf": _as_image_folder,
    "trl": _as_prompts,
    "trl-preference": _as_preferences,
    "atif": _as_trajectories,
    "parquet": _as_table,
}
