"""Adapters on a server: ranks that vLLM can be started with, and what mends a server's refusal to load one."""

import re
from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config
from gtrturbo.play.failures import NotFoundError

# What vLLM says of an adapter that it holds already, that is not where it looks, and whose rank is too large.
HELD, NOT_SEEN, RANK = "already been loaded", "No adapter found", "rank"
LEGAL_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # What vLLM takes as --max-lora-rank.


def rank_of(adapter: Path) -> int:
    """Return the largest rank in an adapter, of which single modules may have one of their own."""
    config = adapter_config(adapter)
    own = config.get("rank_pattern")
    ranks = [config.get("r"), *(own.values() if isinstance(own, dict) else ())]
    return max((rank for rank in ranks if isinstance(rank, int)), default=1)


def legal_rank(rank: int) -> int:
    """Return the least rank that vLLM can be started with and that holds an adapter's.

    Raises:
        GtrTurboError: there is none.
    """
    if rank > LEGAL_RANKS[-1]:
        raise GtrTurboError(
            f"vLLM takes adapters up to rank {LEGAL_RANKS[-1]}, and this one has {rank}.",
            f"let it answer in this process: --engine hf; or begin anew with: gtrturbo init --lora-rank {LEGAL_RANKS[-1]} …",
        )
    return next(legal for legal in LEGAL_RANKS if rank <= legal)


def refused_load(error: GtrTurboError, base_url: str, adapter: Path) -> GtrTurboError:
    """Say of the server there that it does not load an adapter, and what mends it, from what it says itself."""
    if isinstance(error, NotFoundError) and NOT_SEEN not in error.said:
        return GtrTurboError(
            f"{base_url} loads no adapters while it runs, and {adapter} is one ({error.code}): {error.said}",
            "start vLLM with --enable-lora, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 around it; SGLang with --enable-lora.",
        )
    rank = rank_of(adapter)
    said = re.sub(r"^https?://\S+\s+", "", error.what)
    return GtrTurboError(
        f"{base_url} does not take the adapter {adapter} of rank {rank}: {said}", _mend(said, adapter.resolve(), legal_rank(rank))
    )


def _mend(said: str, adapter: Path, rank: int) -> str:
    if HELD in said:
        return "it holds another under that name: start the server anew."
    if NOT_SEEN in said:
        return f"let the server see {adapter} under that path, too: by a shared disk, or a mount of its container."
    if RANK in said:
        return f"start vLLM with --enable-lora --max-lora-rank {rank}"
    return f"see that it was started with --enable-lora --max-lora-rank {rank}, or more, and sees that folder; its log says more."
