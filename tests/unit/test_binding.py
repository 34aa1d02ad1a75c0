"""Which sockets listen where ``host`` and ``port`` say."""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.listener.binding import listen

Addresses = list[tuple[str, int]]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def closed(sockets: Sequence[socket.socket]) -> Iterator[Addresses]:
    with ExitStack() as stack:
        for each in sockets:
            stack.enter_context(each)
        yield [each.getsockname()[:2] for each in sockets]


def reached(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port)):
            return True
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.3", "127.0.0.2"], ["127.0.0.3", "127.0.0.2"]),
        (["127.0.0.1", "127.1", "127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.1", "0.0.0.0", "127.0.0.2"], ["0.0.0.0"]),
        pytest.param(["[::1]"], ["::1"], marks=ipv6),
        pytest.param(["127.0.0.1", "::1"], ["127.0.0.1", "::1"], marks=ipv6),
        pytest.param(["0.0.0.0", "::", "::1"], ["0.0.0.0", "::"], marks=ipv6),
    ],
)
async def test_several_addresses_have_one_port(hosts: list[str], addresses: list[str]) -> None:
    with closed(await listen(hosts, 0)) as found:
        assert [host for host, _ in found] == addresses
        assert len({port for _, port in found}) == 1
        assert found[0][1] > 0


@ipv6
async def test_every_interface_by_ipv6_is_not_every_interface() -> None:
    with closed(await listen(["::"], 0)) as [(_, port)]:
        assert reached("::1", port)
        assert not reached("127.0.0.1", port)
    with closed(await listen(["0.0.0.0", "::"], 0)) as [(_, port), _]:
        assert reached("::1", port)
        assert reached("127.0.0.1", port)


async def test_a_name_is_all_its_addresses() -> None:
    known = {each[4][0] for each in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    with closed(await listen(["localhost"], 0)) as found:
        assert {host for host, _ in found} == {each for each in known if each != "::1" or has_ipv6()}


async def test_a_port_that_is_taken_elsewhere_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are free on the first address, the first is taken on the second one."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        bind = socket.socket.bind

        def bind_first(self: socket.socket, address: tuple[str, int]) -> None:
            host, port = address
            bind(self, (host, port or next(ports, 0)))

        monkeypatch.setattr(socket.socket, "bind", bind_first)
        with closed(await listen(["127.0.0.1", "127.0.0.2"], 0)) as [(_, port), (_, other)]:
            assert port == other != taken.getsockname()[1]


@pytest.mark.parametrize("hosts", [["192.0.2.1"], ["127.0.0.1", "192.0.2.1"], ["192.0.2.1", "localhost"]])
async def test_an_address_that_this_machine_does_not_have_is_named(hosts: list[str]) -> None:
    told = r"^admin\.host: cannot listen on 192\.0\.2\.1: [^;]+; choose another --admin\.host$"
    with pytest.raises(InvalidSettingsError, match=told):
        await listen(hosts, 0, "admin.")


async def test_one_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        told = f"port: {port} is already in use on 127.0.0.2; choose another --port"
        with pytest.raises(InvalidSettingsError, match=f"^{re.escape(told)}$"):
            await listen(["127.0.0.1", "127.0.0.2"], port)
        assert not reached("127.0.0.1", port), "what was had is given back"
