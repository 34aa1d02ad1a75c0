"""An answer whose head has no end must be given up, from the workspace and from storage."""

import asyncio

import pytest

from mlflow_proxy.settings import BudgetSettings, ConnectionSettings
from tests.integration.hostile_answers import DOWNLOAD, all_is_well, exchange, signing
from tests.integration.support import (
    MUCH,
    OK,
    PLAIN,
    READ,
    Inbound,
    RawClient,
    Respond,
    Upstream,
    answering,
    proxied,
    raw,
)

pytestmark = pytest.mark.usefixtures("no_waiting")


async def _hints(inbound: Inbound) -> None:
    while True:
        await inbound.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(0)


async def _a_field_byte_by_byte(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 200 OK\r\nX-A: ")
    while True:
        await inbound.send(b"a")
        await asyncio.sleep(0.01)


async def _fields(inbound: Inbound) -> None:
    await inbound.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        await inbound.send(b"X-%d: a\r\n" % number)
        await asyncio.sleep(0.01)
    await asyncio.Event().wait()


@pytest.mark.parametrize("target", [PLAIN, READ])
@pytest.mark.parametrize("endless", [_hints, _a_field_byte_by_byte, _fields])
async def test_a_header_without_end_has_one(upstream: Upstream, endless: Respond, target: str) -> None:
    upstream.respond = endless
    hasty = ConnectionSettings(read_timeout=0.3)
    budget = BudgetSettings(registry_limit=MUCH, patience=2)
    async with (
        proxied(upstream.url, connections=hasty, budget=budget) as url,
        await RawClient.connect(url) as client,
    ):
        reply = await exchange(client, target)
        assert (reply.status, reply.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
        await all_is_well(client, upstream)


@pytest.mark.parametrize("endless", [_hints, _a_field_byte_by_byte])
async def test_storage_has_to_come_to_an_end_as_well(upstream: Upstream, endless: Respond) -> None:
    async with Upstream() as storage:
        upstream.respond = signing(f"{storage.url}/x")
        storage.respond = endless
        async with proxied(upstream.url, connections=ConnectionSettings(read_timeout=0.3)) as url:
            assert (await raw(url, "GET", DOWNLOAD)).status == 504
            storage.respond = answering(OK)
            assert (await raw(url, "GET", DOWNLOAD)).body == b"{}"
