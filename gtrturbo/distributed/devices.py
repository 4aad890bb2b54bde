"""Where to compute."""

import torch

from gtrturbo.distributed.processes import world
from gtrturbo.errors import GtrTurboError


def resolve_device(device: str) -> str:
    """Turn auto into cuda where there is one, else cpu; of several processes each takes the GPU of its local rank."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{world().local_rank}" if device == "cuda" and world().size > 1 else device


def require_device(device: str) -> str:
    """Return the device if torch can compute there.

    Raises:
        GtrTurboError: there is no such device, or this build of torch has no code for it.
    """
    try:
        torch.zeros(1, device=device).item()  # On meta nothing can be read back.
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for a device.
        reason = str(error).splitlines()[0]
        raise GtrTurboError(
            f"--device {device} cannot be used here: {reason}", "give --device cpu, or install a build of torch for the GPU."
        ) from None
    return device
