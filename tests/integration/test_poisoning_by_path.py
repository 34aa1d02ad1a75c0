"""Paths that look like others must lead to no command, hide no write and stand for no other file."""

import pytest

from mlflow_proxy.settings import AdminSettings
from tests.integration.poisoning import JSON, A, outcome, reflect, send
from tests.integration.support import API, MODEL, READ, Upstream, proxied, with_files


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/-/purge", 401),
        ("/-/purge?all=true", 401),
        ("/-/../-/purge", 404),
        ("/-/./purge", 404),
        ("/-//purge", 404),
        ("/-/%70urge", 404),
        ("/-/purge/", 404),
        ("/-/purge;x", 404),
        ("/-/PURGE", 404),
        ("/-/x/../purge", 404),
        ("/-/%2e%2e/-/purge", 404),
        ("//-/purge", 200),
        ("/%2d/purge", 200),
        ("/%2D/purge", 200),
        ("/-%2fpurge", 200),
        ("/%2f-/purge", 200),
        ("/./-/purge", 200),
        ("/x/../-/purge", 200),
        ("/-;x/purge", 200),
        ("/-\\purge", 400),
        ("/\\-/purge", 400),
        ("http://proxy.localhost/-/purge", 400),
        ("HTTP://127.0.0.1/-/purge", 400),
        ("/-/purge#", 400),
        ("-/purge", 400),
    ],
)
async def test_no_other_way_leads_to_commands(upstream: Upstream, target: str, status: int) -> None:
    upstream.respond = reflect
    token = AdminSettings.model_validate({"token": "of-the-operator-and-long-enough"})
    body = b'{"all": true}'
    async with proxied(upstream.url, admin=token) as url:
        await send(url, READ, A)
        reply = await send(url, target, [*A, JSON], b"" if "all=" in target else body, method="POST")
        assert reply.status == status, reply
        passed = [call.target for call in upstream.seen[1:]]
        assert passed == ([target] if status == 200 else [])
        # What is passed on is a write of unknown reach: it drops everything as well, but is no command here.
        assert outcome(await send(url, READ, A)) == ("fwd=miss; stored" if passed else "hit")


@pytest.mark.parametrize(
    "path",
    [
        "registered-models%2fdelete",
        "registered%252dmodels/delete",
        "registered-models;x=1/delete",
        "registered-models%5cdelete",
        "Registered-Models/Delete",
        "registered-models/delete/",
        "./registered-models/delete",
        "/registered-models/delete",
        "x/%2e%2e/registered-models/delete",
        "registered-models%00/delete",
        "registered-models/%ff",
    ],
)
async def test_what_a_server_may_take_for_a_write_is_one(upstream: Upstream, path: str) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        await send(url, READ, A)
        assert outcome(await send(url, READ, A)) == "hit"
        reply = await send(url, f"{API}{path}?name=other", A, method="DELETE")
        assert (reply.status, outcome(reply)) == (200, "fwd=bypass")
        assert upstream.seen[-1].target == f"{API}{path}?name=other"
        assert outcome(await send(url, READ, A)) == "fwd=miss; stored"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("name=other", ("X-HTTP-Method-Override", "DELETE")),
        ("name=other", ("X-HTTP-Method", "DELETE")),
        ("name=other", ("x_method_override", "DELETE")),
        ("name=other&_method=DELETE", ("X-Any", "1")),
    ],
)
async def test_a_read_that_may_be_a_write_drops_what_it_may_have_changed(
    upstream: Upstream, query: str, field: tuple[str, str]
) -> None:
    upstream.respond = reflect
    async with proxied(upstream.url) as url:
        await send(url, READ, A)
        for endpoint in (MODEL, "registered-models/delete"):
            assert outcome(await send(url, f"{API}{endpoint}?{query}", [*A, field])) == "fwd=bypass"
            assert upstream.seen[-1].all(field[0]) == [field[1]]
            assert outcome(await send(url, READ, A)) == "fwd=miss; stored"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("artifacts/mlflow-proxy%252Fm/1/f", 200),
        ("artifacts/./mlflow-proxy/m/1/f", 200),
        ("artifacts//mlflow-proxy/m/1/f", 200),
        ("/artifacts/mlflow-proxy/m/1/f", 200),
        ("artifacts/x/../mlflow-proxy/m/1/f", 200),
        ("Artifacts/MLflow-Proxy/m/1/f", 200),
        ("artifacts/mlflow-proxy%2Fm/1/..%2f..%2fother/1/f", 400),
        ("artifacts/mlflow-proxy/m/1/%2e%2e/%2e%2e/other/1/f", 400),
        ("artifacts/mlflow-proxy/m/1/..%5c..%5cf", 400),
        ("artifacts/mlflow-proxy/m/1/f%00", 400),
        ("artifacts/mlflow-proxy/m/1//f", 400),
        ("artifacts/mlflow-proxy/m/1/%ff", 400),
        ("artifacts;x/mlflow-proxy/m/1/f", 501),
        ("%61rtifacts/mlflow-proxy/m/1/f", 501),
        ("artifacts?path=mlflow-proxy/m/1&path=x", 400),
        ("artifacts?path=x&path=mlflow-proxy/m/1", 400),
        ("artifacts?path=x;path=mlflow-proxy/m/1", 400),
        ("artifacts?path=x&path=%6dlflow-proxy%2fm/1", 400),
    ],
)
async def test_a_file_is_the_workspaces_or_the_proxys_by_every_reading(
    upstream: Upstream, path: str, status: int
) -> None:
    upstream.respond = reflect
    target = f"/api/2.0/mlflow-artifacts/{path}"
    async with proxied(upstream.url) as url:
        reply = await send(url, target.replace(" ", "%20"), A)
    assert reply.status == status
    assert [call.target for call in upstream.seen] == ([target] if status == 200 else [])
    if status == 200:
        assert outcome(reply) == "fwd=bypass"


async def test_the_end_of_a_line_in_a_files_name_is_part_of_it(upstream: Upstream) -> None:
    upstream.respond = with_files(reflect, "f\r\nX: 1")
    async with proxied(upstream.url) as url:
        reply = await send(url, "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/f%0d%0aX:%201", A)
    assert reply.status == 502, "the workspace signs nothing"
    signing = upstream.seen[-1]
    assert "path=f%0D%0AX%3A%201" in signing.target
    assert not signing.all("X")
