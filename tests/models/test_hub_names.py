"""Names on the hub where there is no hub: one look, not the half minute of its library's."""

import socket

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.hub_names import is_hub_reached, require_found


def test_without_a_network_the_hub_is_looked_for_once(monkeypatch):
    asked = []

    def nobody(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        GtrTurboError, match=r"tniy is no folder, was not fetched before, and the hub is not reached\.\ndid you mean"
    ):
        require_found("tniy", None)
    assert len(asked) <= 2  # The library's headers may ask once more.


def test_a_hub_that_listens_is_reached(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        assert is_hub_reached()
    assert not is_hub_reached()
