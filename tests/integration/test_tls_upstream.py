"""The way to the workspace and its storage: whom they trust, what they are shown, and proxies in between."""

import asyncio
import datetime
import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mlflow_proxy.settings import ConnectionSettings
from tests.certificates import Authority, subject
from tests.integration.forward_proxy import ForwardProxy
from tests.integration.support import (
    API,
    SIGN,
    Inbound,
    Respond,
    Upstream,
    proxied,
    raw,
    settle,
)

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
WRITE = API + "runs/create"
"""A call that is not repeated when it fails, so that failures are told at once."""
HUSH = "hush-hush"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(authority: Authority) -> ConnectionSettings:
    return ConnectionSettings(ca_file=str(authority.file))


def of_workspace(tls: ssl.SSLContext | None, storage: Upstream | None = None) -> Upstream:
    """Return a workspace that signs URLs of a storage, and says ok otherwise."""
    workspace = Upstream(tls=tls)

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        body = b"{}"
        if storage is not None and SIGN in inbound.line:
            body = json.dumps({"signed_uri": f"{storage.url}/signed?sig=1", "headers": []}).encode()
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    workspace.respond = respond
    return workspace


def who(inbound: Inbound) -> str | None:
    """Return the name in the certificate that was shown."""
    return subject(inbound.writer.get_extra_info("ssl_object"))


async def message(url: str) -> str:
    reply = await raw(url, "POST", WRITE)
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
    said: str = reply.json()["message"]
    return said


# -- trust -----------------------------------------------------------------------------------------------


async def test_an_authority_of_ones_own(authority: Authority) -> None:
    context = authority.issue("workspace").context()
    async with (
        Upstream(tls=context) as storage,
        of_workspace(context, storage) as workspace,
        proxied(workspace.url, connections=trusting(authority)) as url,
    ):
        assert (await raw(url, "POST", WRITE)).status == 200
        reply = await raw(url, "GET", DOWNLOAD)
        assert (reply.status, reply.body) == (200, b"{}")
        assert storage.seen


async def test_the_systems_authorities_are_trusted_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = Authority(tmp_path, "system"), Authority(tmp_path, "own")
    monkeypatch.setenv("SSL_CERT_FILE", str(system.file))
    for authority in (system, own):
        async with (
            Upstream(tls=authority.issue("workspace").context()) as workspace,
            proxied(workspace.url, connections=trusting(own)) as url,
        ):
            assert (await raw(url, "POST", WRITE)).status == 200


