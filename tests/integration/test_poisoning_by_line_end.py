"""Ends of lines in what is said back must begin no field, no request and no line of the log."""

import json
from urllib.parse import quote

import pytest

from mlflow_proxy import logs
from tests.integration.poisoning import A, ask, posted, reflect, said, send
from tests.integration.support import API, MODEL, READ, Upstream, answering, proxied


async def test_ends_of_lines_stay_encoded(upstream: Upstream) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        for query in ("name=m%0d%0aX-Injected:%201", "name=m%0D%0A%0d%0aGET%20/evil"):
            reply = await send(url, f"{API}{MODEL}?{query}", A)
            assert reply.status == 200
            [call] = upstream.seen
            assert call.target.lower() == f"{API}{MODEL}?{query}".lower().replace(":", "%3a").replace(
                "/e", "%2fe"
            )
            assert not call.all("X-Injected")
            upstream.seen.clear()
        body = json.dumps({"name": "m\r\nX-Injected: 1"})
        assert (await ask(url, posted(body), A)).status == 200
        assert upstream.seen[0].received == b'{"name":"m\\r\\nX-Injected: 1"}'


@pytest.mark.parametrize("value", ["evil\rX-Injected: 1", "evil\x0bX-Injected: 1", "evil\0", "evil\r"])
async def test_a_name_for_the_share_of_the_budget_injects_nothing(upstream: Upstream, value: str) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as inner, proxied(inner) as outer:
        await send(outer, f"{API}{MODEL}?name=first", A)
        for target in (READ, "/x"):
            await send(outer, target, [*A, ("Mlflow-Proxy-Client", value)])
        assert (await send(outer, READ, A)).status == 200
    assert upstream.seen
    for call in upstream.seen:
        assert not call.all("X-Injected")
        assert not call.all("Mlflow-Proxy-Client")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/-/x%0d%0aX-Injected:1"),
        ("GET", "/-/purge?%0d%0aX-Injected:1"),
        ("GET", '/-/"\\'),
        ("POST", "/-/purge?name=%0d%0aX-Injected:%201&x=%22"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/%0d%0aX-Injected:1/1/f"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=mlflow-proxy/%22%0d%0a/1"),
    ],
)
async def test_own_errors_are_json_whatever_they_name(upstream: Upstream, method: str, target: str) -> None:
    async with proxied(upstream.url) as url:
        reply = await send(url, target, [], method=method)
    assert 400 <= reply.status < 500
    assert set(reply.json()) == {"error_code", "message"}
    assert reply.complete
    assert not reply.all("X-Injected")


async def test_a_place_that_the_workspace_names_is_one_line(upstream: Upstream) -> None:
    async with proxied(upstream.url) as url:
        upstream.respond = answering(said(b"", "302 Found", ["Location: /a%0d%0aX-Injected:1"]))
        for target in (READ, "/x"):
            reply = await send(url, target, A)
            assert (reply.status, reply.all("Location")) == (302, ["/a%0d%0aX-Injected:1"])
            assert not reply.all("X-Injected")
        upstream.respond = answering(said(b"", "302 Found", ["Location: /a\rX-Injected: 1"]))
        for target in (READ, "/x"):
            reply = await send(url, target, A)
            assert not reply.all("X-Injected")
            assert "\r" not in "".join(reply.all("Location"))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_name_writes_no_line_of_the_log(
    upstream: Upstream, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    forged = "2026-01-01T00:00:00Z [error    ] forged"
    logs.configure("debug", "json" if form == "json" else "console")
    breaks, texts = ("\n", "\r\n", "\x1b[2K", "\u2028", "\x85"), (forged, "forged")
    async with proxied(upstream.url) as url:
        for name in [f"m{between}{text}" for between in breaks for text in texts]:
            assert (await send(url, f"/-/purge?name={quote(name)}", [], method="POST")).status == 200
    lines = capfd.readouterr().err.splitlines()
    assert ["forged" in line and "purged" in line for line in lines] == [True] * 10
    assert all(line.isprintable() for line in lines)
