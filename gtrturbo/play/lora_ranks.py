"""Ranks of adapters, and those that vLLM can be started with."""

from pathlib import Path

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.checkpoint_files import adapter_config

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