async def test_a_certificate_that_is_not_trusted_is_told_with_the_remedy(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with Upstream(tls=authority.issue("workspace").context()) as workspace:
        for connections in (None, trusting(other)):
            async with proxied(workspace.url, connections=connections) as url:
                said = await message(url)
                assert said.startswith("The workspace's certificate is not trusted: ")
                assert "set connections.ca_file to a PEM file with the certificate of its CA" in said
                ready = await raw(url, "GET", "/-/readyz")
                assert (ready.status, ready.json()["reason"]) == (503, said)
        assert not workspace.seen


async def test_a_storage_that_is_not_trusted_is_named(authority: Authority) -> None:
    async with (
        Upstream(tls=authority.issue("storage").context()) as storage,
        of_workspace(None, storage) as workspace,
        proxied(workspace.url) as url,
    ):
        reply = await raw(url, "GET", DOWNLOAD)
        assert reply.status == 502
        assert reply.json()["message"].startswith("The workspace's storage's certificate is not trusted")


async def test_a_certificate_for_another_host_and_one_that_expired(authority: Authority) -> None:
    for pair, remedy in (
        (authority.issue("elsewhere", "elsewhere.test"), "must name the host that the certificate is for"),
        (authority.issue("old", lasts=datetime.timedelta(days=-1)), "it has to be renewed there"),
    ):
        async with (
            Upstream(tls=pair.context()) as workspace,
            proxied(workspace.url, connections=trusting(authority)) as url,
        ):
            said = await message(url)
            assert said.startswith("The workspace's certificate is not trusted: ")
            assert remedy in said


async def test_a_workspace_that_does_not_speak_tls() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, proxied(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as url:
        said = await message(url)
    assert said.startswith("The TLS handshake with the workspace failed: ")


# -- client certificates -----------------------------------------------------------------------------------


async def test_the_workspace_sees_the_client_certificate_and_storage_does_not(authority: Authority) -> None:
    server, client = authority.issue("workspace"), authority.issue("the-proxy")
    connections = ConnectionSettings(
        ca_file=str(authority.file), client_certificate=str(client.certificate), client_key=str(client.key)
    )
    asking = server.context(clients_of=authority.file, demanded=False)
    async with (
        Upstream(tls=asking) as storage,
        of_workspace(server.context(clients_of=authority.file), storage) as workspace,
        proxied(workspace.url, connections=connections) as url,
    ):
        assert (await raw(url, "GET", DOWNLOAD)).status == 200
        assert {who(inbound) for inbound in workspace.seen} == {"the-proxy"}
        assert [who(inbound) for inbound in storage.seen] == [None]


def refusing(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Shake hands as servers on OpenSSL do: asyncio's do not say why they refuse."""
    connection, _ = listening.accept()
    secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    with suppress(ssl.SSLError):
        secured.do_handshake()
    with socket.socket(fileno=secured.detach()) as plain:
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(4096):
            pass  # so that what was said is not lost by a reset


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_that_is_missing(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.issue("workspace").context(clients_of=authority.file)
    context.minimum_version = context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listening:
        workspace = asyncio.create_task(asyncio.to_thread(refusing, listening, context))
        origin = f"https://127.0.0.1:{listening.getsockname()[1]}"
        async with proxied(origin, connections=trusting(authority)) as url:
            said = await message(url)
        await workspace
    assert said.startswith("The workspace refused this proxy's TLS certificate, or wants one")
    assert "connections.client_certificate and connections.client_key" in said


# -- forward proxies ---------------------------------------------------------------------------------------


def by_way_of(
    monkeypatch: pytest.MonkeyPatch, forward: ForwardProxy, credentials: str = "", **more: str
) -> None:
    for variable in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(variable, f"http://{credentials and credentials + '@'}{forward.host}")
    for variable, value in more.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put credentials for every host where aiohttp would find them."""
    file = tmp_path / ".netrc"
    file.write_text(f"default login someone password {HUSH}\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("credentials", ["", f"user:{HUSH}%40"])
async def test_workspace_and_storage_are_reached_through_a_tunnel(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, credentials: str
) -> None:
    names = "workspace.test", "storage.test"
    context = authority.issue("both", *names).context()
    async with (
        ForwardProxy(credentials.replace("%40", "@")) as forward,
        Upstream(tls=context) as storage,
        of_workspace(context, storage) as workspace,
    ):
        storage.url = f"https://storage.test:{storage.port}"
        by_way_of(monkeypatch, forward, credentials)
        with capture_logs() as logs:
            async with proxied(
                f"https://workspace.test:{workspace.port}", connections=trusting(authority)
            ) as url:
                reply = await raw(url, "GET", DOWNLOAD)
                assert (reply.status, reply.body) == (200, b"{}")
                given = await raw(url, "POST", WRITE, [("Authorization", "Bearer mine")])
                assert given.status == 200
        assert set(forward.lines) == {
            f"CONNECT workspace.test:{workspace.port} HTTP/1.1",
            f"CONNECT storage.test:{storage.port} HTTP/1.1",
        }
        for inbound in (*workspace.seen, *storage.seen):
            assert not inbound.all("Proxy-Authorization")
        assert [inbound.all("Authorization") for inbound in workspace.seen] == [
            *([], []),  # where the file is, and its signature
            ["Bearer mine"],
        ]
        assert [inbound.all("Authorization") for inbound in storage.seen] == [[]]
        for _, fields in forward.requests:
            assert not [value for name, value in fields if name.lower() == "authorization"]
            assert ("proxy-authorization" in {name.lower() for name, _ in fields}) == bool(credentials), (
                "never from .netrc"
            )
    assert HUSH not in str(logs)
    assert f"http://{forward.host}" in [line.get("proxy") for line in logs]


@pytest.mark.usefixtures("netrc")
async def test_plain_http_goes_through_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy(f"user:{HUSH}") as forward, Upstream() as workspace:
        by_way_of(monkeypatch, forward, f"user:{HUSH}")
        origin = f"http://workspace.test:{workspace.port}"
        async with proxied(origin) as url:
            target = "/x%2Fy/./a+b?c=%41&c=d;e"
            reply = await raw(url, "GET", target)
            assert reply.status == 200
        assert forward.lines == [f"GET {origin}{target} HTTP/1.1"]
        assert workspace.seen[0].target == target
        assert not workspace.seen[0].all("Authorization")


@pytest.mark.parametrize(
    ("upstream", "no_proxy"), [("127.0.0.1", ""), ("localhost", ""), ("workspace.localhost", "*")]
)
async def test_what_is_on_this_machine_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, upstream: str, no_proxy: str
) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace:
        by_way_of(monkeypatch, forward, NO_PROXY=no_proxy)
        async with proxied(f"http://{upstream}:{workspace.port}") as url:
            await raw(url, "GET", "/x")
        assert not forward.requests


async def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy() as forward, Upstream() as workspace:
        by_way_of(monkeypatch, forward, NO_PROXY="other.test,.invalid")
        async with proxied(f"http://workspace.invalid:{workspace.port}") as url:
            said = await message(url)
        # Nobody else resolves it for us.
        assert said == (
            "The host name of the workspace, workspace.invalid, could not be resolved; it comes from the "
            "proxy's setting upstream: check it, and DNS on the proxy's machine."
        )
        assert not forward.requests


async def test_a_proxy_that_wants_credentials_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy("user:right") as forward:
        by_way_of(monkeypatch, forward, f"user:{HUSH}")
        async with proxied("https://workspace.test") as url:
            said = await message(url)
        assert said == (
            f"The workspace is behind the proxy http://{forward.host}, which refused the connection: 407."
        )


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy() as forward:
        by_way_of(monkeypatch, forward, f"user:{HUSH}")
    async with proxied("https://workspace.test") as url:
        said = await message(url)
    assert said.startswith(
        f"The workspace is behind the proxy http://{forward.host}, which could not be reached: "
    )
    assert "HTTPS_PROXY" in said


async def test_a_proxy_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForwardProxy(silent=True) as forward:
        by_way_of(monkeypatch, forward)
        async with proxied(
            "https://workspace.test", connections=ConnectionSettings(connect_timeout=0.05)
        ) as url:
            reply = await raw(url, "POST", WRITE)
        assert (reply.status, reply.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
        assert forward.requests


# -- bodies that the end of their connection ends ----------------------------------------------------------

READ = API + "registered-models/get?name=m"
LISTING = API + "model-versions/list-artifacts?name=m&version=1"
MODEL = b'{"registered_model": {"name": "m"}}'
UNFRAMED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
FRAMED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def ending(data: bytes, *, orderly: bool) -> Respond:
    """Say something and close the connection, with close_notify or with no more than FIN."""

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(data)
        if orderly:
            inbound.writer.close()
            return
        while inbound.writer.transport.get_write_buffer_size():
            await settle()
        inbound.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    return respond


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("head", [UNFRAMED, b"HTTP/1.0 200 OK\r\n\r\n"])
@pytest.mark.parametrize(
    ("target", "body"), [(READ, MODEL), (LISTING, b'{"root_uri": "dbfs:/m", "files": []}')]
)
async def test_an_answer_that_ends_without_close_notify_is_not_kept(
    authority: Authority, version: ssl.TLSVersion, head: bytes, target: str, body: bytes
) -> None:
    """RFC 9112 section 9.8: it is complete only if a valid closure alert was received."""
    context = authority.issue("workspace").context()
    context.minimum_version = context.maximum_version = version
    async with (
        Upstream(tls=context) as workspace,
        proxied(workspace.url, connections=trusting(authority)) as url,
    ):
        workspace.respond = ending(head + body, orderly=False)
        reply = await raw(url, "GET", target)
        assert reply.status == 503
        assert "broke off in the middle" in reply.json()["message"]
        workspace.respond = ending(head + body, orderly=True)
        reply = await raw(url, "GET", target)
        assert (reply.status, reply.body, reply.outcome) == (200, body, "fwd=miss; stored")
        assert (await raw(url, "GET", target)).outcome == "hit"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 8, 8 * 2**20])
async def test_a_streamed_body_is_complete_only_with_close_notify(
    authority: Authority, version: ssl.TLSVersion, size: int
) -> None:
    context = authority.issue("workspace").context()
    context.minimum_version = context.maximum_version = version
    body = b"x" * size
    async with (
        Upstream(tls=context) as workspace,
        proxied(workspace.url, connections=trusting(authority)) as url,
    ):
        workspace.respond = ending(UNFRAMED + body, orderly=True)
        reply = await raw(url, "POST", WRITE)
        assert (reply.status, reply.complete) == (200, True)
        assert reply.body.count(b"x") == size
        workspace.respond = ending(UNFRAMED + body, orderly=False)
        assert not (await raw(url, "POST", WRITE)).complete


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_file_is_complete_only_with_close_notify(authority: Authority, orderly: bool) -> None:
    context = authority.issue("both").context()
    async with (
        Upstream(ending(UNFRAMED + b"weights", orderly=orderly), tls=context) as storage,
        of_workspace(context, storage) as workspace,
        proxied(workspace.url, connections=trusting(authority)) as url,
    ):
        reply = await raw(url, "GET", DOWNLOAD)
        assert reply.complete is orderly


@pytest.mark.parametrize("orderly", [True, False])
async def test_it_is_told_through_a_tunnel_as_well(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, orderly: bool
) -> None:
    context = authority.issue("workspace", "workspace.test").context()
    async with (
        ForwardProxy() as forward,
        Upstream(ending(UNFRAMED + b"{}", orderly=orderly), tls=context) as workspace,
    ):
        by_way_of(monkeypatch, forward)
        async with proxied(
            f"https://workspace.test:{workspace.port}", connections=trusting(authority)
        ) as url:
            reply = await raw(url, "POST", WRITE)
        assert (reply.status, reply.complete) == (200, orderly)
        assert forward.requests


@pytest.mark.parametrize("body", [b"", MODEL])
async def test_a_body_of_known_length_needs_no_close_notify(authority: Authority, body: bytes) -> None:
    async with (
        Upstream(tls=authority.issue("workspace").context()) as workspace,
        proxied(workspace.url, connections=trusting(authority)) as url,
    ):
        workspace.respond = ending(FRAMED % len(body) + body, orderly=False)
        for method, target in (("POST", WRITE), ("GET", READ)):
            reply = await raw(url, method, target)
            assert (reply.status, reply.body, reply.complete) == (200, body, True)


async def test_without_tls_the_end_of_the_connection_is_all_that_is_said() -> None:
    async with Upstream(ending(UNFRAMED + MODEL, orderly=True)) as workspace, proxied(workspace.url) as url:
        assert (await raw(url, "GET", READ)).body == MODEL
        assert (await raw(url, "GET", READ)).outcome == "hit"
