"""A vLLM that is started for a stage is one server, which several processes do not share."""

from gtrturbo.errors import GtrTurboError


def require_one_process(count: int) -> None:
    """Refuse to start a server in each of several processes.

    Raises:
        GtrTurboError: names how many there are.
    """
    if count > 1:
        raise GtrTurboError(
            f"--engine vllm starts one server, and there are {count} processes.",
            "start it yourself, and give its address: --engine vllm:http://…",
        )
