"""A forward proxy is asked for no place that the proxy itself would not ask."""

import pytest

from tests.integration.forward_proxy import ForwardProxy
from tests.integration.storage_destinations import DOWNLOAD, SIGNATURE, naming, refused, stored
from tests.integration.support import Upstream, proxied, raw


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xa9.0xfe.0xa9.0xfe", "metadata.google.internal", "0.0.0.0"]
)
async def test_a_forward_proxy_is_not_asked_for_such_places(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        naming(workspace, f"http://{host}:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            refused(await raw(url, "GET", DOWNLOAD))
        assert len(forward.lines) == 1, "the workspace"
        assert not storage.seen


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1"])
async def test_a_forward_proxy_does_not_open_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        naming(workspace, f"http://{host}:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            refused(await raw(url, "GET", DOWNLOAD))
        assert not storage.seen


async def test_the_forward_proxy_itself_may_be_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace, Upstream() as storage:
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.host}")
        stored(storage)
        naming(workspace, f"http://storage.test:{storage.port}/x?sig={SIGNATURE}")
        async with proxied(f"http://workspace.test:{workspace.port}") as url:
            assert (await raw(url, "GET", DOWNLOAD)).body == b"file"
        assert len(forward.lines) == 2
