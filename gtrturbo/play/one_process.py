"""A vLLM that is started for a stage is one server, which several processes do not share."""

from gtrturbo.errors import GtrTurboError

MEND = "start it yourself, and give its address: --engine vllm:http://…"


def fault_of_processes(count: int) -> str:
    """Say what is wrong with starting a server in each of so many processes; nothing of one."""
    return f"--engine vllm starts one server, and there are {count} processes" if count > 1 else ""


def require_one_process(count: int) -> None:
    """Refuse several processes.

    Raises:
        GtrTurboError: names how many there are.
    """
    if fault := fault_of_processes(count):
        raise GtrTurboError(f"{fault}.", MEND)
