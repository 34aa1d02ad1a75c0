"""`access.sharing = "auto"`: shared by proof before a Databricks workspace, by credential elsewhere."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import AccessSettings, CacheSettings, ConnectionSettings
from tests.integration.conftest import sample
from tests.integration.support import (
    CONFIG,
    LIST,
    MODEL,
    MUCH,
    Api,
    Inbound,
    Upstream,
    answering,
    proxied,
    raw,
    settle,
    sharing,
    until_shared,
)

AUTO = AccessSettings()
FORWARDING = ConnectionSettings(forwarded_fields="auto")
VERSION = {"name": "m", "version": "1"}
LASTING = CacheSettings(mutable_ttl=3600, not_found_ttl=3600, unverified_ttl=3600)


def test_it_is_the_default() -> None:
    assert AUTO.sharing == "auto"


async def test_twenty_tokens_cost_a_workspace_a_proof_each_and_the_model_once(session: Any) -> None:
    model = sample()
    model.readers = frozenset(f"token-{number}" for number in range(20))
    async with (
        EmulatedWorkspace([model], WorkspaceOptions(limit=MUCH, latency=0)) as workspace,
        proxied(workspace.url, access=AUTO, cache=LASTING) as url,
    ):
        assert CONFIG in await until_shared(url, "proven")
        api = Api(session, url)
        for number in range(20):
            assert (await api.get(LIST, token=f"token-{number}", **VERSION)).status == 200
        assert (await api.get(LIST, token="stranger", **VERSION)).status == 403
        assert [len(workspace.arrivals.to(path)) for path in (LIST, MODEL)] == [1, 21]


async def test_elsewhere_each_credential_has_its_own(upstream: Upstream) -> None:
    async with proxied(upstream.url, access=AUTO, cache=LASTING) as url:
        while "no oidc_endpoint" not in (await sharing(url))["reason"]:
            await settle()
        assert (await sharing(url))["mode"] == "credential"
        for token in "aab":
            await raw(url, "GET", f"/api/2.0/mlflow/{LIST}?name=m&version=1", [("Authorization", token)])
    assert len([inbound for inbound in upstream.seen if LIST in inbound.target]) == 2


async def test_a_server_that_is_no_workspace_is_told_with_the_preset_for_it(upstream: Upstream) -> None:
    with capture_logs() as logs:
        async with proxied(upstream.url, access=AUTO) as url:
            while "no oidc_endpoint" not in (await sharing(url))["reason"]:
                await settle()
    [told] = [line for line in logs if line["event"] == "the upstream's kind is known"]
    assert (told["kind"], told["log_level"]) == ("other", "warning")
    assert "--preset open-source" in told["remedy"]


@pytest.mark.parametrize("silence", ["503 Down", "429 Often"])
async def test_until_the_upstream_has_answered_each_has_its_own(upstream: Upstream, silence: str) -> None:
    status = silence

    async def respond(inbound: Inbound) -> None:
        body = json.dumps({"oidc_endpoint": "https://w/oidc"}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        await answering(head.encode() + body)(inbound)

    upstream.respond = respond
    with capture_logs() as logs:
        async with proxied(upstream.url, access=AUTO, cache=LASTING) as url:
            while not upstream.seen:
                await settle()
            found = await sharing(url)
            assert (found["mode"], "not answered" in found["reason"]) == ("credential", True)
            status = "200 OK"
            await until_shared(url, "proven")
    [told] = [line for line in logs if line["event"] == "the upstream's kind is known"]
    assert (told["sharing"], told["kind"], CONFIG in told["reason"]) == ("proven", "databricks", True)


async def test_fields_that_the_proxy_adds_for_a_while_are_not_told_as_what_parts_callers(
    upstream: Upstream,
) -> None:
    status = "503 Down"

    async def respond(inbound: Inbound) -> None:
        body = json.dumps({"oidc_endpoint": "https://w/oidc"}).encode()
        said = status if CONFIG in inbound.target else "200 OK"
        await answering(f"HTTP/1.1 {said}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)(inbound)

    upstream.respond = respond
    target, own = f"/api/2.0/mlflow/{LIST}?name=m&version=1", [("Authorization", "a")]
    with capture_logs() as logs:
        async with proxied(upstream.url, access=AUTO, connections=FORWARDING) as url:
            await raw(url, "GET", target, own)
            [before] = [inbound for inbound in upstream.seen if LIST in inbound.target]
            status = "200 OK"
            await until_shared(url, "proven")
            upstream.seen.clear()
            await raw(url, "GET", target, own)
            after = next(inbound for inbound in upstream.seen if LIST in inbound.target)
    assert [inbound.all("X-Forwarded-For") for inbound in (before, after)] == [["127.0.0.1"], []]
    assert not [line for line in logs if "asked apart" in line["event"]]
