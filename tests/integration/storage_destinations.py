"""A network whose names lead where a test says, and a workspace that names any place for a file."""

import json
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.support import SIGN, Inbound, RawReply, Upstream, with_files

DOWNLOAD = "/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/m/1/MLmodel"
FILE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile"
SIGNATURE = "s3cr3t"


@dataclass
class Network:
    """Names lead where a test says, and every address leads to this machine once it is allowed."""

    names: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Addresses that were connected to, but for this machine's own as the tests' clients use them."""
    ports: dict[int, int] = field(default_factory=dict)
    """Where other ports than the one asked for answer."""


def pretended(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Let this process take it for the network until the test ends."""
    network = Network({"workspace.test": ["10.0.0.1"]})
    resolve, connect = socket.getaddrinfo, BaseSelectorEventLoop.sock_connect

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Sequence[Any]:
        if host not in network.names:
            return resolve(host, port, *rest, **more)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in network.names[host]
        ]

    async def sock_connect(loop: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
        network.asked.append((address[0], address[1]))
        await connect(loop, sock, ("127.0.0.1", network.ports.get(address[1], address[1])))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", sock_connect)
    return network


def naming(workspace: Upstream, url: object, headers: Sequence[Mapping[str, object]] = ()) -> None:
    """Let a workspace name a place for every file."""
    body = json.dumps({"signed_uri": url, "headers": list(headers)}).encode()

    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    workspace.respond = with_files(respond, "MLmodel")


def signings(workspace: Upstream) -> int:
    return sum(SIGN in inbound.target for inbound in workspace.seen)


def stored(storage: Upstream) -> None:
    async def respond(inbound: Inbound) -> None:
        inbound.received = await inbound.body()
        await inbound.send(FILE)

    storage.respond = respond


def refused(reply: RawReply) -> str:
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")
    message: str = reply.json()["message"]
    assert message.startswith("The place that the workspace names for this file was not asked: ")
    assert SIGNATURE not in message
    return message
