"""What weights cannot be split over processes, told without reading any of them."""

from gtrturbo.errors import GtrTurboError


def require_splittable(*, alone: bool, adapter: bool) -> None:
    """Refuse to split where there is one process only, or an adapter is trained, whose gradients are small enough to sum whole.

    Raises:
        GtrTurboError: says which.
    """
    if alone:
        raise GtrTurboError("--fsdp needs several processes.", "run: torchrun --nproc-per-node=N --no-python gtrturbo …")
    if adapter:
        raise GtrTurboError("--fsdp splits full weights, and this checkpoint is an adapter.", "leave out --fsdp.")
